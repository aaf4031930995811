"""Triton kernels of a GPU; import this room only where `kernels.ops.has_triton()` says so."""

from proper_model.kernels.gpu.adamw import adamw_step
from proper_model.kernels.gpu.adapted import adapted_linear, serves
from proper_model.kernels.gpu.blocks import rms_norm, rotate, swiglu
from proper_model.kernels.gpu.low_rank import NO_MASK, Mask
from proper_model.kernels.gpu.mask import keep_mask

__all__ = [
    "Mask", "NO_MASK", "adamw_step", "adapted_linear", "keep_mask", "rms_norm", "rotate", "serves",
    "swiglu",
]
