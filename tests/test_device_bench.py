"""Tables of the device's benchmark from made-up numbers, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import device_shapes
from benchmarks.device_shapes import SHAPES, _training_bytes
from benchmarks.device_table import foretold, measured
from benchmarks.schema import read_as
from benchmarks.schema_device import DeviceReport
from proper_model.engine.memory import MemoryModel
from proper_model.errors import ReportError
from proper_model.settings.presets import preset
from proper_model.settings.shipped_profiles import load_profile

HARDWARE = {
    "system": "Linux x86_64",
    "cpu": "Some CPU",
    "cores": 2,
    "ram_bytes": 1,
    "gpu": None,
    "python": "3.11.0",
    "torch": "2.13.0",
}
ONE = {"shape": "1B", "parameters": 10, "weights": "4bit", "base_bytes": 2**30}


def document() -> dict[str, Any]:
    return {
        "schema": 1,
        "benchmark": "device",
        "hardware": HARDWARE,
        "commit": "c" * 40,
        "versions": {},
        "seed": 0,
        "data": "news",
        "items": 100,
        "preset": "device",
        "profile": "tiny",
        "threads": 1,
        "adaptations": [
            {
                "base_weights": "full",
                "recompute": False,
                "max_memory_bytes": None,
                "seconds": [61.0, 59.4, 90.0],
                "peak_bytes": [3 * 2**20, 2**20, 2 * 2**20],
            }
        ],
        "sample_tokens": 256,
        "foretold": [
            {**ONE, "recompute": False, "training_bytes": 2**29},
            {**ONE, "recompute": True, "training_bytes": 2**28},
        ],
    }


def read(path: Path, content: dict[str, Any]) -> DeviceReport:
    path.write_text(json.dumps(content))
    return read_as(DeviceReport, path, "device")


def test_tables_show_medians_and_both_ways_to_train(tmp_path: Path) -> None:
    report = read(tmp_path / "device.json", document())
    assert measured(report).rows == (("full", "no", "61", "2"),)
    # As stored by earlier versions, which named neither the dtype nor what loading takes.
    assert foretold(report).rows == (("1B", "", "4bit", "1.00", "", "0.50", "0.25"),)
    content = document()
    content["foretold"] = [
        {**one, "dtype": "float32", "loading_bytes": 3 * 2**29} for one in content["foretold"]
    ]
    report = read(tmp_path / "device.json", content)
    assert foretold(report).rows == (("1B", "float32", "4bit", "1.00", "1.50", "0.50", "0.25"),)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="items"):
        read(tmp_path / "device.json", document() | {"items": 0})


def test_shapes_have_the_published_numbers_of_parameters() -> None:
    """135M, 1.24B and 6.74B, as their publishers count them."""
    from proper_model.base.config import empty_model

    counts = [
        sum(p.numel() for p in empty_model(shape.config(shape.layers)).parameters())
        for shape in SHAPES
    ]
    assert counts == [134_515_008, 1_235_814_400, 6_738_415_616]


def test_blocks_add_up() -> None:
    """Fixed part 100, every block 10 a slot and 1 a token; 7 blocks, by hand."""
    settings = load_profile("tiny")
    trials = len(settings.user.learning_rates)
    few, more = (MemoryModel(100 + 10 * n, n, 0) for n in (1, 2))
    tokens = min(settings.tokens_per_step, trials * settings.user.batch_size * 8)
    whole = MemoryModel(100 + 10 * 7, 7, 0)
    assert _training_bytes(7, few, more, settings, 8) == whole.peak(trials, tokens, trials)


def test_a_base_is_foretold_in_the_dtype_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's shape by hand: 106 M weights in linears, 28 M beside them; 32 MiB of pieces."""
    monkeypatch.setattr(device_shapes, "_model_of", lambda *_: MemoryModel(1, 1, 0))
    rows = device_shapes.foretell(
        SHAPES[0], preset("device"), load_profile("tiny"), sample_tokens=8
    )
    linears = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    rest = 134_515_008 - linears
    found = {(r.dtype, r.weights): r for r in rows if not r.recompute}
    assert found["float32", "full"].base_bytes == 4 * (linears + rest)
    assert found["bfloat16", "full"].base_bytes == 2 * (linears + rest)
    assert found["float32", "4bit"].base_bytes == linears * 9 // 16 + 4 * rest
    assert found["bfloat16", "4bit"].base_bytes == linears * 9 // 16 + 2 * rest
    one = 576 * 1536
    packed = found["float32", "4bit"]
    assert packed.loading_bytes == packed.base_bytes + 12 * one + (32 << 20)
    assert packed.training_bytes == found["float32", "full"].training_bytes + 4 * one
