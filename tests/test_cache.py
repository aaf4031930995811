"""Phases that runs share: found by what they depend on, trained by one run while others wait."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coordinator.phase_cache import Phase, PhaseCache
from coordinator.phase_keys import PhaseInputs
from coordinator.phase_people import mark_of, people_of, phases_of, remove_phase
from proper_model.engine.checkpoint import load_checkpoint, save_checkpoint
from proper_model.settings.presets import UserRouting, preset
from proper_model.settings.profile import BaseWeights, StageSettings, UserSettings
from proper_model.storage.durable import locked

# Another run, which holds the phase until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from proper_model.storage.durable import locked
with locked(Path(sys.argv[1]), timeout_s=0):
    print("training", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def phase(tmp_path: Path) -> Phase:
    return PhaseCache(tmp_path).phase("router", {"seed": 1})


def result(by: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return {"x": torch.ones(2)}, {"by": by}


def forbidden(_checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    raise AssertionError("trained twice")


def leave_checkpoints(phase: Phase) -> None:
    for name in ("checkpoint.0.lora", "checkpoint", ".checkpoint.0.lora.0123.tmp"):
        save_checkpoint(phase.folder / name, {"lora": torch.ones(1)}, {})


def names(phase: Phase) -> list[str]:
    return sorted(p.name for p in phase.folder.iterdir())


def test_looking_at_a_phase_changes_nothing(phase: Phase) -> None:
    assert not phase.finished()
    assert not phase.folder.exists()
    phase.store(*result("me"))
    leave_checkpoints(phase)
    before = names(phase)
    assert phase.finished()
    assert names(phase) == before


def test_a_kill_between_saving_and_cleaning_leaves_nothing_for_long(phase: Phase) -> None:
    phase.store(*result("me"))
    leave_checkpoints(phase)
    assert phase.train_once(forbidden)[1] == {"by": "me"}
    assert names(phase) == ["done.safetensors"]


def test_checkpoints_that_another_run_removes_meanwhile_are_no_error(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_checkpoints(phase)
    glob = Path.glob

    def raced(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        for path in found:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "glob", raced)
    assert phase.train_once(lambda _: result("me"))[1] == {"by": "me"}


def waiting(phase: Phase, by: str, seen: list[str]) -> threading.Thread:
    """A run that needs the phase and has begun to wait for it."""

    def run() -> None:
        seen.append(phase.train_once(lambda _: result(by))[1]["by"])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "the other run still trains this phase"
    return thread


@pytest.mark.parametrize("ends", ["finished", "failed"])
def test_a_phase_is_trained_by_one_run_at_a_time(phase: Phase, ends: str) -> None:
    seen: list[str] = []
    threads: list[threading.Thread] = []

    def train(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        save_checkpoint(checkpoint, {"lora": torch.ones(1)}, {})
        threads.append(waiting(phase, "the one that waited", seen))
        if ends == "failed":
            raise RuntimeError
        return result("the first")

    if ends == "failed":
        with pytest.raises(RuntimeError):
            phase.train_once(train)
    else:
        assert phase.train_once(train)[1] == {"by": "the first"}
    threads[0].join(60)
    assert seen == ["the first" if ends == "finished" else "the one that waited"]
    assert names(phase) == ["done.safetensors"]
    with locked(phase.lock, timeout_s=0):  # a finished phase is free, and needs no lock
        phase.train_once(forbidden)


def test_a_run_that_was_killed_lets_the_next_one_train(phase: Phase, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(phase.lock)]
    seen: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "training\n"
        thread = waiting(phase, "the one that waited", seen)
        other.kill()
        thread.join(60)
    assert seen == ["the one that waited"]


def test_a_failed_attempt_is_repeated_from_its_checkpoint(phase: Phase) -> None:
    def fail(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        save_checkpoint(checkpoint, {"lora": torch.full((1,), 3.0)}, {})
        raise RuntimeError

    def go_on(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = load_checkpoint(checkpoint)
        assert found is not None
        return {"x": found[0]["lora"]}, {"by": "me"}

    with pytest.raises(RuntimeError):
        phase.train_once(fail)
    assert phase.train_once(go_on)[0]["x"].item() == 3.0


# -- keys ------------------------------------------------------------------------------------------

INPUTS = PhaseInputs(
    base="b" * 64,
    data="d" * 64,
    structure=preset("default"),
    settings=StageSettings(name="t"),
    seed=7,
    device="cpu",
    threads=2,
)


def folders(inputs: PhaseInputs) -> dict[str, str]:
    """Where the three phases of a run are kept."""
    cache = PhaseCache(Path("cache"))
    keys = {
        "population": inputs.population_key(),
        "group": inputs.group_key(),
        "router": inputs.router_key(),
    }
    return {name: cache.phase(name, key).folder.name for name, key in keys.items()}


@pytest.mark.parametrize(
    ("inputs", "population", "group", "router"),
    [
        (
            INPUTS,
            "population-8ba977b8d453ba9671228360",
            "group-cb662feafcc6998d09906348",
            "router-af93480e6ef3471225dd6291",
        ),
        (
            dataclasses.replace(
                INPUTS,
                structure=preset("paper"),
                settings=StageSettings(name="u", dtype="bfloat16"),
                seed=0,
            ),
            "population-fdc840f1c4882970e85e71cb",
            "group-6ffd91f8cf9752a7125533b3",
            "router-161c4b4bd1812383ca720c42",
        ),
    ],
    ids=["default", "paper"],
)
def test_phases_of_earlier_versions_are_found(
    inputs: PhaseInputs, population: str, group: str, router: str
) -> None:
    """These names are of training version 7 and the settings of today.

    A setting that is added, or another default, rightly moves them; anything else must not.
    """
    assert folders(inputs) == {"population": population, "group": group, "router": router}


@pytest.mark.parametrize(
    ("change", "phases"),
    [
        ({"seed": 8}, {"population", "group", "router"}),
        ({"threads": 3}, {"population", "group", "router"}),
        ({"settings": StageSettings(name="other")}, set()),
        ({"settings": StageSettings(name="t", max_prompt_tokens=64)}, {"population", "group", "router"}),
        ({"settings": StageSettings(name="t", base_weights=BaseWeights.FOUR_BIT)}, {"group", "router"}),
        ({"structure": dataclasses.replace(preset("default"), experts=3)}, {"group", "router"}),
        ({"settings": StageSettings(name="t", user=UserSettings(embedding_epochs=9))}, {"group", "router"}),
        ({"settings": StageSettings(name="t", user=UserSettings(epochs=9))}, {"router"}),
        ({"settings": StageSettings(name="t", retrieval_tokens=64)}, set()),
        ({"grouped": "g" * 64}, {"group", "router"}),
        ({"structure": dataclasses.replace(preset("default"), end_to_end=True, user_routing=UserRouting.USER_AWARE)}, {"group", "router"}),
        ({"structure": dataclasses.replace(preset("default"), private_lora_router=True)}, {"router"}),
        (
            {"structure": dataclasses.replace(preset("default"), detach_lora_router=True)},
            {"router"},
        ),
    ],
)  # fmt: skip
def test_a_phase_is_trained_again_where_what_it_depends_on_changed(
    change: dict[str, Any], phases: set[str]
) -> None:
    before, after = folders(INPUTS), folders(dataclasses.replace(INPUTS, **change))
    assert {name for name in before if before[name] != after[name]} == phases


def people_phase(folder: Path, *people: str) -> Phase:
    return PhaseCache(folder, people).phase("router", {"seed": 1})


def test_a_phase_says_whose_data_it_has_before_its_first_checkpoint(tmp_path: Path) -> None:
    def train(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert people_of(checkpoint.parent) == {mark_of("ada"), mark_of("ben")}
        return result("me")

    phase = people_phase(tmp_path, "ada", "ben")
    phase.train_once(train)
    assert phases_of(tmp_path, ["ada"]) == ([phase.folder], [])
    assert phases_of(tmp_path, ["eve"]) == ([], [])
    # The same tokens, under other names too.
    people_phase(tmp_path, "eve").train_once(forbidden)
    assert phases_of(tmp_path, ["eve"])[0] == phases_of(tmp_path, ["ben"])[0] == [phase.folder]
    with locked(phase.lock, timeout_s=0), pytest.raises(TimeoutError):
        remove_phase(phase.folder)
    remove_phase(phase.folder)
    assert not phase.folder.exists() and not phase.finished()


def test_a_phase_of_an_earlier_program_goes_on_saying_nothing(tmp_path: Path) -> None:
    PhaseCache(tmp_path).phase("router", {"seed": 1}).store(*result("me"))
    phase = people_phase(tmp_path, "ada")
    phase.train_once(forbidden)
    assert phases_of(tmp_path, ["ada"]) == ([], [phase.folder])
    (phase.folder / "people.json").write_text("[1]")
    assert people_of(phase.folder) is None
