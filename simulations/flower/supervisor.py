"""Runs one command and makes sure nothing of it outlives the process that asked for it.

Programs start helpers in sessions of their own, so neither Ctrl-C nor the death of the launcher
reaches them. This process stands between: its standard input is a pipe from the launcher. When that
closes, be it on purpose, by a crash or by SIGKILL, the command is asked to stop, and what has not
stopped after a while is killed; after a word on the pipe, at once. Only descendants of the command
are touched. Standard library only, so that it starts at once.

    python -m simulations.flower.supervisor COMMAND ARG...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 3.0
POLL_S = 0.2
KILL_ROUNDS = 50
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

# A process is its id and its start time, so that a recycled id is never taken for it.
Process = tuple[int, str]


def process_table() -> dict[int, tuple[int, str]]:
    """Every process: id -> (parent's id, start time)."""
    proc = Path("/proc")
    table: dict[int, tuple[int, str]] = {}
    if (proc / "self" / "stat").exists():
        for folder in proc.iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    # The name in parentheses may hold spaces; the fields follow the last one.
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if fields[0] != "Z":
                        table[int(folder.name)] = (int(fields[1]), fields[19])
        return table
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,lstart="], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        pid, parent, started = line.split(None, 2)
        table[int(pid)] = (int(parent), started)
    return table


def family(known: set[Process]) -> set[Process]:
    """Everything that still runs below this process or below one of `known`."""
    table = process_table()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    frontier = [*children.get(os.getpid(), []), *(pid for pid, _ in alive(known))]
    found: set[Process] = set()
    while frontier:
        pid = frontier.pop()
        if pid in table and (pid, table[pid][1]) not in found:
            found.add((pid, table[pid][1]))
            frontier.extend(children.get(pid, []))
    return found


def alive(processes: set[Process]) -> set[Process]:
    """Those of `processes` that still run."""
    table = process_table()
    return {(pid, start) for pid, start in processes if table.get(pid, (0, ""))[1] == start}


def send(processes: set[Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still the one it was."""
    for pid, _ in alive(processes):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def adopt_orphans() -> bool:
    """Become the parent of descendants whose own parent dies; False where the system cannot."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Be killed when the parent ends, which then can no longer ask; only where the system can.

    Linux means the thread that started this process.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> bool:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    return False


def stop(root: int, known: set[Process], grace_s: float = GRACE_S) -> None:
    """Ask `root` to end, wait, then kill whatever of its family is left."""
    known |= family(known)
    send({p for p in known if p[0] == root}, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while alive(known) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        known |= family(known)
    # More than once: a process may start another between being listed and being killed. Not for
    # ever: one that waits for a device cannot be killed.
    for _ in range(KILL_ROUNDS):
        known |= family(known)
        if not alive(known):
            break
        send(known, signal.SIGKILL)
        time.sleep(POLL_S)


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; its exit status, or 0 if stopped.

    One that a signal ended has 128 and the signal's number, as in a shell.
    """
    # Not SIG_IGN, which the command would inherit.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    adopted = adopt_orphans()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has no threads
    )
    known = family(set())
    grace_s = GRACE_S
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready:
            if os.read(sys.stdin.fileno(), 1024):
                grace_s = 0.0
            break
        if not adopted:  # else all of it is below this process in the end too
            known |= family(known)
    ended = child.poll()
    stop(child.pid, known, grace_s)
    child.wait()
    if ended is None:
        return 0
    return ended if ended >= 0 else 128 - ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
