"""Which GPU, which software and which code a run used."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import torch

from benchmarks.gpu.document import Accelerator
from proper_model.errors import ConfigError

VERSIONS = ("torch", "triton", "transformers", "peft", "numpy")
DEVICES = ("cpu", "cuda")
_DRIVER = Path("/proc/driver/nvidia/version")
_NUMBER = re.compile(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s")


def ready_device(name: str) -> None:
    """Raises ConfigError for another name than those of DEVICES, or if this machine has none."""
    if name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'", hint="known are: " + ", ".join(DEVICES))
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU here",
            hint="use --device cpu, or a PyTorch that is built for this GPU",
        )


def versions() -> dict[str, str]:
    """Of the libraries that are there."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def accelerator(device: torch.device) -> Accelerator | None:
    """The GPU that is used; None on a CPU."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    return Accelerator(
        name=str(found.name),
        memory_bytes=int(found.total_memory),
        capability=f"{found.major}.{found.minor}",
        driver=driver(),
        cuda=torch.version.cuda,
    )


def driver(told: Path = _DRIVER) -> str | None:
    """The version of NVIDIA's driver; None where nothing tells it."""
    if told.is_file():
        number = _NUMBER.search(told.read_text(errors="replace"))
        if number:
            return number[1]
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def code_version() -> str:
    """The commit of this checkout, where that can be told."""
    try:
        from simulations.outcome.environment import commit
    except ImportError:  # a machine with what the engine needs and nothing else
        return "unknown"
    return commit()
