"""Causal attention over packed rows, as an attention function of Hugging Face's own interface.

While `packed_attention(base)` is open, a base called with `layout=...` keeps its rows apart: a
token sees the tokens of its own row up to itself. The base's code stays as it is; position ids
carry each token's place in its row.

On a CPU, one hand-written function serves all groups: it keeps the probabilities and no mask, and
its softmax gradient needs one pass where autograd makes several. On CUDA one flash kernel serves all
rows in half precision, and PyTorch's fused kernels a group at a time otherwise.

Letters: M tokens, H heads, G query heads a key head, R rows of a group, T their length, h head width.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.errors import BaseModelError
from proper_model.kernels.layout import Group, Layout
from proper_model.kernels.transformers_parts import ALL_ATTENTION_FUNCTIONS

NAME = "proper_packed"


@contextmanager
def packed_attention(base: Any) -> Iterator[None]:
    """Attend within rows while open; the base must then be called with `layout=`."""
    config = base.config
    before = config._attn_implementation  # noqa: SLF001 - no public name exists
    config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        config._attn_implementation = before  # noqa: SLF001


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query [1, H, M, h], key and value [1, H/G, M, h] -> [1, M, H, h], and no weights.

    A base's own attention dropout is left out: a frozen base is never trained.

    Raises BaseModelError for an attention this function does not compute.
    """
    if layout is None:
        raise BaseModelError(
            f"'{type(module).__name__}' is not told which token belongs to which row: the base does "
            "not hand keyword arguments on to its attention",
            hint="use a dense Llama, Qwen, Mistral or Gemma base",
        )
    if attention_mask is not None or s_aux is not None:
        raise BaseModelError(
            f"'{type(module).__name__}' attends with a mask or sinks of its own, which packed rows "
            "do not support",
            hint="use a dense Llama, Qwen, Mistral or Gemma base",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast only the values come narrow: rotation leaves queries and keys in float32.
    q, k, v = query[0].to(value.dtype), key[0].to(value.dtype), value[0]
    if sliding_window is not None and sliding_window >= layout.longest:
        sliding_window = None
    # All have one dtype now; autocast would widen some of what is computed from them.
    with torch.autocast(q.device.type, enabled=False):
        return _quickest(q, k, v, scale, layout, softcap, sliding_window)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def _quickest(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    layout: Layout,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """The implementation for this device, dtype and kind of attention; -> [M, H, h]."""
    if softcap is not None or window is not None:

        def literal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            return _literal(q, k, v, scale, softcap, window)

        return _by_group(literal, q, k, v, scale, layout)
    if q.device.type == "cpu":
        causal: Tensor = _Causal.apply(q, k, v, scale, layout)  # type: ignore[no-untyped-call]
        return causal
    if q.dtype in (torch.bfloat16, torch.float16):
        return _varlen(q, k, v, scale, layout)
    return _by_group(_fused, q, k, v, scale, layout)


def _by_group(
    function: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Layout
) -> Tensor:
    """`function` on [R, H, T, h] of each group; -> [M, H, h]."""
    parts = []
    for group in layout.groups:
        inner = [
            x[:, group.tokens].unflatten(1, (group.rows, group.length)).transpose(0, 1)
            for x in (q, k, v)
        ]
        parts.append(function(*inner, scale).transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _varlen(q: Tensor, k: Tensor, v: Tensor, scale: float, layout: Layout) -> Tensor:
    """Flash attention over rows of any lengths in one launch; -> [M, H, h]."""
    from torch.nn.attention.varlen import varlen_attn

    shared = len(q) // len(k)
    if shared > 1 and not _takes(varlen_attn, "enable_gqa"):
        k, v = (x.repeat_interleave(shared, dim=0) for x in (k, v))
    bounds = layout.bounds()
    options: dict[str, Any] = {
        "query": q.transpose(0, 1),
        "key": k.transpose(0, 1),
        "value": v.transpose(0, 1),
        "cu_seq_q": bounds,
        "cu_seq_k": bounds,
        "max_q": layout.longest,
        "max_k": layout.longest,
        "scale": scale,
        **_causal_argument(varlen_attn),
    }
    if len(q) != len(k):
        options["enable_gqa"] = True
    out: Any = varlen_attn(**options)
    return torch.as_tensor(out)


def _causal_argument(function: Any) -> dict[str, Any]:
    """How this PyTorch's varlen attention is made causal; the argument's name has changed."""
    return {"window_size": (-1, 0)} if _takes(function, "window_size") else {"is_causal": True}


@functools.cache
def _takes(function: Any, argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _literal(
    q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, window: int | None
) -> Tensor:
    """softmax(cap(q k^T s) + mask) v, the equation itself: for capped or windowed attention."""
    shared = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    scores = torch.einsum("rhqd,rhkd->rhqk", q, k) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    place = torch.arange(q.shape[2], device=q.device)
    back = place[:, None] - place  # how far the key lies behind the query
    hidden = (back < 0) if window is None else (back < 0) | (back >= window)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("rhqk,rhkd->rhqd", weights, v)


class _Causal(torch.autograd.Function):
    """softmax(s q k^T + causal) v for all groups: q [H, M, h], k and v [H/G, M, h] -> [M, H, h]."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,  # noqa: ANN001
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        layout: Layout,
    ) -> Tensor:
        heads, _, width = q.shape
        out = q.new_empty(q.shape[1], heads, width)
        saved = []
        for group in layout.groups:
            queries, keys, values = (_stacked(x, len(k), group) for x in (q, k, v))
            hidden = _above_diagonal(group.length, heads // len(k), q)  # [G*T, T]
            weights = torch.baddbmm(hidden, queries, keys.transpose(1, 2), alpha=scale).softmax(-1)
            _unstack(torch.bmm(weights, values), group, out)
            saved += [queries, keys, values, weights]
        ctx.save_for_backward(*saved)
        ctx.scale, ctx.layout, ctx.shapes = scale, layout, (q.shape, k.shape)
        return out

    @staticmethod
    def backward(ctx, d_out: Tensor):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        shape, key_shape = ctx.shapes
        made = [d_out.new_empty(s[1], s[0], s[2]) for s in (shape, key_shape, key_shape)]
        saved = iter(ctx.saved_tensors)  # read once: under checkpointing a second read raises
        for group in ctx.layout.groups:
            q, k, v, weights = (next(saved) for _ in range(4))
            d = _stacked(d_out.transpose(0, 1), key_shape[0], group)
            d_weights = torch.bmm(d, v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(  # noqa: SLF001 - one pass over [T, T]
                d_weights, weights, -1, weights.dtype
            )
            for total, part in zip(
                made,
                (
                    torch.bmm(d_scores, k).mul_(ctx.scale),
                    torch.bmm(d_scores.transpose(1, 2), q).mul_(ctx.scale),
                    torch.bmm(weights.transpose(1, 2), d),
                ),
                strict=True,
            ):
                _unstack(part, group, total)
        dq, dk, dv = (total.transpose(0, 1) for total in made)
        return dq, dk, dv, None, None


def _stacked(x: Tensor, key_heads: int, group: Group) -> Tensor:
    """A group of [H, M, h] as [R*Hk, G*T, h]: the queries that share a key head stand together."""
    heads, _, width = x.shape
    parts = x[:, group.tokens].reshape(
        key_heads, heads // key_heads, group.rows, group.length, width
    )
    return parts.permute(2, 0, 1, 3, 4).reshape(group.rows * key_heads, -1, width)


def _unstack(x: Tensor, group: Group, out: Tensor) -> None:
    """Write [R*Hk, G*T, h] to its tokens of out [M, H, h]: the inverse of `_stacked`."""
    heads, width = out.shape[1:]
    parts = x.view(group.rows, heads, group.length, width)
    out[group.tokens].view(group.rows, group.length, heads, width).copy_(parts.transpose(1, 2))


def _above_diagonal(length: int, shared: int, like: Tensor) -> Tensor:
    """-inf where the key lies after the query, else 0: [G*T, T]."""
    hidden = like.new_full((length, length), float("-inf")).triu(1)
    return hidden.repeat(shared, 1)
