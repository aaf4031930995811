"""The device of a benchmark, looked at before the first contender is built."""

from __future__ import annotations

import torch

from proper_model.errors import ConfigError

DEVICES = ("cpu", "cuda")


def device_of(name: str) -> torch.device:
    """The named device. Raises ConfigError for another name, or if this machine has none."""
    if name not in DEVICES:
        raise ConfigError(f"unknown device '{name}'", hint="known are: " + ", ".join(DEVICES))
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU here",
            hint="use --device cpu, or a PyTorch that is built for this GPU",
        )
    return torch.device(name)
