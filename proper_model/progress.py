"""How far a long piece of work is: what it tells whoever waits for it.

`Steps` and `Progress` are called with `done` parts of `total`; a total of 0 announces what begins now.
"""

from __future__ import annotations

from collections.abc import Callable

Steps = Callable[[int, int], None]
"""(done, total) of one piece of work."""
Progress = Callable[[str, int, int], None]
"""(phase, done, total) of work that has several phases."""

Watch = Callable[[int, float | None, float], None]
"""(step from 1, loss, learning rate) of every step of a training; a loss of None was not looked at."""


def silent(_phase: str, _done: int, _total: int) -> None:
    """A `Progress` for nobody."""
