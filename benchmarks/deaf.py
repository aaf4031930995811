"""Child processes that do not hear Ctrl-C: only the command answers it, and it ends its children.

A terminal sends Ctrl-C to every process of a command; each would print a traceback of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def deaf_children() -> Iterator[None]:
    """What is started while open never receives Ctrl-C, nor do its children.

    For this process it only waits: one that comes meanwhile is raised when this closes.
    """
    # Multiprocessing's helper lifts the block where it has to be started first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
