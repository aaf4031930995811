"""The desktop's keyring, for the vault's keyring slot and the highest generation written.

A machine without a keyring offers a backend that only fails, and some backends keep everything in
a readable file. Both are errors here: a secret is never silently stored in plaintext.

An old file of the vault put back is authentic; only a number kept elsewhere tells. So the keyring
also keeps the highest generation written and the oldest that may still be read. A vault without a
keyring slot cannot tell. docs/vault-format.md 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from proper_model.errors import VaultError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "proper"
# The keyring package calls a backend of priority 1 or more recommended; readable files are below.
MIN_PRIORITY = 1.0
# These two store nothing, whatever priority they are given.
_USELESS = ("keyring.backends.fail", "keyring.backends.null")
_CHAIN = "keyring.backends.chainer"
_NUMBERS = re.compile(r"([0-9]{1,16})(?: ([0-9]{1,16}))?")


class KeyringError(VaultError):
    """No usable keyring, or it is locked; nothing is wrong with the vault's folder."""


HINT = "use a passphrase or a key file, or start and unlock the desktop's keyring"


def store(name: str, text: str) -> None:
    """Keep `text` under `name`, and read it back. Raises KeyringError."""
    backend = _backend()
    with _keyring_errors("did not keep the secret"):
        backend.set_password(SERVICE, name, text)
        kept = backend.get_password(SERVICE, name)
    if kept != text:
        raise KeyringError(f"keyring {_name(backend)}: did not keep the secret", hint=HINT)


def fetch(name: str) -> str | None:
    """What is kept under `name`, or None. Raises KeyringError without a usable keyring."""
    backend = _backend()
    with _keyring_errors("cannot be read"):
        return backend.get_password(SERVICE, name)


def fetch_secret(name: str, size: int) -> bytes | None:
    """`size` random bytes kept as hex, or None if there are none. Raises KeyringError as `fetch`."""
    try:
        secret = bytes.fromhex(fetch(name) or "")
    except ValueError:
        return None
    return secret if len(secret) == size else None


def forget(name: str) -> None:
    """Remove what is kept under `name`, if anything is. Raises KeyringError."""
    backend = _backend()
    with _keyring_errors("did not remove the secret"):
        if backend.get_password(SERVICE, name) is not None:
            backend.delete_password(SERVICE, name)


def note_generation(vault_id: str, newest: int, oldest: int | None) -> None:
    """Remember that `newest` was written, and that nothing before `oldest` is to be read again.

    Neither number ever goes down; None leaves the older one. Raises KeyringError.
    """
    kept = _noted(vault_id)
    if kept is not None:
        newest = max(newest, kept[0])
    lowest = max(oldest or 0, 0 if kept is None else kept[1])
    # One number alone means: the oldest is the one before it.
    alone = lowest in (0, newest - 1) or newest == 1
    store(_generation_entry(vault_id), str(newest) if alone else f"{newest} {lowest}")


def check_generation(vault_id: str, *, newest: int, used: int) -> None:
    """Raise VaultError if this device has written a newer generation than there is.

    Args:
        newest: the highest number in the folder, authentic or not.
        used: the generation that was found whole.

    Raises KeyringError if the keyring cannot be asked.
    """
    kept = _noted(vault_id)
    if kept is None or (newest >= kept[0] and used >= kept[1]):
        return
    raise VaultError(
        f"the vault holds generation {used}, but {kept[0]} has been written on this device: "
        "an older copy was put back",
        hint="put the newer file back; if you restored this copy yourself, open the vault by "
        "another secret, remove the keyring slot and add it again",
    )


def forget_generations(vault_id: str) -> None:
    """Forget the numbers. Raises KeyringError."""
    forget(_generation_entry(vault_id))


def _noted(vault_id: str) -> tuple[int, int] | None:
    """The highest generation written and the oldest to be read; None where nothing is kept."""
    match = _NUMBERS.fullmatch(fetch(_generation_entry(vault_id)) or "")
    return None if match is None else (int(match[1]), int(match[2] or int(match[1]) - 1))


def _generation_entry(vault_id: str) -> str:
    return f"vault {vault_id} generation"


def _backend() -> KeyringBackend:
    """The first backend in use that keeps secrets, and keeps them unreadable for others."""
    try:
        import keyring
    except ImportError:
        raise KeyringError(
            "the vault's keyring slot needs the package `keyring`, which is not installed",
            hint="install it with: pip install -e '.[keyring]'; or use a passphrase or key file",
        ) from None
    with _keyring_errors("cannot be used"):
        backend: Any = keyring.get_keyring()
        chain = type(backend).__module__ == _CHAIN
        candidates: list[KeyringBackend] = backend.backends if chain else [backend]
        for candidate in candidates:
            if _usable(candidate):
                return candidate
    raise KeyringError(
        f"keyring {_name(backend)}: keeps nothing, or keeps it where it can be read; expected "
        "Secret Service, KWallet or another backend of priority 1 or more",
        hint=HINT,
    )


def _usable(backend: Any) -> bool:
    named = _name(backend).lower()
    return (
        type(backend).__module__ not in _USELESS
        and "plaintext" not in named
        and float(backend.priority) >= MIN_PRIORITY
    )


def _name(backend: object) -> str:
    return f"{type(backend).__module__}.{type(backend).__name__}"


@contextmanager
def _keyring_errors(what: str) -> Iterator[None]:
    """Raise any error of a backend as a KeyringError without its text, which may hold anything."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a plugin raises whatever its service does
        raise KeyringError(f"the keyring {what} ({type(error).__name__})", hint=HINT) from None
