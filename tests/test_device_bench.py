"""The memory model for published bases, by hand."""

from __future__ import annotations

import pytest

from benchmarks.measuring import device_shapes
from benchmarks.measuring.device_shapes import SHAPES, _training_bytes, config_of
from proper_model.base.config import empty_model
from proper_model.engine.memory import MemoryModel
from proper_model.settings.presets import preset
from proper_model.settings.shipped_profiles import load_profile


def test_shapes_have_the_published_numbers_of_parameters() -> None:
    """135M, 1.24B and 6.74B, as their publishers count them."""
    counts = [
        sum(p.numel() for p in empty_model(config_of(shape)).parameters()) for shape in SHAPES
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


def test_a_base_is_predicted_in_the_dtype_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2's shape by hand: 106 M weights in linears, 28 M beside them; 32 MiB of pieces."""
    monkeypatch.setattr(device_shapes, "_model_of", lambda *_: MemoryModel(1, 1, 0))
    rows = device_shapes.predict(
        "135M (SmolLM2)", preset("device"), load_profile("tiny"), sample_tokens=8
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
