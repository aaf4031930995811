"""Checkpoints: what comes back is what went in, and writing takes no copy of it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from proper_model.engine.checkpoint import load_checkpoint, load_meta, save_checkpoint
from proper_model.engine.memory import LiveMemory
from proper_model.errors import StorageError

TENSORS = {
    "narrow": torch.arange(5).to(torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "number": torch.tensor(7.0),
    "turned": torch.arange(6.0).view(2, 3).T,
    "wide": torch.linspace(0, 1, 4, dtype=torch.float64)[::2],
    "steps": torch.tensor([1, -2]),
    "none": torch.empty(0, 3),
    "half": torch.ones(2, 2, dtype=torch.float16, requires_grad=True),
}


def test_everything_comes_back_and_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "state"
    save_checkpoint(path, TENSORS, {"step": 3, "name": "e\u0301"})
    found = load_checkpoint(path)
    assert found is not None
    assert found[1] == load_meta(path) == {"step": 3, "name": "e\u0301"}
    for tensors in (found[0], load_file(path)):
        assert set(tensors) == set(TENSORS)
        for name, expected in TENSORS.items():
            assert tensors[name].dtype == expected.dtype
            assert torch.equal(tensors[name], expected), name


def test_writing_takes_no_copy(tmp_path: Path) -> None:
    size = 8 << 20
    tensors = {f"{i}": torch.ones(size // 4) for i in range(4)}
    with LiveMemory() as live:
        save_checkpoint(tmp_path / "state", tensors, {})
    tracemalloc.start()
    try:
        save_checkpoint(tmp_path / "state", tensors, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert live.peak == 0
    assert peak < size // 4
    assert (tmp_path / "state").stat().st_size > 4 * size


def test_a_failed_write_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    save_checkpoint(path, TENSORS, {"step": 1})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr("proper_model.storage.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_checkpoint(path, TENSORS, {"step": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
