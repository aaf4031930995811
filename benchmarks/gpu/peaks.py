"""The most that a device does of what training is made of, measured in the run that refers to it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.contenders.measure import synchronize
from benchmarks.gpu.document import Peaks

SIDES = {"cuda": 8192, "cpu": 256}
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 24}
TIMES, AT_ONCE = 7, 10


def measured_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """A square product of random numbers, and a copy on the device."""
    side, size = SIDES[device.type], COPIED_BYTES[device.type]
    # Not zeros: a processor draws less power for them and runs faster than it ever will in training.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product = _seconds(lambda: torch.mm(a, b, out=out), device)
    source = torch.randint(0, 255, (size,), generator=generator, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = _seconds(lambda: target.copy_(source), device)
    return Peaks(
        side=side,
        flops_a_second=[2 * side**3 / one for one in product],
        bytes_a_second=[2 * size / one for one in copy],
    )


def _seconds(run: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of one `run()`, as means over a few, several times."""
    found = []
    for _ in range(TIMES + 1):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(AT_ONCE):
            run()
        synchronize(device)
        found.append((time.perf_counter() - began) / AT_ONCE)
    return found[1:]  # the first one also loads libraries
