"""A frozen base whose linears are held in 4 or 8 bits, for training over it and for answers.

    W ~ code[q] * m     m: largest magnitude of a block of 64 consecutive weights

The code is NF4 (QLoRA, arXiv 2305.14314, section 3) or 256 even steps; packing and unpacking are
bitsandbytes'. Embeddings, norms, the head and everything trained keep their dtype. A weight is
unpacked for one product, forward and again backward, and not kept, so a pass shared by many
users unpacks it once for all of them.

Merging stage 1, fingerprints and bundles are about the base in full: packing comes after them.
DEVIATION from QLoRA: the blocks' magnitudes stay float32, half a bit a weight.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import torch
from torch import Tensor

from proper_model.base.sizes import BLOCK, PIECE
from proper_model.errors import BaseModelError, ConfigError
from proper_model.settings.profile import BaseWeights

_OWN_MODULES = ("bitsandbytes", "bitsandbytes.functional")


def import_library() -> Any:
    """bitsandbytes' functions, or None where it is not installed.

    Its import fetches and runs a kernel from the hub on processors that have one, if the package
    `kernels` is there, and logs a complaint if not. PROPER runs no code from the hub, so neither
    happens here. PEFT imports bitsandbytes too: use `import_peft`.

    Raises ConfigError where it is installed and its import fails.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, kernels = log.level, sys.modules.get("kernels")
    log.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        import bitsandbytes.functional
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _OWN_MODULES:
            return None
        raise ConfigError(
            "bitsandbytes is installed and cannot be imported "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            hint="repair it, or remove it: pip uninstall bitsandbytes; it is needed for "
            'base_weights = "8bit" and "4bit" only',
        ) from error
    finally:
        log.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels
    return bitsandbytes.functional


def import_peft() -> Any:
    """PEFT, which imports bitsandbytes wherever it is installed, so that one first.

    Raises ConfigError as `import_library`.
    """
    import_library()
    import peft

    return peft


def check_available(weights: BaseWeights) -> None:
    """Raise ConfigError if this installation cannot hold a base in `weights`.

    A broken bitsandbytes is refused for full weights too: stage 1's PEFT could not be imported.
    """
    if import_library() is None and weights != BaseWeights.FULL:
        raise ConfigError(
            f"base_weights is '{weights}', and bitsandbytes is not installed",
            hint="install the extra `quantized`: pip install -e '.[quantized]'; or "
            'set base_weights = "full"',
        )


class QuantizedLinear(torch.nn.Module):
    """A frozen linear with a packed weight. x [..., i] -> [..., o], in x's dtype.

    Packs `linear` on the device its weight is on; keeps its bias as it is.
    """

    packed: Tensor
    magnitude_bits: Tensor
    bias: Tensor | None

    def __init__(self, linear: torch.nn.Linear, weights: BaseWeights) -> None:
        super().__init__()
        check_available(weights)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weights = weights
        self.bias = linear.bias
        packed, magnitudes = _pack(linear.weight.detach(), weights)
        self.register_buffer("packed", packed)
        # As bits, so that a cast of the model to bfloat16 leaves them alone.
        self.register_buffer("magnitude_bits", magnitudes.view(torch.int32))

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weight [o, i] that products are taken with."""
        magnitudes = self.magnitude_bits.view(torch.float32)
        count = self.out_features * self.in_features
        flat = _unpack(self.packed, magnitudes, self.weights, count, dtype)
        return flat.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y


def quantize_base(base: Any, weights: BaseWeights, *, device: torch.device | None = None) -> Any:
    """Hold all linears of `base` but its head as `weights` says; in place, also returned.

    Linears go to `device` (None: where they are) one at a time before they are packed, the rest of
    the base after them: a base too large for an accelerator may be loaded in main memory.

    Raises ConfigError where bitsandbytes is missing, BaseModelError if `base` is packed already.
    """
    if is_quantized(base):
        raise BaseModelError(
            "the base is quantized already; its full weights are gone", hint="load the base again"
        )
    if weights != BaseWeights.FULL:
        check_available(weights)
        # Paths, not modules: a list of those would keep every weight that is packed.
        for path in [path for path, _ in base.named_modules()]:
            module = base.get_submodule(path)
            pack_module(
                base, path, module.to(device) if _packable(base, module) else module, weights
            )
    return base if device is None else base.to(device)


def pack_module(base: Any, path: str, module: torch.nn.Module, weights: BaseWeights) -> None:
    """Replace the module at `path` by a packed one, if it is a linear and not the head."""
    if weights != BaseWeights.FULL and _packable(base, module):
        assert isinstance(module, torch.nn.Linear)
        base.set_submodule(path, QuantizedLinear(module, weights))


def _packable(base: Any, module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear and module is not base.get_output_embeddings()


def is_quantized(base: torch.nn.Module) -> bool:
    """True if `quantize_base` has packed linears of `base`."""
    return any(isinstance(module, QuantizedLinear) for module in base.modules())


class _Product(torch.autograd.Function):
    """y = x W^T + c with W unpacked here and again for dx = dy W; W and c are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantizedLinear) -> Tensor:
        ctx.linear = linear
        # Memory of its own: what adapters add is written into it, which a view would forbid.
        y = x.new_empty(*x.shape[:-1], linear.out_features)
        rows, out = x.reshape(-1, x.shape[-1]), y.view(-1, linear.out_features)
        torch.mm(rows, linear.unpacked(x.dtype).T, out=out)
        return y if linear.bias is None else y.add_(linear.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (dy,) = grads
        if not ctx.needs_input_grad[0]:
            return None, None
        dx = dy.reshape(-1, dy.shape[-1]) @ ctx.linear.unpacked(dy.dtype)
        return dx.view(*dy.shape[:-1], -1), None


def _pack(weight: Tensor, weights: BaseWeights) -> tuple[Tensor, Tensor]:
    """Bytes (uint8) and the blocks' magnitudes (float32) of a weight.

    A piece of whole blocks at a time: on a CPU packing takes seven times the numbers it packs.
    """
    pieces = [_pack_piece(piece, weights) for piece in weight.reshape(-1).split(PIECE)]
    packed, magnitudes = zip(*pieces, strict=True)
    return torch.cat(packed), torch.cat(magnitudes)


def _pack_piece(weight: Tensor, weights: BaseWeights) -> tuple[Tensor, Tensor]:
    functional = import_library()
    # One long row: on a CPU bitsandbytes unpacks wrongly where a row is no multiple of a block.
    flat = weight.float().reshape(1, -1)
    if weights == BaseWeights.FOUR_BIT:
        packed, state = functional.quantize_4bit(flat, blocksize=BLOCK, quant_type="nf4")
    else:
        packed, state = functional.quantize_blockwise(
            flat, code=_even_steps(weight.device), blocksize=BLOCK
        )
    return packed.reshape(-1), state.absmax.float()


def _unpack(
    packed: Tensor, magnitudes: Tensor, weights: BaseWeights, count: int, dtype: torch.dtype
) -> Tensor:
    """The inverse of `_pack` up to its rounding: [count] in `dtype`."""
    from bitsandbytes import functional

    about = {
        "absmax": magnitudes,
        "blocksize": BLOCK,
        "dtype": torch.float32 if dtype is torch.float64 else dtype,  # the widest it writes
    }
    flat: Tensor
    if weights == BaseWeights.FOUR_BIT:
        shape = torch.Size((1, count))
        state = functional.QuantState(shape=shape, quant_type="nf4", **about)
        flat = functional.dequantize_4bit(packed, state)
    else:
        state = functional.QuantState(code=_even_steps(packed.device), **about)
        flat = functional.dequantize_blockwise(packed, state)
    return flat.view(-1).to(dtype)


@functools.cache
def _even_steps(device: torch.device) -> Tensor:
    """The 8-bit code, [256] from -1 to 1. Making it takes longer than unpacking a small weight."""
    code: Tensor = import_library().create_linear_map(signed=True, total_bits=8)
    return code.to(device)
