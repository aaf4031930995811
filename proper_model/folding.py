"""Folding a user's mixture and private LoRA into one LoRA per linear (METHOD 1.7, rule 6).

With routing that depends on the user alone (preset `device`) the mixture is N numbers, so

    s * sum_n w_n B_n A_n + s * B_u A_u  =  s * [sqrt(w_1) B_1 ... B_u] [sqrt(w_1) A_1; ...; A_u],

exactly, with rank (N + 1) r. Routing that reads tokens cannot be folded and is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proper_model.errors import ConfigError
from proper_model.experts import Experts
from proper_model.model import AdaptedModel
from proper_model.routers import merge, user_logits
from proper_model.structure import RouterMerge


def mixture(model: AdaptedModel, embedding: Tensor) -> Tensor:
    """One user's routing weights at every site: embedding [tables, e] -> [S, N].

    Raises ConfigError if the preset routes by token.
    """
    if not model.structure.foldable:
        raise ConfigError(
            f"preset '{model.structure.name}' routes by token, so a user's mixture is not constant "
            "and cannot be folded",
            hint="use preset 'device'",
        )
    rows = []
    for number, site in enumerate(model.sites):
        table = 0 if model.tables == 1 else site.layer
        weight = model.tied_user if model.tied_user is not None else model.router(number).user
        assert weight is not None
        logits = user_logits(weight, embedding[None, table])
        rows.append(merge(None, logits, RouterMerge.SUM)[0])
    return torch.stack(rows)


@torch.no_grad()
def fold_user(
    model: AdaptedModel, embedding: Tensor, slot: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site path, factors (A [(N+1)r, d_in], B [d_out, (N+1)r]) of the user in `slot`.

    The linear's update is `structure.scale * B A`.
    """
    folded = {}
    for number, (site, weights) in enumerate(
        zip(model.sites, mixture(model, embedding), strict=True)
    ):
        experts = model.experts[number]
        assert isinstance(experts, Experts)
        root = weights.sqrt()[:, None, None]
        a = torch.cat([(root * experts.a).flatten(0, 1), model.lora.a[number][slot]])
        b = torch.cat(
            [(root * experts.b).permute(1, 0, 2).flatten(1), model.lora.b[number][slot]], dim=1
        )
        folded[site.path] = (a, b)
    return folded
