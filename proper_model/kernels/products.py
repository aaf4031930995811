"""Products with frozen weights, by the quickest exact routine of the machine.

On a CPU PyTorch hands float32 products to MKL, which on some processors runs at half the speed of
oneDNN's kernels for the same arithmetic. oneDNN serves large products here wherever it is built in. A call
of it costs tens of microseconds whatever it multiplies, so small products take PyTorch's own way, as do
other dtypes and other devices. Both add up in float32; results differ by rounding only. The choice goes by size
and never by a clock: a run that is repeated or resumed ends with the same bits.

`linear` and `transposed_product` have no gradients: they are for hand-written ones. `frozen_linear`
has one, to its input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _has_onednn() -> bool:
    """True if this build of PyTorch has oneDNN's linear."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        torch.ops.mkldnn._linear_pointwise.default  # noqa: B018, SLF001 - asked for, not called
    except (AttributeError, RuntimeError):
        return False
    return True


ONEDNN = _has_onednn()
# Multiplications and additions of the smallest product that is worth a call of oneDNN: between 2 and 6 million, 64 to
# 688 wide, on a processor with AVX-512.
LEAST = 1 << 22


def serves(tensor: Tensor) -> bool:
    """True if oneDNN multiplies tensors of this dtype and device, instead of PyTorch's choice."""
    return ONEDNN and tensor.dtype is torch.float32 and tensor.device.type == "cpu"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + c: x [M, i], weight [o, i] of any strides, bias [o] -> [M, o], memory of its own.

    Call without gradients, as in the forward of an autograd function.
    """
    if x.shape[0] * weight.numel() >= LEAST and serves(x) and weight.dtype is x.dtype:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - no public name exists
            x, weight, bias, "none", [], ""
        )
        return y
    return F.linear(x, weight, bias)


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b: a [M, n], b [M, o] -> [n, o]; sums over the long dimension."""
    return linear(a.T, b.T)


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` with gradients, which reach x [..., i] only."""
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class FrozenLinear(torch.nn.Module):
    """A frozen `torch.nn.Linear` whose products are the ones above; it reads the original's tensors.

    x [..., i] -> [..., o]; gradients reach x only.
    """

    def __init__(self, original: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = original.weight, original.bias

    def forward(self, x: Tensor) -> Tensor:
        return frozen_linear(x, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        ctx.save_for_backward(weight)
        return linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx, dy):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN205
        (weight,) = ctx.saved_tensors
        dx = linear(dy.reshape(-1, dy.shape[-1]), weight.T)
        return dx.view(*dy.shape[:-1], weight.shape[1]), None, None
