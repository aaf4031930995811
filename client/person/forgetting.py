"""Storing a state from which items are gone, so that nothing on this device leads back to them.

One step for `proper forget` and the page of `proper serve`: once the new generation is there, it
says itself that nothing before it may be used; generations and checkpoints that knew the items are
removed at once, or by the next change if that was interrupted. docs/vault-format.md section 5.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from client.person.state import PersonalState, encode
from client.vault.opening import Vault
from proper_model.errors import InterruptedRunError


def store_without(vault: Vault, state: PersonalState, *, task: str, items: int) -> PersonalState:
    """Make `state`, trained without `items` items of a task, the only one the vault holds.

    Returns it with a line of history.

    Raises:
        InterruptedRunError: Ctrl-C came meanwhile; everything is done all the same.
        StorageError: it could not be written; or it was, and not all older files could be removed.
        TrainingError, VaultError, BusyError: as `encode` and `Vault.write`.
    """
    noted = state.noted("forget", task, items)
    payload = encode(noted)
    with _interrupts_held() as heard:
        vault.write(payload, bundle_id=noted.bundle_id, alone=True)
    if heard:
        raise InterruptedRunError(
            "interrupted",
            hint="the items were forgotten before; nothing is left to repeat",
        )
    return noted


@contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Collect Ctrl-C instead of stopping; only a program's main thread can, others are not hit."""
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield heard
        return
    signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)
