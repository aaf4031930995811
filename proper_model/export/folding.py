"""Folding a user's mixture and private LoRA into one LoRA per linear (docs/method.md 1.7, rule 6).

With routing that depends on the user alone (preset `device`) the mixture is N numbers, so

    s * sum_n w_n B_n A_n + s * B_u A_u  =  s * [sqrt(w_1) B_1 ... B_u] [sqrt(w_1) A_1; ...; A_u],

exactly, with rank (N + 1) r. Routing that reads tokens cannot be folded and is refused, unless
the caller brings weights to fold instead.

Letters: S sites, N experts, r rank, e embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proper_model.errors import ConfigError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.routing import merge, user_logits
from proper_model.settings.presets import RouterMerge


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


def fold_user(
    model: AdaptedModel, embedding: Tensor, slot: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site path, factors (A [(N+1)r, d_in], B [d_out, (N+1)r]) of the user in `slot`.

    The linear's update is `structure.scale * B A`. Computed in the wider of the embedding's dtype
    and the model's.
    """
    return fold_mixture(model, mixture(model, embedding), slot)


@torch.no_grad()
def fold_mixture(
    model: AdaptedModel, weights: Tensor, slot: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """`fold_user` with given routing weights [S, N], not negative."""
    folded = {}
    for number, (site, own) in enumerate(zip(model.sites, weights, strict=True)):
        experts = model.expert(number)
        root = own.sqrt()[:, None, None]
        a = torch.cat([(root * experts.a).flatten(0, 1), model.lora.a[number][slot]])
        b = torch.cat(
            [(root * experts.b).permute(1, 0, 2).flatten(1), model.lora.b[number][slot]], dim=1
        )
        folded[site.path] = (a, b)
    return folded
