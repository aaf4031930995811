"""Clocks, memory and summaries: what is measured, and how little is made of it.

Wall seconds say what a user of the machine gets; CPU seconds of the process hold still when others
use the machine too. Every figure is a median over rounds with its smallest and largest value,
because a mean of five rounds is ruled by the round that was disturbed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Seconds:
    """Wall and CPU seconds of one kind of work."""

    wall: float = 0.0
    cpu: float = 0.0


class Stopwatch:
    """Adds up training and setting up apart: adapters, optimizers and trainers are made per user.

    Nothing is timed outside `setup` and `train`, so building a base costs no contender anything.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.setting_up, self.training = Seconds(), Seconds()

    @contextmanager
    def setup(self) -> Iterator[None]:
        """Time what is made anew for each user before training."""
        with self._timed(self.setting_up):
            yield

    @contextmanager
    def train(self) -> Iterator[None]:
        """Time training itself, whose rate is the result."""
        with self._timed(self.training):
            yield

    @contextmanager
    def _timed(self, seconds: Seconds) -> Iterator[None]:
        synchronize(self.device)  # kernels are queued: without this a GPU's work counts elsewhere
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        synchronize(self.device)
        seconds.wall += time.perf_counter() - wall
        seconds.cpu += time.process_time() - cpu


def synchronize(device: torch.device) -> None:
    """Wait for queued work of an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, smallest, largest). Raises ValueError for none."""
    if not values:
        raise ValueError("no rounds were measured")
    return statistics.median(values), min(values), max(values)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, so that a contender's peak is not its base's loading."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets VmHWM to the present resident size


def peak_memory_bytes(device: torch.device) -> int | None:
    """Largest memory since the reset: an accelerator's own, else resident; None if unknown.

    Not `getrusage`, whose maximum a child process inherits from its parent.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM")


def memory_bytes(device: torch.device) -> int | None:
    """Memory in use now, of the same kind as the peak."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def matmul_seconds(
    products: Sequence[tuple[int, int, int]],
    rows: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    clock: Stopwatch,
    least_s: float = 0.2,
) -> int:
    """Time products [rows, in] x [in, out] on the clock; returns how many operations they were.

    Args:
        products: (in, out, how often a block has it): a block's own mix is the peak's measure.
        least_s: repeat until this long, or the clock's own grain would show.
    """
    generator = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    pairs = [(draw(rows, i), draw(o, i), often) for i, o, often in products]
    operations, start = 0, clock.training.wall
    while clock.training.wall - start < least_s:
        with clock.train():
            for x, weight, often in pairs:
                for _ in range(often):
                    torch.nn.functional.linear(x, weight)
        operations += sum(2 * rows * i * o * often for i, o, often in products)
    return operations
