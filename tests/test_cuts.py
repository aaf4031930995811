"""How memory cuts a step into passes changes nothing that stages 1 and 2 learn but rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proper_model.base.population_lora import attach_population
from proper_model.engine import pooled_training
from proper_model.engine.pooled_training import PooledTraining
from proper_model.settings.presets import Constraint, preset
from proper_model.settings.profile import (
    GroupSettings,
    PopulationSettings,
    StageSettings,
    UserSettings,
)
from proper_model.stages import population as population_stage
from proper_model.stages.group import train_group
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.population import train_population
from proper_model.text.encoding import Encoder
from tests.tiny import adapted, encoder, exact_norms, samples, tiny_base

ENOUGH, LEAST = 1 << 40, 1  # bytes: a whole step in a pass, and one sample in a pass
LONGEST = 16  # tokens of a sample at most; the probe's pass of two is the largest
STEPS = 3  # after which a run is killed


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every training pass."""
    seen: list[int] = []
    real = PooledTraining._batch

    def watched(self: PooledTraining, part: Any) -> Any:
        seen.append(len(part))
        return real(self, part)

    monkeypatch.setattr(PooledTraining, "_batch", watched)
    return seen


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every pass, of validation and its fits too."""
    seen: list[int] = []
    real = Encoder.batch

    def watched(self: Encoder, items: Any, *rest: Any, **named: Any) -> Any:
        seen.append(sum(len(item.tokens) for item in items))
        return real(self, items, *rest, **named)

    monkeypatch.setattr(Encoder, "batch", watched)
    return seen


def people(count: int, seed: int) -> list[PooledUser]:
    return [PooledUser(samples(5, seed + u), samples(2, seed + 50 + u)) for u in range(count)]


def group(
    budget: int | None, form: Constraint, checkpoint: Path | None = None, kill: int = 0
) -> list[Tensor]:
    """What stage 2 trains, in float64."""
    chosen = dataclasses.replace(preset("default"), constraint=form)
    model = adapted(chosen, users=1)
    exact_norms(model.base)
    settings = StageSettings(
        name="t",
        group=GroupSettings(epochs=2, batch_size=8, dropout=0.2, constraint_weight=0.5),
        user=UserSettings(embedding_epochs=2),
    )

    def progress(done: int, total: int) -> None:
        if done == kill:
            raise KilledError

    table, _ = train_group(
        model,
        encoder(),
        people(5, 10),
        people(2, 500),
        settings,
        seed=0,
        memory_bytes=budget,
        checkpoint=checkpoint,
        progress=progress if kill else None,
    )
    assert table.dtype is torch.float64
    return [table, *(p.detach().clone() for p in model.parameters())]


def population(
    budget: int | None, checkpoint: Path | None = None, kill: int = 0, dropout: float = 0.2
) -> list[Tensor]:
    """What stage 1 trains, in float64."""
    base = tiny_base(dtype=torch.float64)
    exact_norms(base)
    settings = StageSettings(
        name="t",
        dtype="float64",
        population=PopulationSettings(
            rank=4, alpha=8.0, dropout=dropout, epochs=2, batch_size=8, use_history=True
        ),
    )

    def progress(done: int, total: int) -> None:
        if done == kill:
            raise KilledError

    before = {name: p.clone() for name, p in base.named_parameters()}
    state, _ = train_population(
        base,
        encoder(),
        people(5, 10),
        people(2, 500),
        settings,
        seed=0,
        memory_bytes=budget,
        checkpoint=checkpoint,
        progress=progress,
    )
    after = dict(base.named_parameters())  # nothing of the training is left in the base
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], p) for name, p in after.items())
    return list(state.values())


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1's factors in float64, which PEFT makes in float32."""
    real = attach_population
    monkeypatch.setattr(
        population_stage, "attach_population", lambda *a, **k: real(*a, **k).double()
    )


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-10, rtol=0) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("form", [Constraint.AGGREGATE, Constraint.PAIRS])
def test_stage_2_is_the_same_in_any_budget(
    form: Constraint, passes: list[int], tokens: list[int]
) -> None:
    whole = group(ENOUGH, form)
    assert max(passes) == 8
    assert max(tokens) > 4 * LONGEST
    passes.clear()
    tokens.clear()
    assert same(group(LEAST, form), whole)
    assert max(passes[2:]) < 4  # after the two of the probe
    assert max(tokens) <= 2 * LONGEST
    assert not same(group(LEAST, Constraint.NONE), whole)


@pytest.mark.usefixtures("precise")
def test_stage_1_is_the_same_in_any_budget(passes: list[int], tokens: list[int]) -> None:
    whole = population(ENOUGH)
    assert max(passes) == 8
    passes.clear()
    tokens.clear()
    assert same(population(LEAST), whole)
    assert max(passes[2:]) < 4
    assert max(tokens) <= 2 * LONGEST
    assert not same(population(LEAST, dropout=0.0), whole)  # it does drop


@pytest.mark.parametrize("stage", ["population", "group"])
def test_a_resumed_run_cuts_as_before_whatever_memory_is_free_now(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which something else may fill between: the same bits."""
    real = PooledTraining.__init__
    monkeypatch.setattr(
        PooledTraining,
        "__init__",
        lambda self, *a, **k: real(self, *a, **{**k, "checkpoint_every_s": 0.0}),
    )

    def train(free: int, checkpoint: Path | None = None, kill: int = 0) -> list[Tensor]:
        monkeypatch.setattr(pooled_training, "free_bytes", lambda _: free)
        if stage == "group":
            return group(None, Constraint.AGGREGATE, checkpoint, kill)
        return population(None, checkpoint, kill)

    whole = train(LEAST)
    with pytest.raises(KilledError):
        train(LEAST, tmp_path / "state", STEPS)
    resumed = train(ENOUGH, tmp_path / "state")
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))
