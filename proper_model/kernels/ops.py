"""The low-rank part of an adapted linear, as two operations with one contract and several backends.

`project` makes, for tokens m of rows R with a dropout mask k or none (PROPER's equation in brackets):

    base_out    = W_p x + c        "mi,oi->mo"                    (7)
    user_low    = A_u (k*x)        "mi,mri->mr", A_u of m's row   (11)
    expert_low  = A_n (k*x)        "mi,nri->mnr"                  (7)
    text_logits = W_t x            "mi,ni->mn"                    (8)

The caller routes: it scales `user_low` and weights `expert_low`, a few numbers a token. Then
`add_low_rank` makes

    h = base_out + B_u user_low    "mr,mor->mo", B_u of m's row   (11)
                 + sum_n B_n expert_low_n   "mnr,nor->mo"         (7)

`reference` says this in einsum and lets autograd differentiate; it is the oracle of the others.
`fused` computes the same with hand-written gradients: no copy of a full-width activation is made
that a matrix product could write to directly, and the frozen base gets no gradients of its own.
`grouped` is `fused` with one launch for all users' factors however ragged their rows (`rows`).
`kernels` is for a GPU with Triton: where it can, a whole adapted linear is one function (`gpu`), and
what that does not compute is `grouped`.

Letters: M tokens, R rows, N experts, r rank, i input width, o output width. A row's tokens stand
together (`layout`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from proper_model.kernels import rows
from proper_model.kernels.layout import Layout
from proper_model.kernels.products import linear, transposed_product


class Backend(StrEnum):
    """Which implementation adapted linears use; results differ by rounding only."""

    REFERENCE = "reference"
    FUSED = "fused"
    GROUPED = "grouped"
    KERNELS = "kernels"

    @classmethod
    def best_on(cls, device: torch.device) -> Backend:
        """The quickest on a device: where launches cost, one for all users."""
        if device.type != "cuda":
            return cls.FUSED
        return cls.KERNELS if runs_kernels(device) else cls.GROUPED


@functools.cache
def has_triton() -> bool:
    """True where kernels of a GPU can be compiled: PyTorch brings Triton with its CUDA build."""
    return importlib.util.find_spec("triton") is not None


def runs_kernels(device: torch.device) -> bool:
    """True where kernels run: on a GPU with Triton, or anywhere if Triton is told to interpret them."""
    if not has_triton():
        return False
    if device.type == "cuda":
        return _starts_kernels(device)
    return os.environ.get("TRITON_INTERPRET") == "1"


OLDEST = (8, 0)  # compute capability whose matrix units take bfloat16


@functools.cache
def _starts_kernels(device: torch.device) -> bool:
    """Whether Triton gets as far as asking this GPU; says it where not, for all else is slower.

    It compiles a part of itself at first use, which needs a C compiler and Python's headers.
    """
    if torch.cuda.get_device_capability(device) < OLDEST:
        return False
    try:
        from triton.runtime import driver

        driver.active.utils.get_device_properties(device.index or 0)
    except Exception as error:  # noqa: BLE001 - whatever it is, PyTorch's own routines do the work
        warnings.warn(
            f"Triton does not start on this machine ({type(error).__name__}), so a GPU trains by PyTorch's own "
            "routines, which are slower; it needs a C compiler and Python's headers",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


# One product for all users' factors, however ragged their rows.
ONE_LAUNCH = (Backend.GROUPED, Backend.KERNELS)


@dataclass(frozen=True)
class Projected:
    """What `project` makes of an input; None for absent parts.

    Attributes:
        base_out: `[M, o]`, the frozen linear's.
        user_low: `[M, r]`, through every row's own A_u.
        expert_low: `[M, N, r]`, through all A_n.
        text_logits: `[M, N]`, the text router's.
    """

    base_out: Tensor
    user_low: Tensor | None
    expert_low: Tensor | None
    text_logits: Tensor | None


def project(
    backend: Backend,
    base: torch.nn.Module,
    x: Tensor,
    mask: Tensor | None,
    layout: Layout,
    *,
    user_a: Tensor | None = None,
    expert_a: Tensor | None = None,
    text: Tensor | None = None,
) -> Projected:
    """The frozen linear, both projections into low rank, and the text router's logits.

    Args:
        base: the frozen linear, any module from [M, i] to [M, o].
        x: [M, i]; mask: [M, i] or None.
        user_a: every row's own A_u, [R, r, i], or None.
        expert_a: [N, r, i] or None.
        text: W_t [N, i] or None; its logits come in its own dtype and never see the mask.
    """
    if backend is Backend.REFERENCE:
        return _project_reference(base, x, mask, layout, user_a, expert_a, text)
    grouped = backend in ONE_LAUNCH
    user_a = None if user_a is None else user_a.to(x.dtype)
    flat_a = None if expert_a is None else expert_a.to(x.dtype).flatten(0, 1)  # [N*r, i]
    if type(base) is torch.nn.Linear:
        base_out, user_low, expert_low, text_logits = _Project.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, mask, layout, grouped, user_a, flat_a, text
        )
    else:  # a quantized linear brings its own gradient
        base_out = base(x)
        _, user_low, expert_low, text_logits = _Project.apply(  # type: ignore[no-untyped-call]
            x, None, None, mask, layout, grouped, user_a, flat_a, text
        )
    if expert_low is not None and expert_a is not None:
        expert_low = expert_low.view(-1, *expert_a.shape[:2])
    return Projected(base_out, user_low, expert_low, text_logits)


def add_low_rank(
    backend: Backend,
    base_out: Tensor,
    layout: Layout,
    *,
    user_low: Tensor | None = None,
    expert_low: Tensor | None = None,
    user_b: Tensor | None = None,
    expert_b: Tensor | None = None,
) -> Tensor:
    """Add both adapters' outputs to base_out [M, o]; base_out itself may be overwritten.

    Args:
        user_low: [M, r] or None; expert_low: [M, N, r], weighted, or None.
        user_b: every row's own B_u, [R, o, r], or None.
        expert_b: [N, o, r] or None.
    """
    if backend is Backend.REFERENCE:
        h = base_out
        if user_low is not None and user_b is not None:
            h = h + _by_row_reference("gtr,gor->gto", user_low, user_b, layout)
        if expert_low is not None and expert_b is not None:
            h = h + torch.einsum("mnr,nor->mo", expert_low, expert_b.to(expert_low.dtype))
        return h
    if user_b is not None:
        user_b = user_b.to(base_out.dtype).transpose(1, 2)  # [R, r, o]
    flat_b = None
    if expert_b is not None:
        flat_b = expert_b.to(base_out.dtype).permute(0, 2, 1).flatten(0, 1)  # [N*r, o]
    flat_low = None if expert_low is None else expert_low.flatten(1)  # [M, N*r]
    out: Tensor = _AddLowRank.apply(  # type: ignore[no-untyped-call]
        base_out, layout, backend in ONE_LAUNCH, user_low, flat_low, user_b, flat_b
    )
    return out


def _project_reference(
    base: torch.nn.Module,
    x: Tensor,
    mask: Tensor | None,
    layout: Layout,
    user_a: Tensor | None,
    expert_a: Tensor | None,
    text: Tensor | None,
) -> Projected:
    dropped = x if mask is None else x * mask
    user_low = expert_low = text_logits = None
    if user_a is not None:
        user_low = _by_row_reference("gti,gri->gtr", dropped, user_a, layout)
    if expert_a is not None:
        expert_low = torch.einsum("mi,nri->mnr", dropped, expert_a.to(x.dtype))
    if text is not None:
        text_logits = torch.einsum("mi,ni->mn", x.to(text.dtype), text)
    return Projected(base(x), user_low, expert_low, text_logits)


def _by_row_reference(equation: str, tokens: Tensor, factor: Tensor, layout: Layout) -> Tensor:
    """An einsum of every row's tokens [g, t, :] with its own factor [g, :, :]."""
    parts = [
        torch.einsum(equation, group.rectangle(tokens), group.of_rows(factor).to(tokens.dtype))
        for group in layout.groups
    ]
    return torch.cat([part.flatten(0, 1) for part in parts])


class _Project(torch.autograd.Function):
    """x W^T + c, (k*x) A_u^T, (k*x) A_g^T and x W_t^T, with A_g [N*r, i]; W and c are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        layout: Layout,
        grouped: bool,
        user_a: Tensor | None,
        flat_a: Tensor | None,
        text: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        dropped = x if mask is None else x * mask
        base_out = None if weight is None else linear(x, weight, bias)
        user_low = None
        if user_a is not None:
            user_low = rows.times(dropped, user_a.transpose(1, 2), layout, grouped=grouped)
        expert_low = None if flat_a is None else linear(dropped, flat_a)
        text_logits = None if text is None else linear(x.to(text.dtype), text)
        ctx.save_for_backward(x, weight, mask, user_a, flat_a, text)
        ctx.layout, ctx.grouped = layout, grouped
        ctx.set_materialize_grads(False)
        return base_out, user_low, expert_low, text_logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_base, d_user_low, d_expert_low, d_logits = grads
        x, weight, mask, user_a, flat_a, text = ctx.saved_tensors
        wants_x, *_, wants_user, wants_experts, wants_text = ctx.needs_input_grad
        layout, grouped = ctx.layout, ctx.grouped
        d_user_a = d_flat_a = d_text = dx = None
        if wants_user or wants_experts:
            dropped = x if mask is None else x * mask
            if wants_user and d_user_low is not None:
                d_user_a = rows.outer(d_user_low, dropped, layout, grouped=grouped)  # [R, r, i]
            if wants_experts and d_expert_low is not None:
                d_flat_a = transposed_product(d_expert_low, dropped)  # [N*r, i]
        if wants_text and d_logits is not None:
            d_text = transposed_product(d_logits, x.to(d_logits.dtype))
        if wants_x:
            dx = None if weight is None or d_base is None else linear(d_base, weight.T)
            low = (d_user_low, d_expert_low, user_a, flat_a)
            dx = add_masked(dx, mask, layout, *low, grouped=grouped)
            if d_logits is not None and text is not None:
                # In x's dtype, as every other part of its gradient.
                narrow, weights = d_logits.to(x.dtype), text.to(x.dtype)
                dx = linear(narrow, weights.T) if dx is None else dx.addmm_(narrow, weights)
        return dx, None, None, None, None, None, d_user_a, d_flat_a, d_text


def add_masked(
    into: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    user_low: Tensor | None,
    expert_low: Tensor | None,
    user_factor: Tensor | None,
    expert_factor: Tensor | None,
    *,
    grouped: bool,
) -> Tensor | None:
    """into + k*(what `_add` adds), [M, d]; what is None is left out. Writes into `into`."""
    low = (user_low, expert_low, user_factor, expert_factor)
    if mask is None:
        return _add(into, layout, *low, grouped=grouped)
    through = _add(None, layout, *low, grouped=grouped)
    if through is None:
        return into
    return through.mul_(mask) if into is None else into.addcmul_(through, mask)


def _add(
    into: Tensor | None,
    layout: Layout,
    user_low: Tensor | None,
    expert_low: Tensor | None,
    user_factor: Tensor | None,
    expert_factor: Tensor | None,
    *,
    grouped: bool,
) -> Tensor | None:
    """into + user_low U + expert_low G for every row's own U [R, r, d] and G [N*r, d].

    Writes into `into`, where that is given.
    """
    if expert_low is not None and expert_factor is not None:
        if into is None:
            into = linear(expert_low, expert_factor.T)
        else:
            into.addmm_(expert_low, expert_factor)
    if user_low is not None and user_factor is not None:
        if into is None:
            return rows.times(user_low, user_factor, layout, grouped=grouped)
        rows.add_times(into, user_low, user_factor, layout, grouped=grouped)
    return into


class _AddLowRank(torch.autograd.Function):
    """base_out += user_low B_u + expert_low B_g in place, with B_u [R, r, o] and B_g [N*r, o]."""

    @staticmethod
    def forward(
        ctx: Any,
        base_out: Tensor,
        layout: Layout,
        grouped: bool,
        user_low: Tensor | None,
        expert_low: Tensor | None,
        user_b: Tensor | None,
        flat_b: Tensor | None,
    ) -> Tensor:
        _add(base_out, layout, user_low, expert_low, user_b, flat_b, grouped=grouped)
        ctx.mark_dirty(base_out)
        ctx.save_for_backward(user_low, expert_low, user_b, flat_b)
        ctx.layout, ctx.grouped = layout, grouped
        return base_out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        user_low, expert_low, user_b, flat_b = ctx.saved_tensors
        layout, grouped = ctx.layout, ctx.grouped
        wants_base, _, _, wants_user, wants_experts, wants_user_b, wants_flat_b = (
            ctx.needs_input_grad
        )
        dh = grads[0].contiguous()
        d_user_low = d_user_b = None
        if wants_user:
            d_user_low = rows.times(dh, user_b.transpose(1, 2), layout, grouped=grouped)
        d_expert_low = linear(dh, flat_b) if wants_experts else None
        if wants_user_b:
            d_user_b = rows.outer(user_low, dh, layout, grouped=grouped)
        d_flat_b = transposed_product(expert_low, dh) if wants_flat_b else None
        d_base = dh if wants_base else None
        return d_base, None, None, d_user_low, d_expert_low, d_user_b, d_flat_b
