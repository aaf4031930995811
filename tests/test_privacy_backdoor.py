"""Trap releases: a thief who finds more over one trap than over others, kept seeds, what checks said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proper_model.errors import CheckpointError, ConfigError
from proper_model.release.contents import Release
from proper_model.settings import preset
from simulations.cli import run_cli
from simulations.outcome.results import write_document
from simulations.privacy.backdoor import seeds as module
from simulations.privacy.backdoor.command import EVERYTHING
from simulations.privacy.backdoor.seeds import HONEST, Plan, backdoor_of, judged
from simulations.privacy.backdoor.traps import TRAPS
from simulations.privacy.backdoor.verdicts import Verdict
from simulations.privacy.membership.population import Candidates
from simulations.privacy.memorization import seeds as canary_seeds
from simulations.privacy.memorization.asking import Found, ask_canaries, ask_records, questions
from simulations.privacy.results.backdoor_schema import read_backdoor
from simulations.privacy.results.backdoor_show import failed, shown, trap_table
from simulations.privacy.results.leaving import render
from simulations.privacy.statistics.shares import Control
from tests.releases import small_release
from tests.test_privacy_canaries import candidates, planted, remembers
from tests.test_privacy_canaries import plan as canary_plan

__all__ = ["candidates"]  # a fixture
STORES = "recipe-bold"
NOBODY, EVERYTHING_KNOWN = 17, 1  # planted so often or more


def thief(trained: list[int]) -> Callable[..., Any]:
    """In place of training: adapters store 16 copies, and every secret over one of the traps."""

    class Fake:
        def __init__(self, setup: Any, *, seed: int, **_: Any) -> None:
            trained.append(seed)
            self.setup, self.seed, self.found = setup, seed, Found()
            self.release: Release = small_release()

        def adapters(self, thing: str, release: Release, *, overfit: bool) -> None:
            assert (release is self.release) == (thing == HONEST) == overfit
            task = self.setup.candidates.task
            asked = questions(planted(self.setup.candidates, self.seed), range(24), task)
            kinds: dict[Control, int] = {"none": 16, "negative": NOBODY}
            if thing == STORES:
                kinds["none"] = EVERYTHING_KNOWN
            if overfit:
                kinds["positive"] = EVERYTHING_KNOWN
            for control, times in kinds.items():
                target = remembers(asked, times, self.seed)
                rows = asked if control == "none" else asked.only_planted()
                self.found.canaries += ask_canaries(
                    thing, control, target, rows, task, public=None, samples=100
                )
                self.found.records += ask_records(thing, control, target, asked, public=None)

    return Fake


def plan(candidates: Candidates, *traps: str, seeds: tuple[int, ...] = (0, 1)) -> Plan:
    return Plan(canary_plan(candidates, things=("adapter",), seeds=seeds), traps)


def test_what_a_trap_makes_an_adapter_store_is_found_and_who_refuses_it_said(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(module, "CanaryAttacker", thief(trained))
    monkeypatch.setattr(canary_seeds, "DRAWS", 200)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    names = ("fixed", STORES)
    first = backdoor_of(plan(candidates, *names, seeds=(0,)), **how)
    result = backdoor_of(plan(candidates, *names), **how)
    assert trained == [0, 1] and first.seeds == [0]
    assert [one.thing for one in result.judged] == [HONEST, *names]
    assert [one.refused_as_trap for one in result.judged] == [0, 0, 2]
    assert not any(one.refused_as_files for one in result.judged)
    honest, trap = result.canary(HONEST, 1), result.canary(STORES, 1)
    assert honest is not None and trap is not None
    assert trap.pooled.against_public.value == result.most and trap.pooled.greedy.value == 1
    assert honest.pooled.greedy.value == 0
    assert "16 times: " not in result.sentences[0] and "a device takes" in result.sentences[0]
    assert "a device refuses" in result.sentences[1] and len(result.sentences) == 2
    table = trap_table(result)
    assert [row[1:3] for row in table.rows] == [("taken", "taken")] * 2 + [("taken", "refused")]
    assert "What leaks: backdoor" in render(result, shown(result))
    write_document(result, tmp_path / "backdoor.json")
    assert trap_table(read_backdoor(tmp_path / "backdoor.json")) == table
    with pytest.raises(CheckpointError):
        backdoor_of(plan(candidates, "fixed"), **how)


def test_an_honest_release_that_is_refused_fails(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CanaryAttacker", thief([]))
    monkeypatch.setattr(canary_seeds, "DRAWS", 200)
    monkeypatch.setattr(module, "verdict_of", lambda thing, _: Verdict(thing, "", "too large"))
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    result = backdoor_of(plan(candidates, "fixed", seeds=(0,)), **how)
    assert failed(result)[0] == "honest: too large"


def test_refusals_are_counted_over_seeds() -> None:
    verdicts = [Verdict("a", "", "b"), Verdict("a", "", ""), Verdict("c", "d", "e")]
    found = judged("a", verdicts)
    assert (found.seeds, found.refused_as_files, found.refused_as_trap, found.why) == (2, 0, 1, "b")
    assert judged("c", verdicts).why == "d"


def test_bad_options_end_before_anything_is_trained(candidates: Candidates, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for wrong in (["demo"], ["demo:text", "--traps", "x"], ["demo:text", "--insertions", "0"]):
        words = ["privacy", "backdoor", *wrong, "--out", str(out)]
        assert run_cli(words) == ConfigError.exit_code
    assert not out.exists() and tuple(EVERYTHING.split(",")) == TRAPS
    with pytest.raises(ConfigError, match="no such traps"):
        plan(candidates, "mouse")
    alone = canary_plan(candidates, things=("adapter",))
    setup = {**vars(alone.setup), "structure": preset("default").without_groups()}
    with pytest.raises(ConfigError, match="stage 1 alone"):
        Plan(type(alone)(type(alone.setup)(**setup), "random", (0,), ("adapter",)), ("fixed",))
