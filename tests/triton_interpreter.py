"""Import this before kernels of a GPU: without a GPU, Triton interprets them; without Triton, skip."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip(
        "needs Triton, which PyTorch's CUDA build brings; without a GPU: make test-kernels",
        allow_module_level=True,
    )
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
