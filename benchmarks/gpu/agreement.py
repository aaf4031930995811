"""Whether variants train what the reference trains, on the device and before any of them is timed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import torch

from benchmarks.contenders.specs import Spec
from benchmarks.gpu.variants import REFERENCE, Variant, with_backend
from benchmarks.kinds import Agreement
from benchmarks.measuring.agreement import compared, trained_by
from proper_model.kernels.ops import Backend

DTYPES = ("float32", "bfloat16")


def agreements(variants: Mapping[str, Variant], device: torch.device) -> Iterator[Agreement]:
    """Every variant in every dtype, and the reference in the narrow one."""
    reference = with_backend(Backend.REFERENCE)
    expected = trained_by(Spec("ours-moe"), device, reference)
    one = {REFERENCE: Variant("einsum and autograd", reference)}
    for dtype in DTYPES:
        for name, variant in (one | dict(variants)).items():
            if (name, dtype) != (REFERENCE, "float32"):
                spec = Spec("ours-moe", dtype=dtype)
                train = functools.partial(trained_by, spec, device, variant.configure)
                yield compared(name, dtype, train, expected)
