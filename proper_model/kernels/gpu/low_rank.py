"""Three products with thin factors, each one launch for rows of any lengths.

For tokens m of row u, a dropout mask k or none, and factors E that all rows share, U_u of the row's
own, T that sees no mask:

    gather   low[m] = [ E (k*x)_m | U_u (k*x)_m | T x_m ]          x is read once
    scatter  y[m]  += k * (E^T c_e + U_u^T c_u) + T^T c_t          y is read and written once
    outer    D_u    = sum_m of row u  c_m (k*x)_m^T                x is read once

`gather` is eq. 7, 8 and 11 of PROPER up to the routing, for all of them at once; `scatter` adds
their outputs; backward they change places, and `outer` makes the gradients of a row's own factors.
Factors are read as they are stored and narrowed here. Sums are float32.

Letters: M tokens, R rows, S shares of a sum (`tiles.shares`), E columns of the shared factor (N
experts of rank r), r of a row's own, N of T, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from proper_model.kernels.gpu.mask import keeps, token_key
from proper_model.kernels.gpu.tiles import TOKENS, WIDTH, pieces, power, row_starts, shares
from proper_model.kernels.layout import Layout

# Triton would compile a kernel for every kind of number; these change from pass to pass.
PLAIN = ["count", "tokens_all", "site", "threshold"]


@dataclass(frozen=True)
class Mask:
    """Dropout of one linear. `seeds [R]` int64, or None: nothing is dropped."""

    seeds: Tensor | None
    threshold: int
    site: int


NO_MASK = Mask(None, 0, 0)


@dataclass(frozen=True)
class Thin:
    """What is multiplied with: factors of a linear from the side of width d.

    Attributes:
        shared: [N, r, d] or None, of any strides.
        own: [R, r, d] or None, of any strides.
        text: [N, d] or None.
    """

    shared: Tensor | None
    own: Tensor | None
    text: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, r and N, 0 for what is absent."""
        shared = 0 if self.shared is None else self.shared.shape[0] * self.shared.shape[1]
        own = 0 if self.own is None else self.own.shape[1]
        return shared, own, 0 if self.text is None else len(self.text)


def gather(x: Tensor, thin: Thin, layout: Layout, mask: Mask = NO_MASK) -> Tensor:
    """x [M, d] -> parts of the sum [S, M, E + r + N] float32."""
    where = pieces(layout)
    count, width = where.shape[1], x.shape[1]
    cut = shares(width, count)
    e, r, n = thin.sizes
    out = x.new_empty(cut, len(x), e + r + n, dtype=torch.float32)
    each = triton.cdiv(triton.cdiv(width, cut), WIDTH) * WIDTH
    _gather[(count, cut)](
        x, *_factors(thin, x), out, where, *_seeds(mask, x, layout), count, width, len(x), each,
        x.stride(0), *_strides(thin), mask.site, mask.threshold,
        *_shape(thin), mask.seeds is not None, TOKENS, WIDTH,
    )  # fmt: skip
    return out


def scatter(y: Tensor, c: Tensor, thin: Thin, layout: Layout, mask: Mask = NO_MASK) -> None:
    """Add to y [M, d] in place, from c [M, E + r + N]."""
    where = pieces(layout)
    count, width = where.shape[1], y.shape[1]
    _scatter[(count, triton.cdiv(width, WIDTH))](
        y, c, *_factors(thin, y), where, *_seeds(mask, y, layout), count, width,
        y.stride(0), c.stride(0), *_strides(thin), mask.site, mask.threshold,
        *_shape(thin), mask.seeds is not None, TOKENS, WIDTH,
    )  # fmt: skip


def outer(c: Tensor, x: Tensor, layout: Layout, out: Tensor, mask: Mask = NO_MASK) -> Tensor:
    """c [M, r] and x [M, d] -> out [R, r, d] of any strides, float32; every number is written."""
    rows, r, width = out.shape
    _outer[(rows, triton.cdiv(width, WIDTH))](
        c, x, out, layout.ends, *_seeds(mask, x, layout), width,
        c.stride(0), c.stride(1), x.stride(0), *out.stride(), mask.site, mask.threshold,
        r, power(r), mask.seeds is not None, TOKENS, WIDTH,
    )  # fmt: skip
    return out


def _factors(thin: Thin, x: Tensor) -> list[Tensor]:
    """A kernel wants a pointer for what is absent too; it is never read."""
    return [x if factor is None else factor for factor in (thin.shared, thin.own, thin.text)]


def _strides(thin: Thin) -> list[int]:
    found: list[int] = []
    for factor, dims in ((thin.shared, 3), (thin.own, 3), (thin.text, 2)):
        found += [0] * dims if factor is None else factor.stride()
    return found


def _shape(thin: Thin) -> tuple[int, ...]:
    """E, r, N, the rank of a shared factor, and the powers of two that hold E, r and N."""
    e, r, n = thin.sizes
    rank = 1 if thin.shared is None else thin.shared.shape[1]
    return e, r, n, rank, power(max(1, e)), power(max(1, r)), power(max(1, n))


def _seeds(mask: Mask, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    return x if mask.seeds is None else mask.seeds, row_starts(layout)


@triton.jit
def _narrow(a, b, acc):
    """acc + a b, both of a's dtype; exact products where that is float32."""
    return tl.dot(a, b.to(a.dtype), acc, input_precision="ieee")


@triton.jit(do_not_specialize=PLAIN)
def _gather(
    x, shared, own, text, out, where, seeds, firsts, count, width, tokens_all, each,
    x_m, shared_n, shared_r, shared_d, own_u, own_r, own_d, text_n, text_d, site, threshold,
    E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    EP: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr, DROPS: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    piece, part = tl.program_id(0), tl.program_id(1)
    row = tl.load(where + piece)
    tokens = tl.load(where + count + piece) + tl.arange(0, TOKENS)
    inside = tokens < tl.load(where + 2 * count + piece)
    wide_tokens = tokens.to(tl.int64)
    e, r, n = tl.arange(0, EP), tl.arange(0, RP), tl.arange(0, NP)
    low_e = tl.zeros((TOKENS, EP), tl.float32)
    low_u = tl.zeros((TOKENS, RP), tl.float32)
    low_t = tl.zeros((TOKENS, NP), tl.float32)
    if DROPS:
        keys = token_key(tl.load(seeds + row), site, tokens - tl.load(firsts + row))
    for begin in range(part * each, tl.minimum((part + 1) * each, width), WIDTH):
        d = begin + tl.arange(0, WIDTH)
        there = (d < width)[:, None]
        at = x + wide_tokens[:, None] * x_m + d[None, :]
        values = tl.load(at, inside[:, None] & (d < width)[None, :], 0.0)
        if N > 0:
            weights = tl.load(text + n[None, :] * text_n + d[:, None] * text_d, there & (n < N)[None, :], 0.0)  # fmt: skip
            weights = weights.to(tl.float32)
            # A float32 router over narrower text: what narrowing the weights loses comes second.
            high = weights.to(values.dtype)
            low_t = _narrow(values, high, low_t)
            low_t = _narrow(values, weights - high.to(tl.float32), low_t)
        if DROPS:
            values = tl.where(keeps(keys, d, threshold), values, 0.0).to(values.dtype)
        if E > 0:
            at = shared + (e // RANK * shared_n + e % RANK * shared_r)[None, :] + d[:, None] * shared_d  # fmt: skip
            low_e = _narrow(values, tl.load(at, there & (e < E)[None, :], 0.0), low_e)
        if R > 0:
            at = own + row.to(tl.int64) * own_u + r[None, :] * own_r + d[:, None] * own_d
            low_u = _narrow(values, tl.load(at, there & (r < R)[None, :], 0.0), low_u)
    at = out + (part.to(tl.int64) * tokens_all + wide_tokens)[:, None] * (E + R + N)
    if E > 0:
        tl.store(at + e[None, :], low_e, inside[:, None] & (e < E)[None, :])
    if R > 0:
        tl.store(at + E + r[None, :], low_u, inside[:, None] & (r < R)[None, :])
    if N > 0:
        tl.store(at + E + R + n[None, :], low_t, inside[:, None] & (n < N)[None, :])


@triton.jit(do_not_specialize=["count", "site", "threshold"])
def _scatter(
    y, c, shared, own, text, where, seeds, firsts, count, width,
    y_m, c_m, shared_n, shared_r, shared_d, own_u, own_r, own_d, text_n, text_d, site, threshold,
    E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    EP: tl.constexpr, RP: tl.constexpr, NP: tl.constexpr, DROPS: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0)
    row = tl.load(where + piece)
    tokens = tl.load(where + count + piece) + tl.arange(0, TOKENS)
    inside = (tokens < tl.load(where + 2 * count + piece))[:, None]
    wide_tokens = tokens.to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (d < width)[None, :]
    e, r, n = tl.arange(0, EP), tl.arange(0, RP), tl.arange(0, NP)
    at_c = c + wide_tokens[:, None] * c_m
    total = tl.zeros((TOKENS, WIDTH), tl.float32)
    if E > 0:
        low = tl.load(at_c + e[None, :], inside & (e < E)[None, :], 0.0)
        at = shared + (e // RANK * shared_n + e % RANK * shared_r)[:, None] + d[None, :] * shared_d
        total = _narrow(low, tl.load(at, (e < E)[:, None] & there, 0.0), total)
    if R > 0:
        low = tl.load(at_c + E + r[None, :], inside & (r < R)[None, :], 0.0)
        at = own + row.to(tl.int64) * own_u + r[:, None] * own_r + d[None, :] * own_d
        total = _narrow(low, tl.load(at, (r < R)[:, None] & there, 0.0), total)
    if DROPS:
        keys = token_key(tl.load(seeds + row), site, tokens - tl.load(firsts + row))
        total = tl.where(keeps(keys, d, threshold), total, 0.0)
    if N > 0:
        low = tl.load(at_c + E + R + n[None, :], inside & (n < N)[None, :], 0.0)
        at = text + n[:, None] * text_n + d[None, :] * text_d
        total = _narrow(low, tl.load(at, (n < N)[:, None] & there, 0.0), total)
    at = y + wide_tokens[:, None] * y_m + d[None, :]
    total += tl.load(at, inside & there, 0.0).to(tl.float32)
    tl.store(at, total.to(y.dtype.element_ty), inside & there)


@triton.jit(do_not_specialize=["site", "threshold"])
def _outer(
    c, x, out, ends, seeds, firsts, width,
    c_m, c_r, x_m, out_u, out_r, out_d, site, threshold,
    R: tl.constexpr, RP: tl.constexpr, DROPS: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    first, end = tl.load(firsts + row), tl.load(ends + row)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = (d < width)[None, :]
    r = tl.arange(0, RP)
    total = tl.zeros((RP, WIDTH), tl.float32)
    for start in range(first, end, TOKENS):
        tokens = start + tl.arange(0, TOKENS)
        inside = tokens < end
        wide_tokens = tokens.to(tl.int64)
        values = tl.load(x + wide_tokens[:, None] * x_m + d[None, :], inside[:, None] & there, 0.0)
        if DROPS:
            keys = token_key(tl.load(seeds + row), site, tokens - first)
            values = tl.where(keeps(keys, d, threshold), values, 0.0).to(values.dtype)
        at = c + wide_tokens[None, :] * c_m + r[:, None] * c_r
        low = tl.load(at, inside[None, :] & (r < R)[:, None], 0.0)
        total = tl.dot(low.to(values.dtype), values, total, input_precision="ieee")
    at = out + row.to(tl.int64) * out_u + r[:, None] * out_r + d[None, :] * out_d
    tl.store(at, total, (r < R)[:, None] & there)
