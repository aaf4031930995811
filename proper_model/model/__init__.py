"""The adapted model: experts, routers, user LoRAs and the loss over them (PROPER eq. 3-13)."""

from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.load_user import private_tensor, stack_adapters
from proper_model.model.mixture import ALONE, MakePass, Mixture
from proper_model.model.passes import Pass, base_pass, group_pass, personal_pass
from proper_model.model.user_lora import GivenLora, UserLora

__all__ = [
    "ALONE", "AdaptedModel", "GivenLora", "MakePass", "Mixture", "Pass", "UserLora", "base_pass",
    "group_pass", "personal_pass", "private_tensor", "stack_adapters",
]
