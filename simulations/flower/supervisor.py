"""Runs one command and makes sure nothing of it outlives the process that asked for it.

Programs start helpers in sessions of their own, so neither Ctrl-C nor the death of the launcher
reaches them. The standard input of this process is a pipe from the launcher. When it closes, be it
on purpose, by a crash or by SIGKILL, the command is asked to stop, and what has not stopped after a
while is killed; after a byte on the pipe, at once. Only descendants of the command are touched.

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
from collections.abc import Iterable

import psutil
from psutil import Process

GRACE_S = 3.0
POLL_S, LOOK_S = 0.2, 1.0
KILL_ROUNDS = 50
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

# A `Process` is compared by id and start time: a recycled id is never taken for one that ended.


def family(known: Iterable[Process]) -> set[Process]:
    """Everything that still runs below this process or below one of `known`."""
    found = set(Process().children(recursive=True))
    for lost in alive(known) - found:
        found.add(lost)
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(lost.children(recursive=True))
    return alive(found)


def alive(processes: Iterable[Process]) -> set[Process]:
    """Those of `processes` that still run."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
    return found


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still the one it was."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(number)


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


def stop(root: int, known: Iterable[Process], grace_s: float = GRACE_S) -> None:
    """Ask `root` to end, wait, then kill whatever of its family is left, `known` included."""
    left = family(known)
    send({process for process in left if process.pid == root}, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = family(left)
    # More than once: a process may start another between being listed and being killed. Not for
    # ever: one that waits for a device cannot be killed.
    for _ in range(KILL_ROUNDS):
        left = family(left)
        if not left:
            break
        send(left, signal.SIGKILL)
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
        ready, _, _ = select.select([sys.stdin], [], [], POLL_S if adopted else LOOK_S)
        if ready:
            if os.read(sys.stdin.fileno(), 1024):
                grace_s = 0.0
            break
        if not adopted:  # else what loses its parent becomes a child of this process
            known = family(known)
    ended = child.poll()
    stop(child.pid, known, grace_s)
    child.wait()
    if ended is None:
        return 0
    return ended if ended >= 0 else 128 - ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
