"""Text to tokens and back, so that no text of a person controls the model."""

from proper_model.text.conversation import ChatMessage, Role, in_order
from proper_model.text.encoding import Encoder
from proper_model.text.tokenizer_check import label_warnings, text_warnings, unknown_tokens

__all__ = [
    "Encoder", "ChatMessage", "Role", "in_order", "label_warnings", "text_warnings", "unknown_tokens",
]
