"""Runs a plan through Flower and leaves nothing running behind.

`launch` starts `simulations.flower.flower_engine` under supervision, shows progress from the small files
that server and nodes write, and reads the outcome. Nothing listens on a port, nothing is reported
home. Flower's own files and the log lie in `OUT/flower`.
Source: design notes docs/federation.md 1, 4 and 6.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from coordinator.journal import Journal, exclusive
from proper_model import errors
from proper_model.errors import ConfigError, InterruptedRunError, ProperError, SimulationError
from proper_model.federation.run_plan import PLAN_FILE, RunPlan
from proper_model.storage.files import (
    PRIVATE_FILE,
    make_private_folder,
    storage_errors,
    write_atomic,
)
from simulations.flower.causes import known_cause
from simulations.flower.flower_processes import SCRATCH, child, child_environment, nothing_to_save
from simulations.outcome.devices import changed, incomplete
from simulations.setup.placement import Machine, base_bytes, choose_placement, this_machine
from simulations.setup.run_folder import check_owner

Progress = Callable[[str, int, int], None]

POLL_S = 0.3
PROBE_BYTES = 1 << 16
ENDING_S = 10.0  # after the coordinator's last word, for the end of the log
GO_ON = "go on with the same command (proper-sim run: and --resume)"
FLOWER = SpecifierSet(">=1.41,<1.43")  # as in pyproject.toml


@dataclass(frozen=True)
class Resources:
    """How many processes play the nodes of a plan, one node after the other, and on what."""

    nodes: int
    actors: int
    threads: int
    gpus: int


def choose_resources(plan: RunPlan, machine: Machine) -> Resources:
    """Actors for the nodes of a plan on the machine as it is now.

    Nodes and threads stay what the plan says, since results are about them; a plan from a larger
    machine gets what this one has.
    """
    threads = min(plan.node_threads, machine.cores)
    placement = choose_placement(
        users=len(plan.devices),
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        base=base_bytes(plan.base, plan.stage_settings),
        gpu_memory_bytes=machine.gpu_memory_bytes,
        training_bytes=plan.node_memory_bytes,
        actors=plan.actors and min(plan.actors, machine.cores // threads),
        threads=threads,
        users_per_node=plan.users_per_node,
    )
    gpus = len(machine.gpu_memory_bytes)
    return Resources(plan.node_count, placement.actors, placement.threads, gpus)


def launch(plan_path: Path, progress: Progress | None = None) -> None:
    """Run the simulation of a plan to its end.

    Args:
        plan_path: `OUT/plan.json`.
        progress: called with (phase, done, total) whenever that changed.

    Raises:
        SimulationError: the run failed; names the log and what the coordinator said.
        InterruptedRunError: Ctrl-C; everything that was started has ended by then.
        ConfigError: Flower is installed in a version that this was not tried with.
    """
    check_flower(version("flwr"))
    plan = RunPlan.load(plan_path)
    for place in (plan.out, plan.cache):
        check_owner(place)
    folder = make_private_folder(plan.out / "flower")
    log = folder / "flower.log"
    if finished(plan):
        return
    resources = choose_resources(plan, this_machine())
    command = [
        *(sys.executable, "-m", "simulations.flower.flower_engine", str(plan_path.resolve())),
        *(str(n) for n in (resources.actors, resources.threads, resources.gpus)),
    ]
    try:
        # Another launcher's progress is no word about this run, nor are its files ours to delete.
        with exclusive(folder):
            (plan.out / "progress.json").unlink(missing_ok=True)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)  # of a start that was killed
            log.touch(mode=PRIVATE_FILE)
            with log.open("ab") as output:
                start = output.tell()
                with child(command, child_environment(folder, plan_path), output) as runner:
                    _follow(runner, plan, progress)
                    if _outcome(plan).get("state") == "finished":
                        # Flower would take seconds to close what only lives in memory.
                        nothing_to_save(runner)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            _check_outcome(plan, log, start, runner.returncode)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted",
            hint=f"{GO_ON}; {plan.out} keeps what is finished",
        ) from None


def check_flower(installed: str) -> None:
    """Raise ConfigError for a Flower whose inner parts may be others than `flower_engine` calls."""
    if installed not in FLOWER:
        raise ConfigError(
            f"flwr {installed} is installed, expected {FLOWER}: a run calls parts of Flower that "
            "it does not promise to keep",
            hint=f"pip install 'flwr{FLOWER}', or make install",
        )


def _follow(runner: subprocess.Popen[bytes], plan: RunPlan, progress: Progress | None) -> None:
    """Pass progress on until the coordinator has finished or Flower ends.

    Flower lets every node answer before it ends; after a failure one that hangs is not waited for.
    """
    last: tuple[str, int, int] | None = None
    failed_at: float | None = None
    while True:
        state, now = _outcome(plan).get("state"), time.monotonic()
        if state == "failed":
            failed_at = now if failed_at is None else failed_at
        ended = (
            runner.poll() is not None
            or state == "finished"
            or (failed_at is not None and now - failed_at >= ENDING_S)
        )
        current = read_progress(plan)
        if progress is not None and current is not None and current != last:
            progress(*current)
            last = current
        if ended:
            return
        time.sleep(POLL_S)


def read_progress(plan: RunPlan) -> tuple[str, int, int] | None:
    """(phase, done, total) of a run: the server's, or in a round the sum over its nodes."""
    server = _read_json(plan.out / "progress.json")
    if server is None or server.get("state") != "running":
        return None
    phase, done, total = str(server["phase"]), int(server["done"]), int(server["total"])
    if not phase.startswith(("personalize", "train.personalize", "evaluate")):
        return phase, done, total
    nodes = [
        found
        for partition in range(plan.node_count)
        if (found := _read_json(plan.node_folder(partition) / "progress.json")) is not None
    ]
    active = [n for n in nodes if str(n["phase"]).startswith(("personalize", "evaluate"))]
    if not active:
        return phase, done, total
    running = next((str(n["phase"]) for n in active if ":" in str(n["phase"])), phase)
    same = [n for n in active if n["phase"] == running]
    if not same:
        return phase, done, total
    return running, sum(int(n["done"]) for n in same), sum(int(n["total"]) for n in same)


def finished(plan: RunPlan) -> bool:
    """True if an earlier start finished this very plan and the predictions are all still there.

    Otherwise the private rounds are to be done again. They are cheap where nothing changed: each
    device compares what it has with its own data.
    """
    journal = Journal.open(plan.server_folder, plan.fingerprint())
    if not (journal.done("personalize") and journal.done("evaluate")):
        return False
    if not incomplete(plan.devices, plan.node_arms) and not changed(plan.devices):
        return True
    # Somebody removed results or edited data: the nodes make exactly what is missing, if asked.
    journal.forget("personalize", "evaluate")
    journal.save()
    return False


def _check_outcome(plan: RunPlan, log: Path, start: int, status: int) -> None:
    """Raise unless the coordinator said that it finished: what it said, else what the log shows.

    `start`: where in the log this run began; `status`: the exit status of its process.
    """
    outcome = _outcome(plan)
    if outcome.get("state") == "finished":
        return
    cause = known_cause(log, start, status)
    if outcome.get("state") == "failed":
        also = f"; {cause}" if cause else ""
        raise _error_class(outcome.get("kind"))(
            f"{outcome.get('error')}{also} (log: {log})",
            hint=str(outcome.get("hint") or "") or None,
        )
    if cause is None:  # a disk too full for the log, too
        with storage_errors(log):
            write_atomic(log.with_name("room"), bytes(PROBE_BYTES))
            log.with_name("room").unlink()
    raise SimulationError(
        f"Flower ended before the coordinator finished: {cause or 'cause unknown'} (log: {log})",
        hint=f"{'mend that' if cause else 'read the end of the log'}; then {GO_ON}",
    )


def _error_class(name: object) -> type[ProperError]:
    """The class of ours by that name, for its exit code; SimulationError where there is none."""
    found = getattr(errors, str(name), None)
    return found if isinstance(found, type) and issubclass(found, ProperError) else SimulationError


def _outcome(plan: RunPlan) -> dict[str, Any]:
    return _read_json(plan.out / "progress.json") or {}


def _read_json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


def main() -> None:
    """`python -m simulations.flower.launch OUT/plan.json`."""
    launch(
        Path(sys.argv[1]) if len(sys.argv) == 2 else Path(PLAN_FILE),
        progress=lambda phase, done, total: print(f"{phase} {done}/{total}", flush=True),  # noqa: T201
    )


if __name__ == "__main__":
    main()
