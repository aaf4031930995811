"""Whether variants train what the reference trains, on the device and before any of them is timed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.contenders.build import Shape, build_base
from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import Workload, make_users
from benchmarks.contenders.world import Factors, World, settings_of, start_of
from benchmarks.gpu.document import Agreement
from benchmarks.gpu.variants import REFERENCE, Variant, with_backend
from benchmarks.measuring.processes import cause_of
from proper_model.kernels.ops import Backend

# Widths of which none is a power of two or equals another, and fewer key heads than heads.
TINY = Shape(hidden=96, layers=2, ffn=208, heads=6, kv_heads=2, vocabulary=384, tied=True)
WORK = Workload("tiny", users=5, samples=3, tokens=20, lengths="ragged", seed=0)
DTYPES = ("float32", "bfloat16")


def agreements(variants: Mapping[str, Variant], device: torch.device) -> Iterator[Agreement]:
    """Every variant in every dtype, and the reference in the narrow one."""
    reference = with_backend(Backend.REFERENCE)
    expected, start = _trained(Variant("", reference), "float32", device)
    one = {REFERENCE: Variant("einsum and autograd", reference)}
    for dtype in DTYPES:
        for name, variant in (one | dict(variants)).items():
            if (name, dtype) == (REFERENCE, "float32"):
                continue
            try:
                found, _ = _trained(variant, dtype, device)
            except Exception as error:  # noqa: BLE001 - a variant's failure is a result
                yield Agreement(name, dtype, None, cause_of(error))
            else:
                off = float((found - expected).norm() / (expected - start).norm())
                finite = math.isfinite(off)
                cause = None if finite else "not a finite number"
                yield Agreement(name, dtype, off if finite else None, cause)


def _trained(variant: Variant, dtype: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """All adapters after a round and before it, each in one line, in float64 on the host."""
    # The same weights in every dtype: drawn wide, then rounded.
    spec = Spec("ours-moe", dtype=dtype)
    base = build_base(TINY, Spec("ours-moe"), device, seed=WORK.seed).to(spec.torch_dtype)
    users = make_users(WORK, TINY.vocabulary)
    world = World(spec, base, users, WORK.seed, settings_of(spec), keep=True)
    widths = world.widths()
    ours = Ours(world, experts=True)
    variant.configure(ours)
    ours.round(Stopwatch(device))
    before = {u: start_of(widths, world, user) for u, user in enumerate(users)}
    return _in_line(ours.trained), _in_line(before)


def _in_line(adapters: Mapping[int, Factors]) -> Tensor:
    parts = [
        x.double().cpu().flatten() for u in sorted(adapters) for pair in adapters[u] for x in pair
    ]
    return torch.cat(parts)
