"""One whole `proper-sim run` of a checkout in a folder of its own: seconds, CPU seconds, results."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.schema_pipeline import Round
from client.terminal.console import QUIET
from proper_model.errors import SimulationError
from simulations.flower.supervisor import Process, adopt_orphans, family, stop

COMMAND = "from simulations.cli import main; main()"
CPU_EVERY_S = 1.0
STOP_S = 60.0  # Flower takes seconds to end


def run_once(source: Path, arguments: Sequence[str]) -> tuple[Round, dict[str, Any]]:
    """Run a checkout's `proper-sim run` once; its seconds and the content of its results.

    Raises SimulationError if it fails; its own words went to stderr. On Ctrl-C the run has ended
    before this returns, since its folder goes then.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="proper-") as scratch:
        out = Path(scratch) / "out"
        command = [sys.executable, "-c", COMMAND, "run", *arguments, "--out", str(out)]
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, "--cache", str(Path(scratch) / "cache")],
            cwd=source,
            env={**os.environ, **QUIET, "PYTHONPATH": str(source)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C comes here alone, and is passed on once
        )
        try:
            cpu_s = watch_cpu(process)
        except BaseException:
            end(process)
            raise
        wall_s = time.monotonic() - start
        if process.returncode:
            raise SimulationError(
                f"{source.name}: proper-sim run ended with {process.returncode}",
                hint="its own message stands above",
            )
        results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    phases = results["timings_s"]
    took = Round(
        wall_s=wall_s,
        cpu_s=cpu_s,
        phases_s=phases,
        node_phases_s=results.get("node_timings_s", {}),
        untimed_s=wall_s - math.fsum(phases.values()),
        load_before=load,
    )
    return took, results


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a run as Ctrl-C would, wait for it, and kill what is left of all it started.

    A second Ctrl-C waits no longer.
    """
    known = family(set())
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(STOP_S)
    stop(process.pid, known, 0.0)
    process.wait()


def watch_cpu(process: subprocess.Popen[bytes]) -> float:
    """Wait for a command; CPU seconds of it and of all it started, even of what it left orphaned.

    Some processes are nobody's children by the time they end, so the family is looked at once a
    second; what a process took in its last second may be missing.
    """
    adopt_orphans()
    seen: dict[Process, float] = {}
    while True:
        ended = process.poll() is not None
        for member in family(set(seen)):
            with suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{member[0]}/stat").read_text().rpartition(")")[2].split()
                seen[member] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        if ended:
            return math.fsum(seen.values())
        time.sleep(CPU_EVERY_S)
