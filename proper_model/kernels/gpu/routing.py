"""Routing of one linear on a GPU: a launch forward and one backward, on a few numbers a token.

    u = low_u / kept                                       A_u x                      (PROPER eq. 11)
    w = softmax(W_t x + W_e e_u + (W_l B_u) u)             `model.routing`, merged by sum  (eq. 8, 12)
    c = [ s' w_n low_e,n  |  s u ]                         what `low_rank.scatter` multiplies with

with s' = s * expert factor / kept. What is absent is left out: logits of the text, of the user's
embedding, of the private LoRA.

Letters: M tokens, R rows, S parts of a sum, N experts, r rank, E = N r.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from proper_model.kernels.adapted import Scales
from proper_model.kernels.gpu.low_rank import low_width
from proper_model.kernels.gpu.tiles import TOKENS, piece_of, pieces, power
from proper_model.kernels.layout import Layout


@dataclass(frozen=True)
class Sizes:
    """Of one linear: N experts, their rank, the rank of private LoRAs; 0 for what is absent.

    `text` is how many columns there are for logits of the text: N, or 2 N in two halves to be added.
    """

    experts: int
    rank: int
    own: int
    text: int

    @property
    def low(self) -> int:
        """E + r: numbers a token in low rank."""
        return self.experts * self.rank + self.own


def route(
    parts: Tensor,
    through: Tensor | None,
    user: Tensor | None,
    layout: Layout,
    sizes: Sizes,
    scales: Scales,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """From `gather`'s parts [S, M, E + r + text] to c [M, L], and [low_e | u | w] in float32.

    Args:
        through: W_l B_u of every row [R, N, r] float32, or None.
        user: W_e e_u of every row [R, N] float32, or None.
        dtype: of c.
    """
    where = pieces(layout)
    count, tokens = where.shape[1], parts.shape[1]
    c = parts.new_empty(tokens, low_width(sizes.experts * sizes.rank, sizes.own), dtype=dtype)
    saved = parts.new_empty(tokens, sizes.low + sizes.experts)
    _route[(count,)](
        parts, parts if through is None else through, parts if user is None else user, c, saved,
        where, count, tokens, parts.shape[2], scales.own, scales.experts, scales.kept,
        len(parts), *_shape(sizes), sizes.text, through is not None, user is not None, TOKENS,
    )  # fmt: skip
    return c, saved


def route_back(
    parts: Tensor,
    saved: Tensor,
    through: Tensor | None,
    layout: Layout,
    sizes: Sizes,
    scales: Scales,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """From parts [S, M, E + r] of the gradient of c to d_low [M, L], d_logits [M, K] and [M, N].

    The last in float32. `through` is None where nothing is to flow back through the LoRA-aware
    router.
    """
    where = pieces(layout)
    count, tokens = where.shape[1], parts.shape[1]
    d = parts.new_empty(tokens, low_width(sizes.experts * sizes.rank, sizes.own), dtype=dtype)
    narrow = parts.new_empty(tokens, power(max(1, sizes.text)), dtype=dtype)
    d_logits = parts.new_empty(tokens, sizes.experts)
    _route_back[(count,)](
        parts, saved, parts if through is None else through, d, narrow, d_logits,
        where, count, tokens, parts.shape[2], scales.own, scales.experts, scales.kept,
        len(parts), *_shape(sizes), narrow.shape[1], through is not None, TOKENS,
    )  # fmt: skip
    return d, narrow, d_logits


def _shape(sizes: Sizes) -> tuple[int, ...]:
    """E, r, N, the rank, the powers of two that hold E, r and N, and L."""
    n, rank, r = sizes.experts, max(1, sizes.rank), sizes.own
    e = n * rank
    return e, r, n, rank, power(max(1, e)), power(max(1, r)), power(max(1, n)), low_width(e, r)


@triton.jit
def _total(parts, at, there, apart, PARTS: tl.constexpr):
    """The sum of `PARTS` parts, `apart` numbers from each other."""
    total = tl.load(parts + at, there, 0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts + part * apart + at, there, 0.0)
    return total


@triton.jit
def _spread(EP: tl.constexpr, NP: tl.constexpr, RANK: tl.constexpr):
    """[NP, EP]: 1 where a column of low rank is expert n's."""
    return (tl.arange(0, EP)[None, :] // RANK == tl.arange(0, NP)[:, None]).to(tl.float32)


@triton.jit(do_not_specialize=["count", "tokens_all"])
def _route(
    parts, through, user, c, saved, where, count, tokens_all, columns,
    own_scale, expert_scale, kept,
    PARTS: tl.constexpr, E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    EP: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr, L: tl.constexpr,
    TEXT: tl.constexpr, OWN: tl.constexpr, USER: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    row, tokens, inside = piece_of(where, count, TOKENS)
    tokens = tokens.to(tl.int64)
    e, r, n = tl.arange(0, EP), tl.arange(0, RP), tl.arange(0, NP)
    at, apart = tokens[:, None] * columns, tokens_all.to(tl.int64) * columns
    at_c, at_saved = c + tokens[:, None] * L, saved + tokens[:, None] * (E + R + N)
    pad = tl.arange(0, L)[None, :]
    tl.store(at_c + pad, tl.zeros((TOKENS, L), c.dtype.element_ty), inside & (pad >= E + R))
    u = tl.zeros((TOKENS, RP), tl.float32)
    if R > 0:
        there = inside & (r < R)[None, :]
        u = _total(parts, at + E + r[None, :], there, apart, PARTS) / kept
        tl.store(at_saved + E + r[None, :], u, there)
        tl.store(at_c + E + r[None, :], (u * own_scale).to(c.dtype.element_ty), there)
    if N > 0:
        logits = tl.zeros((TOKENS, NP), tl.float32)
        there = inside & (n < N)[None, :]
        if TEXT > 0:
            logits += _total(parts, at + E + R + n[None, :], there, apart, PARTS)
        if TEXT > N:
            logits += _total(parts, at + E + R + N + n[None, :], there, apart, PARTS)
        if USER:
            logits += tl.load(user + row * N + n, n < N, 0.0)[None, :]
        if OWN:
            at_through = through + row * N * R + n[None, :] * R + r[:, None]
            weights = tl.load(at_through, (r < R)[:, None] & (n < N)[None, :], 0.0)
            logits = tl.dot(u, weights, logits, input_precision="ieee")
        logits = tl.where((n < N)[None, :], logits, float("-inf"))
        w = tl.exp(logits - tl.max(logits, 1)[:, None])
        w = w / tl.sum(w, 1)[:, None]
        tl.store(at_saved + E + R + n[None, :], w, there)
        there = inside & (e < E)[None, :]
        low = _total(parts, at + e[None, :], there, apart, PARTS)
        share = tl.dot(w, _spread(EP, NP, RANK), input_precision="ieee") * expert_scale
        tl.store(at_saved + e[None, :], low, there)
        tl.store(at_c + e[None, :], (low * share).to(c.dtype.element_ty), there)


@triton.jit(do_not_specialize=["count", "tokens_all"])
def _route_back(
    parts, saved, through, d, narrow, d_logits, where, count, tokens_all, columns,
    own_scale, expert_scale, kept,
    PARTS: tl.constexpr, E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    EP: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    OWN: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    row, tokens, inside = piece_of(where, count, TOKENS)
    tokens = tokens.to(tl.int64)
    e, r, n = tl.arange(0, EP), tl.arange(0, RP), tl.arange(0, NP)
    at, apart = tokens[:, None] * columns, tokens_all.to(tl.int64) * columns
    at_d, at_saved = d + tokens[:, None] * L, saved + tokens[:, None] * (E + R + N)
    pad = tl.arange(0, L)[None, :]
    tl.store(at_d + pad, tl.zeros((TOKENS, L), d.dtype.element_ty), inside & (pad >= E + R))
    d_u = tl.zeros((TOKENS, RP), tl.float32)
    if R > 0:
        d_u = _total(parts, at + E + r[None, :], inside & (r < R)[None, :], apart, PARTS)
        d_u = d_u * own_scale
    if N > 0:
        there = inside & (e < E)[None, :]
        low = tl.load(at_saved + e[None, :], there, 0.0)
        w = tl.load(at_saved + E + R + n[None, :], inside & (n < N)[None, :], 0.0)
        d_c = _total(parts, at + e[None, :], there, apart, PARTS) * expert_scale
        spread = _spread(EP, NP, RANK)
        d_low = d_c * tl.dot(w, spread, input_precision="ieee")
        tl.store(at_d + e[None, :], d_low.to(d.dtype.element_ty), there)
        d_w = tl.dot(d_c * low, tl.trans(spread), input_precision="ieee")
        d_logit = w * (d_w - tl.sum(w * d_w, 1)[:, None])
        there = inside & (n < N)[None, :]
        tl.store(d_logits + tokens[:, None] * N + n[None, :], d_logit, there)
        # Zero behind N: those columns meet the lower halves of the text's weights.
        at = narrow + tokens[:, None] * K + n[None, :]
        tl.store(at, d_logit.to(d.dtype.element_ty), inside & (n < K)[None, :])
        if K > NP:
            tl.store(at + NP, tl.zeros((TOKENS, NP), d.dtype.element_ty), inside & (n < K - NP)[None, :])  # fmt: skip
        if OWN:
            at_through = through + row * N * R + n[:, None] * R + r[None, :]
            weights = tl.load(at_through, (n < N)[:, None] & (r < R)[None, :], 0.0)
            d_u = tl.dot(d_logit, weights, d_u, input_precision="ieee")
    if R > 0:
        there = inside & (r < R)[None, :]
        tl.store(at_d + E + r[None, :], (d_u / kept).to(d.dtype.element_ty), there)
