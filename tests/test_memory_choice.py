"""`--max-memory`: what is chosen for which limit."""

from __future__ import annotations

import pytest

from client import memory_choice
from client.memory_choice import (
    LEAST_TRAINING_BYTES,
    PROCESS_BYTES,
    ROUTINES_BYTES,
    SHARE_OF_FLOAT32,
    choose,
)
from proper_model.config import BaseWeights
from proper_model.errors import ConfigError

BASE = 4 << 30
FIXED = PROCESS_BYTES + ROUTINES_BYTES + LEAST_TRAINING_BYTES


def least(weights: BaseWeights) -> int:
    """The smallest limit that holds the base so, by hand."""
    return FIXED + int(BASE * SHARE_OF_FLOAT32[weights])


def test_without_a_limit_nothing_is_chosen() -> None:
    choice = choose(None, BASE, base_weights=None, recompute=False)
    assert choice == memory_choice.MemoryChoice(BaseWeights.FULL, None, recompute=False)


@pytest.mark.parametrize("weights", list(BaseWeights))
def test_the_base_is_held_as_fully_as_fits(
    weights: BaseWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_choice, "find_spec", lambda _: object())
    order = list(BaseWeights)
    choice = choose(least(weights), BASE, base_weights=None, recompute=False)
    assert choice.base_weights is weights
    assert choice.training_bytes == LEAST_TRAINING_BYTES
    assert choice.recompute, "so little is left that activations are recomputed"
    if weights is order[-1]:
        with pytest.raises(ConfigError, match="too little"):
            choose(least(weights) - 1, BASE, base_weights=None, recompute=False)
    else:
        lower = choose(least(weights) - 1, BASE, base_weights=None, recompute=False)
        assert lower.base_weights is order[order.index(weights) + 1]


def test_plenty_needs_no_recomputing() -> None:
    choice = choose(64 << 30, BASE, base_weights=None, recompute=False)
    assert (choice.base_weights, choice.recompute) == (BaseWeights.FULL, False)


def test_without_bitsandbytes_the_base_is_full_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_choice, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        choose(least(BaseWeights.EIGHT_BIT), BASE, base_weights=None, recompute=False)
    assert "proper[quantized]" in str(caught.value.hint)


def test_a_choice_of_ones_own_is_kept_or_refused() -> None:
    choice = choose(64 << 30, BASE, base_weights="4bit", recompute=True)
    assert (choice.base_weights, choice.recompute) == (BaseWeights.FOUR_BIT, True)
    with pytest.raises(ConfigError, match="too little"):
        choose(least(BaseWeights.FOUR_BIT), BASE, base_weights="full", recompute=False)
    with pytest.raises(ConfigError, match="unknown --base-weights"):
        choose(None, BASE, base_weights="3bit", recompute=False)
