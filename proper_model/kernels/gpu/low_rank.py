"""Three products with thin factors, each one launch for rows of any lengths.

For tokens m of row u, a dropout mask k or none, and factors E that all rows share, U_u of the row's
own, T that sees no mask:

    gather   low[m] = [ E (k*x)_m | U_u (k*x)_m | T x_m ]          x is read once
    scatter  y[m]  += k * (E^T c_e + U_u^T c_u) + T^T c_t          y is read and written once
    outer    D_u    = sum_m of row u  c_m (k*x)_m^T                x is read once

`gather` is eq. 7, 8 and 11 of PROPER up to the routing, for all of them at once; `scatter` adds
their outputs; backward they change places, and `outer` makes the gradients of a row's own factors.
Sums are float32. Factors lie in the dtype of x with the width last (`Thin`), so that they are read in
whole words; numbers of low rank in rows of a power of two, for the same reason.

E and U make one product: two into the same sum came out wrong by Triton 3.6 on an H100.

Letters: M tokens, R rows, S shares of a sum (`tiles.shares`), E columns of the shared factor (N
experts of rank r), r of a row's own, N of T, d width, L the power of two that holds E + r, K that
which holds N or 2 N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from proper_model.kernels.gpu.mask import keeps, token_key
from proper_model.kernels.gpu.tiles import (
    TOKENS,
    WIDTH,
    piece_of,
    pieces,
    power,
    shares,
    stages,
)
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
    """Factors of a linear, seen from its side of width d, in the dtype of that side.

    Attributes:
        shared: [E, d] or None.
        own: [R, r, d] or None.
        text: W_t [N, d], or [2 N, d] with what narrowing has taken from each row behind all of
            them, or None.
    """

    shared: Tensor | None
    own: Tensor | None
    text: Tensor | None = None

    @classmethod
    def of(
        cls, shared: Tensor | None, own: Tensor | None, text: Tensor | None, dtype: torch.dtype
    ) -> Thin:
        """From [N, r, d], [R, r, d] and [N, d] of any strides and wider types."""
        if shared is not None:
            shared = _narrowed(shared, dtype).flatten(0, 1)
        if text is not None:
            # The router computes in float32 over a narrow x, so it must not lose its lower half.
            high = _narrowed(text, dtype)
            text = high if high.dtype is text.dtype else torch.cat([high, (text - high).to(dtype)])
        return cls(shared, None if own is None else _narrowed(own, dtype), text)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, r and the rows of text; 0 for what is absent."""
        own = 0 if self.own is None else self.own.shape[1]
        shared, text = (0 if f is None else len(f) for f in (self.shared, self.text))
        return shared, own, text

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.shared, self.own, self.text


def _narrowed(factor: Tensor, dtype: torch.dtype) -> Tensor:
    return factor.to(dtype, memory_format=torch.contiguous_format).contiguous()


def gather(x: Tensor, thin: Thin, layout: Layout, mask: Mask = NO_MASK) -> Tensor:
    """x [M, d] -> parts of the sum [S, M, E + r + rows of text] float32."""
    where = pieces(layout)
    count, width = where.shape[1], x.shape[1]
    cut = shares(width, count)
    out = x.new_empty(cut, len(x), sum(thin.sizes), dtype=torch.float32)
    each = triton.cdiv(triton.cdiv(width, cut), WIDTH) * WIDTH
    _gather[(count, cut)](
        x, *_factors(thin, x), out, where, *_seeds(mask, x, layout), count, width, len(x), each,
        x.stride(0), mask.site, mask.threshold,
        *_shape(thin), mask.seeds is not None, TOKENS, WIDTH,
        num_stages=max(1, gather_stages(*thin.sizes, x)),
    )  # fmt: skip
    return out


def scatter(
    y: Tensor,
    c: Tensor,
    thin: Thin,
    layout: Layout,
    mask: Mask = NO_MASK,
    logits: Tensor | None = None,
) -> None:
    """Add to y [M, d] in place, from c [M, L] and, with a text factor, logits [M, K].

    Of a text factor the first N rows are used, for the N columns of the logits that are not zero.
    """
    where = pieces(layout)
    count, width = where.shape[1], y.shape[1]
    _scatter[(count, triton.cdiv(width, WIDTH))](
        y, c, c if logits is None else logits, *_factors(thin, y), where,
        *_seeds(mask, y, layout), count, width, y.stride(0), mask.site, mask.threshold,
        *_shape(thin), mask.seeds is not None, TOKENS, WIDTH,
    )  # fmt: skip


def outer(c: Tensor, x: Tensor, layout: Layout, out: Tensor, mask: Mask = NO_MASK) -> Tensor:
    """c [M, r] and x [M, d] -> out [R, r, d] of any strides, float32; every number is written."""
    rows, r, width = out.shape
    step = TOKENS * (WIDTH * x.element_size() + power(r) * c.element_size())
    _outer[(rows, triton.cdiv(width, WIDTH))](
        c, x, out, layout.ends, *_seeds(mask, x, layout), width,
        c.stride(0), c.stride(1), x.stride(0), *out.stride(), mask.site, mask.threshold,
        r, power(r), mask.seeds is not None, TOKENS, WIDTH,
        num_stages=max(1, stages(step, x.device)),
    )  # fmt: skip
    return out


def low_width(e: int, r: int) -> int:
    """L: numbers in a row of c."""
    return power(e + r)


def gather_stages(e: int, r: int, text: int, x: Tensor) -> int:
    """Steps along the width that `gather` loads ahead: of x and all factors; 0 where not one has room."""
    rows = TOKENS + low_width(e, r) + power(max(1, text))
    return stages(rows * WIDTH * x.element_size(), x.device)


def fits(e: int, r: int, text: int, x: Tensor) -> bool:
    """True where a processor holds a step of `gather` and all of what `scatter` multiplies at once."""
    whole = low_width(e, r) * (TOKENS + WIDTH) * x.element_size()
    return gather_stages(e, r, text, x) > 0 and stages(whole, x.device) > 0


def _factors(thin: Thin, x: Tensor) -> list[Tensor]:
    """A kernel wants a pointer for what is absent too; it is never read."""
    return [x if factor is None else factor for factor in thin.tensors]


def _shape(thin: Thin) -> tuple[int, ...]:
    """E, r, rows of text, and the powers of two L and K."""
    e, r, n = thin.sizes
    return e, r, n, low_width(e, r), power(max(1, n))


def _seeds(mask: Mask, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    return x if mask.seeds is None else mask.seeds, layout.bounds()


@triton.jit
def _narrow(a, b, acc):
    """acc + a b; exact products of float32."""
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _thin(shared, own, row, c, d, width, E: tl.constexpr, R: tl.constexpr):
    """Both factors one above the other at columns d: [L, d] for c = 0 .. L, zero behind E + R."""
    there = (d < width)[None, :]
    if E == 0:
        at = own + (row.to(tl.int64) * R + c)[:, None] * width + d[None, :]
        made = tl.load(at, (c < R)[:, None] & there, 0.0)
    elif R == 0:
        made = tl.load(shared + c[:, None] * width + d[None, :], (c < E)[:, None] & there, 0.0)
    else:
        # One load from two places: every row of c lies in one of them.
        at_own = own + (row.to(tl.int64) * R + c - E)[:, None] * width + d[None, :]
        at_shared = shared + c[:, None].to(tl.int64) * width + d[None, :]
        at = tl.where((c < E)[:, None], at_shared, at_own)
        made = tl.load(at, (c < E + R)[:, None] & there, 0.0)
    return made


@triton.jit(do_not_specialize=PLAIN)
def _gather(
    x, shared, own, text, out, where, seeds, firsts, count, width, tokens_all, each,
    x_m, site, threshold,
    E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    DROPS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, tokens, inside = piece_of(where, count, TOKENS)
    part = tl.program_id(1)
    wide_tokens = tokens.to(tl.int64)
    c, n = tl.arange(0, L), tl.arange(0, K)
    low = tl.zeros((TOKENS, L), tl.float32)
    logits = tl.zeros((TOKENS, K), tl.float32)
    if DROPS:
        keys = token_key(tl.load(seeds + row), site, tokens - tl.load(firsts + row))
    for begin in range(part * each, tl.minimum((part + 1) * each, width), WIDTH):
        d = begin + tl.arange(0, WIDTH)
        at = x + wide_tokens[:, None] * x_m + d[None, :]
        values = tl.load(at, inside & (d < width)[None, :], 0.0)
        if N > 0:
            at = text + n[:, None] * width + d[None, :]
            weights = tl.load(at, (n < N)[:, None] & (d < width)[None, :], 0.0)
            logits = _narrow(values, tl.trans(weights), logits)
        if DROPS:
            values = tl.where(keeps(keys, d, threshold), values, 0.0).to(values.dtype)
        low = _narrow(values, tl.trans(_thin(shared, own, row, c, d, width, E, R)), low)
    at = out + (part.to(tl.int64) * tokens_all + wide_tokens)[:, None] * (E + R + N)
    tl.store(at + c[None, :], low, inside & (c < E + R)[None, :])
    if N > 0:
        tl.store(at + E + R + n[None, :], logits, inside & (n < N)[None, :])


@triton.jit(do_not_specialize=["count", "site", "threshold"])
def _scatter(
    y, c, logits, shared, own, text, where, seeds, firsts, count, width, y_m, site, threshold,
    E: tl.constexpr, R: tl.constexpr, N: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    DROPS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, tokens, inside = piece_of(where, count, TOKENS)
    wide_tokens = tokens.to(tl.int64)[:, None]
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    j, n = tl.arange(0, L), tl.arange(0, K)
    low = tl.load(c + wide_tokens * L + j[None, :], inside, 0.0)
    factor = _thin(shared, own, row, j, d, width, E, R)
    total = _narrow(low, factor, tl.zeros((TOKENS, WIDTH), tl.float32))
    if DROPS:
        keys = token_key(tl.load(seeds + row), site, tokens - tl.load(firsts + row))
        total = tl.where(keeps(keys, d, threshold), total, 0.0)
    if N > 0:
        low = tl.load(logits + wide_tokens * K + n[None, :], inside, 0.0)
        at = text + n[:, None] * width + d[None, :]
        weights = tl.load(at, (n < N)[:, None] & (d < width)[None, :], 0.0)
        total += _narrow(low, weights, tl.zeros((TOKENS, WIDTH), tl.float32))
    at = y + wide_tokens * y_m + d[None, :]
    there = inside & (d < width)[None, :]
    total += tl.load(at, there, 0.0).to(tl.float32)
    tl.store(at, total.to(y.dtype.element_ty), there)


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
