"""Facts about this machine and this code that make a result traceable. No host or user name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from simulations.results import Hardware

SOURCE = Path(__file__).resolve().parent.parent


def hardware() -> Hardware:
    """Processor, memory, accelerator and versions of this machine."""
    import torch

    return Hardware(
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        ram_bytes=total_memory_bytes(),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        python=platform.python_version(),
        torch=str(torch.__version__),
    )


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


def commit(source: Path = SOURCE) -> str:
    """`<hash>` or `<hash>-dirty` in a checkout, else `version <x>` of the installed package."""
    if (source / ".git").exists() and shutil.which("git"):
        head = _git(source, "rev-parse", "HEAD")
        if head:
            changed = _git(source, "status", "--porcelain", "--untracked-files=no")
            return head + ("-dirty" if changed else "")
    for owner in importlib.metadata.packages_distributions().get("simulations", []):
        return f"version {importlib.metadata.version(owner)}"
    return "unknown"


def _git(source: Path, *arguments: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(source), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
