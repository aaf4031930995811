"""Routing: how much of each expert a token of a user gets.

    user-aware router   w = softmax(W_t x + W_e e_u)      PROPER eq. 8, or the mean of two softmaxes
    preset `released`   w = softmax(softmax(W_t x) + softmax(W_e e_u))       docs/method.md 1.10
    LoRA-aware router   w = softmax(W_l B_u A_u x)        eq. 12
    default preset      w = softmax(W_t x + W_e e_u + W_l B_u A_u x)

In the preset `default`, stage 3 starts with `B_u = 0` exactly where stage 2 ended. `B_u A_u x` is
never formed: `W_l (B_u A_u x) = (W_l B_u)(A_u x)`, an [N, r] matrix a user. Logits and softmax are
float32 (or wider) whatever the model computes in.

Letters: M tokens, R rows, Q routed vectors (one a token, or one a row where nothing depends on the
token), K other users, N experts, r rank, i input width, o output width, e width of the user
embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proper_model.kernels import rows
from proper_model.kernels.adapted import normalize
from proper_model.kernels.layout import Layout, routing_dtype
from proper_model.kernels.ops import Backend
from proper_model.model.adapters import Adapters
from proper_model.model.passes import Pass
from proper_model.settings.presets import RouterMerge, RouterText, UserRouting


def text_logits(weight: Tensor, x: Tensor) -> Tensor:
    """`W_t x` (eq. 8): weight [N, i], x [..., i] -> [..., N], in routing precision."""
    dtype = routing_dtype(x)
    return x.to(dtype) @ weight.to(dtype).T  # einsum("...i,ni->...n")


def user_logits(weight: Tensor, embedding: Tensor) -> Tensor:
    """`W_e e_u` (eq. 8): weight [N, e], embedding [R, e] -> [R, N]."""
    return torch.einsum("re,ne->rn", embedding, weight.to(embedding.dtype))


def lora_logits(
    weight: Tensor,
    user_low: Tensor,
    user_b: Tensor,
    layout: Layout,
    backend: Backend = Backend.FUSED,
) -> Tensor:
    """`W_l B_u A_u x` (eq. 12): [M, N].

    Args:
        weight: W_l [N, o], or every row's own [R, N, o].
        user_low: A_u x [M, r].
        user_b: every row's B_u [R, o, r].
        backend: the reference can be differentiated twice.
    """
    dtype = routing_dtype(user_low)
    through = through_lora(weight, user_b, dtype)
    # einsum("mr,mnr->mn"), with W_l B_u of each token's row
    if backend is Backend.REFERENCE:
        return torch.einsum("mr,mnr->mn", user_low.to(dtype), through[layout.rows])
    return rows.product(user_low.to(dtype), through.transpose(1, 2), layout)


def through_lora(weight: Tensor, user_b: Tensor, dtype: torch.dtype) -> Tensor:
    """W_l B_u of every row [R, N, r], from W_l [N, o] or [R, N, o] and B_u [R, o, r]."""
    own = "g" if weight.dim() == 3 else ""
    return torch.einsum(f"{own}no,gor->gnr", weight.to(dtype), user_b.to(dtype))


def merge(text: Tensor | None, user: Tensor, how: RouterMerge) -> Tensor:
    """Routing weights from text logits (or none) and user logits, both [..., N] (eq. 8)."""
    if text is None:
        return normalize(user)
    if how is RouterMerge.SUM:
        return normalize(text + user)
    both = normalize(text) + normalize(user)
    return both / 2 if how is RouterMerge.AVERAGE else normalize(both)


def text_weight(adapters: Adapters, number: int, now: Pass, x: Tensor) -> Tensor | None:
    """W_t [N, i] in routing precision where every token's own text routes it, else None."""
    if not now.experts or (weight := adapters.router(number).text) is None:
        return None
    if now.lora and now.routing is UserRouting.LORA_AWARE:
        return None  # eq. 12 reads the adapter's output only
    if adapters.structure.router_text is not RouterText.TOKEN:
        return None
    return weight.to(routing_dtype(x))


def is_one_sum(adapters: Adapters, now: Pass) -> bool:
    """True where a token's logits are a sum of its text's, its user's and its LoRA's, and nobody looks."""
    if now.observer is not None:
        return False
    if now.lora and now.routing is UserRouting.LORA_AWARE:
        return True  # eq. 12: one term only
    structure = adapters.structure
    return (
        structure.router_merge is RouterMerge.SUM and structure.router_text is not RouterText.POOLED
    )


def terms_of_rows(
    adapters: Adapters,
    number: int,
    now: Pass,
    x: Tensor,
    user_b: Tensor | None,
    user_w: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """What `is_one_sum` adds to a token's text logits: W_l B_u [R, N, r] and W_e e_u [R, N], or None."""
    own = now.lora and now.routing is not UserRouting.USER_AWARE
    through = None
    if own:
        assert user_b is not None
        weight = _lora_weight(adapters, number, user_w)
        through = through_lora(weight, user_b, routing_dtype(x))
    if own and now.routing is UserRouting.LORA_AWARE:
        return through, None
    return through, _user_logits(adapters, number, now, now.slots, x)


def route(
    adapters: Adapters,
    number: int,
    now: Pass,
    layout: Layout,
    x: Tensor,
    text: Tensor | None,
    user_low: Tensor | None,
    user_b: Tensor | None,
    user_w: Tensor | None = None,
) -> Tensor:
    """Routing weights [M, N] of site `number`.

    Args:
        x: [M, i], read by the `pooled` text router only.
        text: W_t x [M, N] where the text router reads tokens.
        user_low, user_b: A_u x [M, r] and every row's B_u [R, o, r], with user LoRAs.
        user_w: every row's own W_l [R, N, o], where users have one.
    """
    own = None  # W_l B_u A_u x, [M, N]
    if user_low is not None and now.routing is not UserRouting.USER_AWARE:
        own = _own_logits(adapters, number, layout, user_low, user_b, user_w)
    only_own = own is not None and now.routing is UserRouting.LORA_AWARE
    if text is None and not only_own:
        text = _pooled_text_logits(adapters, number, now, layout, x)  # [R, N] or None
        if text is not None and own is not None:
            text = text[layout.rows]
    by_token = own is not None or (text is not None and len(text) == len(x))
    # Every routed vector's row; a row that routes as a whole has one. [Q]
    row_of = layout.rows if by_token else torch.arange(len(layout.lengths), device=x.device)
    how = adapters.structure.router_merge
    if only_own:
        assert own is not None
        weights = normalize(own)  # eq. 12
    else:
        user = _user_logits(adapters, number, now, now.slots, x)[row_of]  # [Q, N]
        weights = merge(text, user if own is None else user + own, how)  # eq. 8, with own or not
    if now.observer is not None:

        def others(slots: Tensor) -> Tensor:
            """Weights at the same x for other users: slots [R, K] -> [K, Q, N]."""
            drawn = [_user_logits(adapters, number, now, column, x)[row_of] for column in slots.T]
            return merge(text, torch.stack(drawn), how)

        now.observer(number, weights, row_of, others)
    return weights if by_token else weights[layout.rows]


def _own_logits(
    adapters: Adapters,
    number: int,
    layout: Layout,
    user_low: Tensor,
    user_b: Tensor | None,
    user_w: Tensor | None,
) -> Tensor:
    assert user_b is not None
    weight = _lora_weight(adapters, number, user_w)
    own = lora_logits(weight, user_low, user_b, layout, adapters.backend)
    return own.detach() if adapters.structure.detach_lora_router else own


def _lora_weight(adapters: Adapters, number: int, user_w: Tensor | None) -> Tensor:
    weight = adapters.router(number).lora if user_w is None else user_w
    assert weight is not None
    return weight


def _pooled_text_logits(
    adapters: Adapters, number: int, now: Pass, layout: Layout, x: Tensor
) -> Tensor | None:
    """Logits of every row's mean prompt input, [R, N]; decoding steps reuse the prompt's."""
    weight = adapters.router(number).text
    if weight is None or adapters.structure.router_text is RouterText.NONE:
        return None
    if number not in now.pooled or layout.longest > 1:
        assert now.prompt_mask is not None
        share = now.prompt_mask.reshape(-1).to(x.dtype)  # [M]
        counts = x.new_zeros(len(layout.lengths)).index_add(0, layout.rows, share)
        sums = x.new_zeros(len(layout.lengths), x.shape[1])
        now.pooled[number] = sums.index_add(0, layout.rows, x * share[:, None]) / counts[:, None]
    return text_logits(weight, now.pooled[number])


def _user_logits(adapters: Adapters, number: int, now: Pass, slots: Tensor, x: Tensor) -> Tensor:
    """W_e e_u for the users in `slots [R]`: [R, N]."""
    structure = adapters.structure
    if not structure.router_user:
        return x.new_zeros(len(slots), structure.experts, dtype=routing_dtype(x))
    assert now.embeddings is not None
    table, columns = adapters.table(number), adapters.columns(number)
    embedding = now.embeddings[slots, table, columns].to(routing_dtype(x))  # [R, e]
    return user_logits(adapters.user_weight(number), embedding)
