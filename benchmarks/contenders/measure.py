"""The clock of a round, and the memory of a process or an accelerator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from benchmarks.kinds import Seconds
from proper_model.federation.machine import high_water_bytes, resident_bytes

PROC = Path("/proc")


class Stopwatch:
    """Adds up training and setting up apart: adapters and optimizers are made per user.

    Nothing is timed outside `setup` and `train`, so building a base costs no contender anything.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._setup, self._train = [0.0, 0.0], [0.0, 0.0]

    def setup(self) -> AbstractContextManager[None]:
        """Time what is made anew for each user before training."""
        return self._timed(self._setup)

    def train(self) -> AbstractContextManager[None]:
        """Time training itself, whose rate is the result."""
        return self._timed(self._train)

    @contextmanager
    def _timed(self, seconds: list[float]) -> Iterator[None]:
        synchronize(self.device)  # kernels are queued: without this a GPU's work counts elsewhere
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        synchronize(self.device)
        seconds[0] += time.perf_counter() - wall
        seconds[1] += time.process_time() - cpu

    def take(self, told: Seconds) -> None:
        """As if it had been timed here."""
        self._train = [told.wall_s, told.cpu_s]
        self._setup = [told.setup_wall_s, told.setup_cpu_s]

    def seconds(self) -> Seconds:
        """All that was timed so far."""
        (wall, cpu), (setup_wall, setup_cpu) = self._train, self._setup
        return Seconds(wall_s=wall, cpu_s=cpu, setup_wall_s=setup_wall, setup_cpu_s=setup_cpu)


def synchronize(device: torch.device) -> None:
    """Wait for queued work of an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device, process: int | str = "self") -> None:
    """Forget the peak so far, so that a contender's peak is not its base's loading."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clear = PROC / str(process) / "clear_refs"
    if clear.exists():
        clear.write_text("5")  # proc(5): resets VmHWM to the present resident size


def peak_memory_bytes(device: torch.device, process: int | str = "self") -> int | None:
    """Largest memory since the reset: an accelerator's own, else resident; None if unknown.

    Not `getrusage`, whose maximum a child process inherits from its parent.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return high_water_bytes(PROC / str(process) / "status")


def memory_bytes(device: torch.device, process: int | str = "self") -> int | None:
    """Memory in use now, of the same kind as the peak."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    status = PROC / str(process) / "status"
    return resident_bytes(status) if status.is_file() else None
