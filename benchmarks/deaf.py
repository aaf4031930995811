"""Child processes that do not hear Ctrl-C: only the command answers it, and it ends its children.

A terminal sends Ctrl-C to every process of a command; each would print a traceback of its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_children() -> Iterator[None]:
    """What is started while open ignores Ctrl-C from its first instruction, as do its children.

    This process ignores it too meanwhile, so only the start itself belongs in here: it takes
    milliseconds. Outside the main thread, which alone may change this, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
