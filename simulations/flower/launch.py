"""Runs a plan through Flower and leaves nothing running behind.

`launch` starts `flower_engine` under the `supervisor`, shows progress from the small files that
server and nodes write, and reads the outcome. Nothing listens on a port, nothing is reported home.
Flower's own files and the log lie in `OUT/flower`. Source: docs/federation.md 1, 4 and 6.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from packaging.specifiers import SpecifierSet

from coordinator.journal import Journal, exclusive
from proper_model.errors import ConfigError, InterruptedRunError
from proper_model.federation.run_plan import PLAN_FILE, PLAN_VARIABLE, RunPlan
from proper_model.progress import Progress, silent
from proper_model.storage.files import PRIVATE_FILE, make_private_folder
from simulations.flower.causes import GO_ON, check_outcome, outcome, read_json
from simulations.outcome.devices import changed, incomplete
from simulations.setup.placement import choose_resources, this_machine
from simulations.setup.run_folder import check_owner

POLL_S = 0.3
ENDING_S = 10.0  # after the coordinator has failed, for the end of the log
SCRATCH = "tmp"  # below the folder of Flower's files
FLOWER = SpecifierSet(">=1.41,<1.43")  # as in pyproject.toml


def launch(plan_path: Path, progress: Progress = silent) -> None:
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
    machine = this_machine()
    chosen = choose_resources(plan, machine)
    command = [
        *(sys.executable, "-m", "simulations.flower.flower_engine", str(plan_path.resolve())),
        *(str(n) for n in (chosen.actors, chosen.threads, len(machine.gpu_memory_bytes))),
    ]
    try:
        # With the lock: another launcher's progress and files are not ours to read or delete.
        with exclusive(folder):
            reopen_private_rounds(plan)
            (plan.out / "progress.json").unlink(missing_ok=True)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)  # of a start that was killed
            log.touch(mode=PRIVATE_FILE)
            with log.open("ab") as output:
                start = output.tell()
                with child(command, child_environment(folder, plan_path), output) as runner:
                    _follow(runner, plan, progress)
                    if outcome(plan).get("state") == "finished":
                        # Flower would take seconds to close what only lives in memory.
                        nothing_to_save(runner)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            check_outcome(plan, log, start, runner.returncode)
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


def _follow(runner: subprocess.Popen[bytes], plan: RunPlan, progress: Progress) -> None:
    """Pass progress on until the coordinator has finished or Flower ends.

    Flower lets every node answer before it ends; after a failure one that hangs is not waited for.
    """
    last: tuple[str, int, int] | None = None
    failed_at: float | None = None
    while True:
        state, now = outcome(plan).get("state"), time.monotonic()
        if state == "failed":
            failed_at = now if failed_at is None else failed_at
        ended = (
            runner.poll() is not None
            or state == "finished"
            or (failed_at is not None and now - failed_at >= ENDING_S)
        )
        current = read_progress(plan)
        if current is not None and current != last:
            progress(*current)
            last = current
        if ended:
            return
        time.sleep(POLL_S)


def read_progress(plan: RunPlan) -> tuple[str, int, int] | None:
    """(phase, done, total) of a run: the server's, or in a round the sum over its nodes."""
    server = read_json(plan.out / "progress.json")
    if server is None or server.get("state") != "running":
        return None
    phase, done, total = str(server["phase"]), int(server["done"]), int(server["total"])
    if not phase.startswith(("personalize", "train.personalize", "evaluate")):
        return phase, done, total
    nodes = [
        found
        for partition in range(plan.node_count)
        if (found := read_json(plan.node_folder(partition) / "progress.json")) is not None
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
    """True if an earlier start finished this very plan and the predictions are all still there."""
    journal = Journal.open(plan.server_folder, plan.fingerprint())
    return (
        journal.done("personalize")
        and journal.done("evaluate")
        and not incomplete(plan.devices, plan.node_arms)
        and not changed(plan.devices)
    )


def reopen_private_rounds(plan: RunPlan) -> None:
    """Have a plan that is not `finished` ask its nodes again, whatever its journal says.

    Somebody may have removed results or edited data. The nodes make exactly what is missing: each
    device compares what it has with its own data.
    """
    journal = Journal.open(plan.server_folder, plan.fingerprint())
    if journal.done("personalize") and journal.done("evaluate"):
        journal.forget("personalize", "evaluate")
        journal.save()


@contextmanager
def child(
    command: list[str], environment: dict[str, str], output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised command; closing its pipe, also by our death, ends it and its descendants."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations.flower.supervisor", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        _wait(process)


def nothing_to_save(process: subprocess.Popen[bytes]) -> None:
    """Tell a supervisor to end its command without waiting, because all its work is on disk."""
    assert process.stdin is not None
    with suppress(OSError):  # it has ended by itself
        process.stdin.write(b"!")
        process.stdin.flush()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child even while Ctrl-C is pressed again; the supervisor's wait is bounded."""
    while True:
        try:
            process.wait()
        except KeyboardInterrupt:
            continue
        return


def child_environment(folder: Path, plan_path: Path) -> dict[str, str]:
    """Ours, plus where Flower keeps its things, with every report home switched off."""
    package_root = Path(__file__).resolve().parents[2]
    search = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package_root), *([search] if search else [])]),
        # `python -m` would look into the working folder first, where others may write (/tmp).
        "PYTHONSAFEPATH": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "FLWR_HOME": str(make_private_folder(folder / "home")),
        # The user's own may be full, forbidden or gone, which would show after hours; OUT is needed
        # anyway, is private, and has room for a release.
        "TMPDIR": str(make_private_folder(folder / SCRATCH)),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        PLAN_VARIABLE: str(plan_path.resolve()),
    }


def main() -> None:
    """`python -m simulations.flower.launch OUT/plan.json`."""
    launch(
        Path(sys.argv[1]) if len(sys.argv) == 2 else Path(PLAN_FILE),
        progress=lambda phase, done, total: print(f"{phase} {done}/{total}", flush=True),  # noqa: T201
    )


if __name__ == "__main__":
    main()
