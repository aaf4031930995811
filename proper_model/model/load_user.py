"""A user's private tensors by name, and how they go into a model.

`embedding` is `[tables, e]`; `lora.<site path>.A` is `[r, d_in]` and `.B` `[d_out, r]` (PROPER
eq. 8 and 11). Where users have a LoRA-aware router of their own, it is `.W` `[N, d_out]` (eq. 12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proper_model.errors import StateError
from proper_model.model.adapted_model import AdaptedModel


def private_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """One tensor of a state. Raises StateError if the state does not hold it."""
    if name not in tensors:
        raise StateError(
            f"a user has no private state with '{name}'",
            hint="run the personalization round before evaluating this arm",
        )
    return tensors[name]


@torch.no_grad()
def stack_adapters(
    model: AdaptedModel, users: Sequence[Mapping[str, Tensor]], *, experts: bool = True
) -> None:
    """Stack users' LoRA factors into `model.lora`, slot = position in `users`.

    `experts`: for passes with experts, which a router of the users' own may weight.

    Raises StateError if a factor is missing or does not fit the model.
    """
    lora = model.new_user_lora([0] * len(users), experts=experts)
    for number, site in enumerate(model.sites):
        for u, tensors in enumerate(users):
            for factor, stacks in lora.factors().items():
                stack = stacks[number]
                tensor = private_tensor(tensors, f"lora.{site.path}.{factor}")
                if tensor.shape != stack[u].shape:
                    raise StateError(
                        f"private state: '{site.path}.{factor}' has shape {tuple(tensor.shape)}, "
                        f"this release expects {tuple(stack[u].shape)}",
                        hint="the adapter was made for another release; adapt again",
                    )
                stack[u] = tensor.to(stack)
    lora.requires_grad_(False)
    model.lora = lora
