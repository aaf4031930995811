"""`--max-memory`: what is chosen for which limit."""

from __future__ import annotations

import pytest

from client.person import load_for_training as memory_choice
from client.person.load_for_training import (
    LEAST_TRAINING_BYTES,
    PACKING_BYTES,
    PROCESS_BYTES,
    ROUTINES_BYTES,
    MemoryChoice,
    choose,
)
from client.person.workspace import Memory
from client.releases.base_facts import BaseFacts
from proper_model.base.sizes import BaseShape
from proper_model.errors import ConfigError
from proper_model.settings.profile import BaseWeights

FULL, EIGHT_BIT, FOUR_BIT = BaseWeights
# 64 linears of 2^23 weights and as many numbers in embeddings, which are never packed.
SHAPE = BaseShape((1 << 23,) * 64, 1 << 29)
BASE = BaseFacts(SHAPE, FULL, width=4)
FIXED = PROCESS_BYTES + ROUTINES_BYTES + LEAST_TRAINING_BYTES
# By hand: 4 GiB in full; 8.5 and 4.5 bits a packed weight, one unpacked linear of 32 MiB.
HELD = {
    FULL: 4 << 30,
    EIGHT_BIT: (2 << 30) + (576 << 20) + PACKING_BYTES,
    FOUR_BIT: (2 << 30) + (320 << 20) + PACKING_BYTES,
}


def pick(
    limit: int | None,
    base: BaseFacts = BASE,
    *,
    asked: str | None = None,
    stored: BaseWeights | None = None,
    recompute: bool = False,
) -> MemoryChoice:
    return choose(limit, base, asked=asked, stored=stored, recompute=recompute)


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if bitsandbytes were installed."""
    monkeypatch.setattr(memory_choice, "find_spec", lambda _: object())


@pytest.mark.parametrize("own", list(BaseWeights))
def test_without_a_limit_or_a_choice_the_release_decides(own: BaseWeights) -> None:
    base = BaseFacts(SHAPE, own, width=4)
    assert pick(None, base) == MemoryChoice(own, None, recompute=False)
    assert pick(None, base, asked="8bit").base_weights is EIGHT_BIT
    assert pick(None, base, stored=FOUR_BIT).base_weights is FOUR_BIT
    assert pick(None, base, stored=FOUR_BIT, asked="full").base_weights is FULL


@pytest.mark.parametrize("weights", list(BaseWeights))
@pytest.mark.usefixtures("packing")
def test_the_base_is_held_as_fully_as_fits(weights: BaseWeights) -> None:
    least = FIXED + HELD[weights]
    choice = pick(least)
    assert choice.base_weights is weights
    assert choice.training_bytes == LEAST_TRAINING_BYTES
    assert choice.recompute, "so little is left that activations are recomputed"
    if weights is FOUR_BIT:
        with pytest.raises(ConfigError, match="too little"):
            pick(least - 1)
    else:
        lower = pick(least - 1)
        assert lower.base_weights is list(BaseWeights)[list(BaseWeights).index(weights) + 1]


@pytest.mark.usefixtures("packing")
def test_what_a_number_takes_is_what_is_computed_in() -> None:
    """The files may be bfloat16 either way: on a CPU the base is computed in float32."""
    limit = FIXED + (2 << 30)
    with pytest.raises(ConfigError, match="too little"):
        pick(limit)
    assert pick(limit, BaseFacts(SHAPE, FULL, width=2)).base_weights is FULL


@pytest.mark.usefixtures("packing")
def test_no_base_is_unpacked_that_the_release_packs() -> None:
    """Candidates begin with the release's own setting, or with what the adapters know."""
    plenty = 64 << 30
    assert pick(plenty, BaseFacts(SHAPE, FOUR_BIT, width=4)).base_weights is FOUR_BIT
    assert pick(plenty, stored=EIGHT_BIT).base_weights is EIGHT_BIT
    tight = FIXED + HELD[FOUR_BIT]
    assert pick(tight, stored=EIGHT_BIT).base_weights is FOUR_BIT


@pytest.mark.usefixtures("packing")
def test_loading_must_fit_too() -> None:
    """A base that has to be mapped is there in full, and its files, before it is packed."""
    mapped = BaseFacts(BaseShape(SHAPE.linears, SHAPE.rest, mapped_bytes=2 << 30), FULL, width=4)
    loading = PROCESS_BYTES + (6 << 30)
    with pytest.raises(ConfigError, match=r"6\.43 GiB"):
        pick(loading - 1, mapped)
    assert pick(loading, mapped).base_weights is FULL


def test_plenty_needs_no_recomputing() -> None:
    choice = pick(64 << 30)
    assert (choice.base_weights, choice.recompute) == (FULL, False)


def test_without_bitsandbytes_the_base_is_full_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_choice, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        pick(FIXED + HELD[EIGHT_BIT])
    assert ".[quantized]" in str(caught.value.hint)


def test_a_choice_of_ones_own_is_kept_or_refused() -> None:
    choice = pick(64 << 30, asked="4bit", recompute=True)
    assert (choice.base_weights, choice.recompute) == (FOUR_BIT, True)
    with pytest.raises(ConfigError, match="too little"):
        pick(FIXED + HELD[FOUR_BIT], asked="full")
    with pytest.raises(ConfigError, match="unknown --base-weights"):
        Memory(base_weights="3bit")


def test_main_memory_is_no_budget_of_a_gpu() -> None:
    """There the base lies in the GPU's memory, and training is bounded by what that has free."""
    base = BaseFacts(SHAPE, FULL, width=2, on_gpu=True)
    assert pick(2 << 30, base) == MemoryChoice(FULL, None, recompute=False)
