"""Small vaults with cheap passphrases, and what tests look at from outside."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from client.vault.key_derivation import Argon2idCost, ScryptCost
from client.vault.opening import KeyFile, Passphrase, Secret, Vault, create_vault, open_vault
from proper_model.storage import files

CHEAP = Argon2idCost(memory_kib=8, iterations=1, lanes=1)
CHEAP_SCRYPT = ScryptCost(log2_n=1)
BUNDLE, OTHER_BUNDLE = "ab" * 32, "cd" * 32
WORD = Passphrase("correct horse")


def counted(seed: str) -> Callable[[int], bytes]:
    """A source of fixed bytes; never the same twice."""
    calls = iter(range(1 << 30))
    return lambda size: hashlib.shake_256(f"{seed} {next(calls)}".encode()).digest(size)


def make_vault(folder: Path, *payloads: bytes, secrets=(WORD,), seed: str = "a") -> Vault:
    vault = create_vault(folder, secrets, random=counted(seed), cost=CHEAP)
    for payload in payloads:
        vault.write(payload, bundle_id=BUNDLE)
    return vault


def reopen(folder: Path, secret: Secret = WORD) -> Vault:
    return open_vault(folder, secret, cost=CHEAP)


def put_private(path: Path, data: bytes = b"") -> Path:
    """A file that only its owner may use."""
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def put_key_file(path: Path, content: bytes = b"k" * 32) -> KeyFile:
    return KeyFile(put_private(path, content))


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A vault's folder with these files, with the modes it must have."""
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        put_private(folder / name, data)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def broken_disk(path: Path) -> NoReturn:
    """In the place of a call that reaches the disk."""
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def full_disk(patch: pytest.MonkeyPatch, *, after: int = 0, only: bool = False) -> None:
    """From now on no file of a vault can be written, but for the first `after`; `only` one fails."""
    real, calls = files.write_atomic, itertools.count()

    def write(path: Path, data: bytes) -> None:
        call = next(calls)
        if call == after or (call > after and not only):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    patch.setattr(files, "write_atomic", write)


def generations(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.vault"))


class Killed(BaseException):
    """Stands for SIGKILL: the code under test catches none."""


def every_step(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Run `action` before and after each change of the folder, however it is made."""

    def guard(owner, name: str) -> None:
        real = getattr(owner, name)

        def stopping(*arguments, **named):
            action()
            result = real(*arguments, **named)
            action()
            return result

        monkeypatch.setattr(owner, name, stopping)

    guard(files, "write_atomic")
    guard(Path, "unlink")


def killed_at(step: int, change: Callable[[], object]) -> bool:
    """Whether `change` is killed before or after its step-th change of the folder, or ends first."""
    count = itertools.count()

    def stop() -> None:
        if next(count) == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        every_step(patch, stop)
        try:
            change()
        except Killed:
            return True
    return False
