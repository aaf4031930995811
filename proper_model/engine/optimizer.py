"""AdamW for stacked parameters: dimension 0 of every tensor is the user slot.

Each slot has its own step count, learning rate and gradient clipping, and a slot that is not
active is not touched by a bit. For one slot this is torch.optim.AdamW with clip_grad_norm_, the
oracle of its test (AdamW: arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.kernels.ops import runs_kernels

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def linear_schedule(step: int, total: int, warmup: int) -> float:
    """Factor on the learning rate of 0-based `step`: linear up over `warmup`, linear down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total - step) / max(1, total - warmup))


class StackedAdamW:
    """AdamW over tensors [U, ...], independently for every slot.

    Args:
        parameters: tensors that share their first dimension U.
        weight_decay: decoupled decay, in units of the learning rate.
        max_grad_norm: each slot's gradient, over all its parameters, is clipped to this norm.

    Attributes:
        steps: `[U]` updates of every slot so far.
        fused: one launch a tensor, for float32 on a GPU with Triton.
        by_slot: PyTorch's own fused AdamW, one call a slot that reads and writes every number once; on a CPU.
    """

    def __init__(
        self, parameters: Sequence[Tensor], *, weight_decay: float, max_grad_norm: float
    ) -> None:
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        device = self.parameters[0].device
        self.steps = torch.zeros(len(self.parameters[0]), dtype=torch.long, device=device)
        plain = all(p.dtype is torch.float32 and p.is_contiguous() for p in self.parameters)
        self.fused = device.type == "cuda" and plain and runs_kernels(device)
        contiguous = all(p.is_contiguous() for p in self.parameters)  # it reads memory as it lies
        self._rows: list[list[tuple[Tensor, ...]]] = []
        self.by_slot = device.type == "cpu" and contiguous

    @torch.no_grad()
    def reset(self, slots: Sequence[int]) -> None:
        """Forget moments and steps of these slots, where another trial begins."""
        for state in (*self.first, *self.second, self.steps):
            state[list(slots)] = 0

    def gradient_norms(self) -> Tensor:
        """Euclidean norm of each slot's gradient over all parameters, [U]."""
        gradients = [p.grad.flatten(1) for p in self.parameters if p.grad is not None]
        if self.fused:  # reads a gradient once, and makes no squares of its size
            squares = [torch.linalg.vector_norm(g, dim=1).square() for g in gradients]
        else:
            squares = [g.square().sum(1) for g in gradients]
        return torch.stack(squares).sum(0).sqrt()

    @torch.no_grad()
    def step(self, rates: Tensor, active: Tensor, norms: Tensor) -> None:
        """One update of the slots where `active [U]` is true, at learning rates `rates [U]`.

        `norms [U]` are `gradient_norms()`. Gradients are cleared for all slots.
        """
        clip = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        if self.fused:
            self._step_fused(rates, active, clip)
            return
        if self.by_slot:
            self._step_by_slot(rates, active, clip)
            return
        all_active = bool(active.all())
        rows = slice(None) if all_active else active.nonzero().squeeze(1)
        self.steps[rows] += 1
        count = self.steps[rows].to(rates.dtype)
        correction1 = 1 - BETAS[0] ** count
        correction2 = (1 - BETAS[1] ** count).sqrt()
        for p, first, second in zip(self.parameters, self.first, self.second, strict=True):
            if p.grad is None:
                continue

            def per_slot(value: Tensor, like: Tensor = p) -> Tensor:
                """[rows] in the parameter's dtype, shaped to be multiplied with [rows, ...]."""
                return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1))

            # A slice is a view, written in place; an index copies, and what it copied goes back.
            gradient = p.grad[rows].mul_(per_slot(clip[rows]))
            m, v, values = first[rows], second[rows], p[rows]
            m.lerp_(gradient, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            rate = rates[rows]
            denominator = v.sqrt().div_(per_slot(correction2)).add_(EPSILON)
            values.mul_(per_slot(1 - rate * self.weight_decay))
            values.sub_((m / denominator).mul_(per_slot(rate / correction1)))
            if not all_active:
                first[rows], second[rows], p[rows] = m, v, values
            p.grad = None

    def _step_by_slot(self, rates: Tensor, active: Tensor, clip: Tensor) -> None:
        """The same by what torch.optim.AdamW(fused=True) calls, once a slot, since rates differ."""
        self.steps += active
        known = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        gradients = [p.grad.contiguous() for p in self.parameters if p.grad is not None]
        slots = active.nonzero().flatten().tolist()
        if not bool((clip[slots] >= 1).all()):  # NaN included
            for g in gradients:
                g.mul_(clip.to(g.dtype).view(-1, *[1] * (g.dim() - 1)))
        of_gradients = [g.unbind() for g in gradients]
        for slot in slots:
            values, first, second = ([stack[i][slot] for i in known] for stack in self._views())
            torch._fused_adamw_(
                values, [rows[slot] for rows in of_gradients], first, second, [],
                [torch.tensor(float(self.steps[slot]))] * len(known),
                lr=float(rates[slot]), beta1=BETAS[0], beta2=BETAS[1],
                weight_decay=self.weight_decay, eps=EPSILON, amsgrad=False, maximize=False,
            )  # fmt: skip
        for p in self.parameters:
            p.grad = None

    def _views(self) -> list[list[tuple[Tensor, ...]]]:
        """Rows of all parameters and of both moments, one a slot. Made once: all are written in place, and no
        parameter's `data` may become another tensor.
        """
        if not self._rows:
            tensors = ([p.data for p in self.parameters], self.first, self.second)
            self._rows = [[tensor.unbind() for tensor in group] for group in tensors]
        return self._rows

    def _step_fused(self, rates: Tensor, active: Tensor, clip: Tensor) -> None:
        """The same without asking the GPU which slots are active."""
        from proper_model.kernels.gpu import adamw_step

        self.steps += active
        count = self.steps.clamp(min=1).to(rates.dtype)  # an empty slot has taken no step
        decay, rate = 1 - rates * self.weight_decay, rates / (1 - BETAS[0] ** count)
        correction = (1 - BETAS[1] ** count).sqrt()
        numbers = torch.stack([n.float() for n in (active, clip, decay, rate, correction)], 1)
        for p, first, second in zip(self.parameters, self.first, self.second, strict=True):
            if p.grad is not None:
                adamw_step(p.data, first, second, p.grad, numbers, BETAS, EPSILON)
                p.grad = None
