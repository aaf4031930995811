"""Routing at one site of the current pass: which parts of the structure make the weights.

Letters: M tokens, B rows, R routed vectors (one a token, or one a row where nothing depends on the
token), N experts, r rank, i input width, o output width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proper_model.kernels.layout import Layout, routing_dtype
from proper_model.model.routers import lora_logits, merge, normalize, text_logits, user_logits
from proper_model.settings.presets import RouterText, UserRouting

if TYPE_CHECKING:
    from proper_model.model.adapted_model import AdaptedModel


def text_weight(model: AdaptedModel, number: int, x: Tensor) -> Tensor | None:
    """W_t [N, i] in routing precision where every token's own text routes it, else None."""
    now = model.current
    weight = model.router(number).text
    if now is None or not now.experts or weight is None:
        return None
    if now.lora and now.routing is UserRouting.LORA_AWARE:
        return None  # eq. 12 reads the adapter's output only
    if model.structure.router_text is not RouterText.TOKEN:
        return None
    return weight.to(routing_dtype(x))


def route(
    model: AdaptedModel,
    number: int,
    layout: Layout,
    x: Tensor,
    text: Tensor | None,
    hidden: Tensor | None,
    user_b: Tensor | None,
) -> Tensor:
    """Routing weights [M, N] of site `number`.

    Args:
        x: [M, i], read by the `pooled` text router only.
        text: W_t x [M, N] where the text router reads tokens.
        hidden, user_b: A_u x [M, r] and every row's B_u [B, o, r], with user LoRAs.
    """
    now = model.current
    assert now is not None
    own = None
    if hidden is not None and now.routing is not UserRouting.USER_AWARE:
        own = _lora_logits(model, number, layout, hidden, user_b)
    only_lora = own is not None and now.routing is UserRouting.LORA_AWARE
    if text is None and not only_lora:
        text = _pooled_text_logits(model, number, layout, x)  # [B, N] or None
        if text is not None and own is not None:
            text = text[layout.rows]
    by_token = own is not None or (text is not None and len(text) == len(x))
    # Every routed vector's row; a row that routes as a whole has one.
    rows = layout.rows if by_token else torch.arange(len(layout.lengths), device=x.device)
    if only_lora:
        assert own is not None
        weights = normalize(own)
    else:
        user = _user_logits(model, number, now.slots, x)[rows]
        weights = merge(text, user if own is None else user + own, model.structure.router_merge)
    if now.observer is not None:

        def others(slots: Tensor) -> Tensor:
            """Weights at the same x for other users: slots [B, K] -> [K, R, N]."""
            drawn = torch.stack(
                [_user_logits(model, number, column, x)[rows] for column in slots.T]
            )
            return merge(text, drawn, model.structure.router_merge)

        now.observer(number, weights, rows, others)
    return weights if by_token else weights[layout.rows]


def _lora_logits(
    model: AdaptedModel, number: int, layout: Layout, hidden: Tensor, user_b: Tensor | None
) -> Tensor:
    weight = model.router(number).lora
    assert weight is not None
    assert user_b is not None
    own = lora_logits(weight, hidden, user_b, layout)
    return own.detach() if model.structure.detach_lora_router else own


def _pooled_text_logits(
    model: AdaptedModel, number: int, layout: Layout, x: Tensor
) -> Tensor | None:
    """Logits of every row's mean prompt input, [B, N]; decoding steps reuse the prompt's."""
    weight, now = model.router(number).text, model.current
    if weight is None or model.structure.router_text is RouterText.NONE:
        return None
    assert now is not None
    if number not in now.pooled or layout.longest > 1:
        assert now.prompt_mask is not None
        share = now.prompt_mask.reshape(-1).to(x.dtype)  # [M]
        counts = x.new_zeros(len(layout.lengths)).index_add(0, layout.rows, share)
        sums = x.new_zeros(len(layout.lengths), x.shape[1])
        now.pooled[number] = sums.index_add(0, layout.rows, x * share[:, None]) / counts[:, None]
    return text_logits(weight, now.pooled[number])


def _user_logits(model: AdaptedModel, number: int, slots: Tensor, x: Tensor) -> Tensor:
    """W_e e_u for the users in `slots [B]`: [B, N]."""
    if not model.structure.router_user:
        return x.new_zeros(len(slots), model.structure.experts, dtype=routing_dtype(x))
    now = model.current
    assert now is not None
    assert now.embeddings is not None
    table = 0 if model.tables == 1 else model.sites[number].layer
    embedding = now.embeddings[slots, table].to(routing_dtype(x))  # [B, e]
    weight = model.tied_user if model.tied_user is not None else model.router(number).user
    assert weight is not None
    return user_logits(weight, embedding)
