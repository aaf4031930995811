"""Text to tokens and back, so that no text of a person controls the model."""

from proper_model.text.conversation import Message, Role, in_order
from proper_model.text.encoding import Encoder
from proper_model.text.tokenizer_check import label_warnings, text_warnings

__all__ = ["Encoder", "Message", "Role", "in_order", "label_warnings", "text_warnings"]
