"""AdamW of stacked parameters in one launch a tensor: `engine.optimizer`'s update, read and written once.

Letters: U user slots, n numbers of one slot.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

PIECE = 1024


def adamw_step(
    parameter: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    numbers: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Update parameter and both moments [U, ...] in place, from a gradient of the same shape.

    Args:
        numbers: [U, 5] float32 of every slot: whether it is active (0 or 1), the factor that clips its
            gradient, 1 - rate * decay, rate / (1 - beta1^t), sqrt(1 - beta2^t). An inactive slot
            is not touched.
    """
    slots = len(parameter)
    count = parameter.numel() // slots
    _adamw[(slots, triton.cdiv(count, PIECE))](
        parameter, first, second, gradient.contiguous(), numbers, count,
        1 - betas[0], betas[1], 1 - betas[1], epsilon, PIECE,
    )  # fmt: skip


@triton.jit
def _adamw(
    p, m, v, g, numbers, count, new1, old2, new2, epsilon,
    PIECE: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    of_slot = numbers + slot * 5
    if tl.load(of_slot) > 0:
        clip, decay = tl.load(of_slot + 1), tl.load(of_slot + 2)
        rate, correction = tl.load(of_slot + 3), tl.load(of_slot + 4)
        within = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
        there = within < count
        at = slot.to(tl.int64) * count + within
        gradient = tl.load(g + at, there, 0.0) * clip
        first = tl.load(m + at, there, 0.0)
        first += (gradient - first) * new1
        second = tl.load(v + at, there, 0.0) * old2 + gradient * gradient * new2
        value = tl.load(p + at, there, 0.0) * decay
        value -= first / (tl.sqrt(second) / correction + epsilon) * rate
        tl.store(m + at, first, there)
        tl.store(v + at, second, there)
        tl.store(p + at, value, there)
