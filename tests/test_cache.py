"""Phases that runs share: one trains, others wait; a finished one keeps no training state."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from coordinator.phase_cache import Phase, PhaseCache
from proper_model.engine.checkpoint import save_checkpoint
from proper_model.storage.durable import locked

# Another run: it claims the phase, says what it saw, and trains until it is told to go on.
RUN = """
import sys
from pathlib import Path
import torch
from coordinator.phase_cache import PhaseCache
phase = PhaseCache(Path(sys.argv[1])).phase("router", {"seed": 1})
print("done" if phase.done else "training", flush=True)
if sys.stdin.readline() == "finish\\n":
    phase.finish({"x": torch.ones(2)}, {"by": "other"})
"""


@pytest.fixture
def phase(tmp_path: Path) -> Phase:
    return PhaseCache(tmp_path).phase("router", {"seed": 1})


def finish(phase: Phase) -> None:
    phase.finish({"x": torch.ones(2)}, {"by": "me"})


def leave_checkpoints(phase: Phase) -> None:
    for name in ("checkpoint.0.lora", "checkpoint", ".checkpoint.0.lora.0123.tmp"):
        save_checkpoint(phase.folder / name, {"lora": torch.ones(1)}, {})


def names(phase: Phase) -> list[str]:
    return sorted(p.name for p in phase.folder.iterdir())


def test_a_kill_between_saving_and_cleaning_leaves_nothing_for_long(phase: Phase) -> None:
    finish(phase)
    leave_checkpoints(phase)
    assert phase.done
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
    finish(phase)
    assert phase.load()[1] == {"by": "me"}


@pytest.mark.parametrize(("told", "found"), [("finish", True), ("end without a result", False)])
def test_a_phase_is_trained_by_one_process_at_a_time(
    phase: Phase, tmp_path: Path, told: str, found: bool
) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "training\n"
        seen: list[bool] = []
        waiting = threading.Thread(target=lambda: seen.append(phase.done))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "the other run still trains this phase"
        other.stdin.write(f"{told}\n")
        other.stdin.flush()
        waiting.join(60)
    assert seen == [found]
    if not found:
        finish(phase)
    assert phase.load()[1] == {"by": "other" if found else "me"}


def test_a_finished_phase_is_free_and_a_failed_attempt_can_be_repeated(
    phase: Phase, tmp_path: Path
) -> None:
    assert not phase.done
    again = PhaseCache(tmp_path).phase("router", {"seed": 1})
    assert not again.done
    finish(again)
    with locked(phase.lock, timeout_s=0):
        assert phase.done
