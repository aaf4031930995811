"""Facts about this machine that make a result traceable, and threads for it. No host or user name."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

HARDWARE_FILE = "hardware.json"  # in OUT: where the run was trained, written by the coordinator


def facts() -> dict[str, str | int | None]:
    """Processor, memory, accelerator and versions of this machine and interpreter."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "ram_bytes": total_memory_bytes(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def total_memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The marketing name where the system tells it, else the architecture."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Cores this process may run on, which a container or `taskset` may make fewer than there are."""
    with suppress(AttributeError):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def useful_threads(hidden: int) -> int:
    """Threads of one process that trains, by default.

    One for small bases: they gain little from more, and on a machine that does something else two
    threads waiting for each other were several times slower than one. OMP_NUM_THREADS, where somebody set
    it, is the most. The number is part of the plan because sums of floats depend on it.
    """
    most = 1 if hidden < 512 else min(8, usable_cores())
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(most, int(asked)) if asked.isdecimal() and int(asked) else most


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The most resident memory this program has had, without what its parent had before it."""
    found = high_water_bytes(status)
    if found is not None:
        return found
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Resident memory of this program now; where only the peak is known, that."""
    return _status_bytes(status, "VmRSS:") or peak_memory_bytes(status)


def high_water_bytes(status: Path) -> int | None:
    """The highest resident memory in a process' status file; None if there is none, as after its end."""
    return _status_bytes(status, "VmHWM:")


def _status_bytes(status: Path, name: str) -> int | None:
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None
