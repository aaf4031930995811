"""Where a person's document is kept: in the vault, or in a simulated person's plain folder.

Both write it whole or not at all and keep the one before. The vault encrypts it (`client.vault`).
A folder holds one document an arm, `<arm>.state`, bound to its bundle, arm and user: 8 bytes magic,
4 bytes header length (big endian), JSON header, the document as `client.person.state` writes it,
SHA-256 of everything before; the one before it is `<arm>.previous`. The header names the bundle, the
arm, a pseudonym of the user, the seed, the key of what the state was trained from, and the
document's length; all are compared before the document is read. Source: docs/security.md 3 (storage).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from client.vault.opening import Vault
from proper_model.errors import (
    InterruptedRunError,
    NotAdaptedError,
    StateError,
    TrainingError,
    VaultError,
)
from proper_model.storage.documents import DocumentError, parse_json
from proper_model.storage.files import read_bounded, read_regular, write_atomic

if TYPE_CHECKING:
    from client.person.state import PersonalState, Report

MAGIC = b"PROPERS2"
EARLIER = b"PROPERS1"  # earlier versions: other bytes for the same tensors
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 12
BEGINNING_BYTES = 1 << 13  # the header is in it
REPORT_BYTES = 1 << 20  # the document's header too: in a folder it holds no history
MAX_STATE_BYTES = 4 << 30

HINT = "run the personalization round again; it trains this user's state anew"


class StateStore(Protocol):
    """Where one person's document is kept."""

    def exists(self) -> bool:
        """Whether there is one; it is not read."""

    def read(self) -> PersonalState:
        """The newest one that is whole. Raises a ProperError if there is none."""

    def write(self, state: PersonalState) -> None:
        """Put a new one in its place, whole or not at all; the one before is kept."""


def stored(store: StateStore) -> PersonalState | None:
    """The document of a store, None before the first one."""
    return store.read() if store.exists() else None


@dataclass(frozen=True)
class VaultStore:
    """The document of the person whose vault is open."""

    vault: Vault

    def exists(self) -> bool:
        return self.vault.newest > 0

    def read(self) -> PersonalState:
        """Raises NotAdaptedError if there is none, else as `Vault.read` and `decode`."""
        from client.person.state import decode

        content = self.vault.read()
        if content is None:
            raise NotAdaptedError(
                "nothing was adapted here yet", hint="start with: proper adapt HISTORY"
            )
        return decode(content.payload)

    def write(self, state: PersonalState) -> None:
        """Raises as `encode` and `Vault.write`."""
        from client.person.state import encode

        self.vault.write(encode(state), bundle_id=state.bundle_id)

    def write_without(self, state: PersonalState, *, task: str, items: int) -> None:
        """Make `state`, trained without `items` items of a task, the only one the vault holds.

        One step for `proper forget` and the page of `proper serve`: once the new generation is
        there, it says itself that nothing before it may be used; generations and checkpoints that
        knew the items are removed at once, or by the next change if that was interrupted.
        docs/vault-format.md section 5.

        Raises:
            InterruptedRunError: Ctrl-C came meanwhile; everything is done all the same.
            StorageError: it could not be written; or it was, and not all older files could be
                removed.
            TrainingError, VaultError, BusyError: as `encode` and `Vault.write`.
        """
        from client.person.state import encode

        payload = encode(state.noted("forget", task, items))
        with _interrupts_held() as heard:
            self.vault.write(payload, bundle_id=state.bundle_id, alone=True)
        if heard:
            raise InterruptedRunError(
                "interrupted",
                hint="the items were forgotten before; nothing is left to repeat",
            )


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


@dataclass(frozen=True)
class Binding:
    """What a simulated person's document belongs to.

    Attributes:
        seed: the person's own, which the document names too.
        key: a hash of settings and data it was trained from.
    """

    bundle_id: str
    arm: str
    user_id: str
    seed: int
    key: str

    def header(self) -> dict[str, str | int]:
        fields = asdict(self)
        del fields["user_id"]
        return fields | {"user": user_pseudonym(self.bundle_id, self.user_id)}


def user_pseudonym(bundle_id: str, user_id: str) -> str:
    """A name for the user that says nothing without knowing the id; differs by bundle."""
    return hashlib.sha256(f"proper user\0{bundle_id}\0{user_id}".encode()).hexdigest()


@dataclass(frozen=True)
class FolderStore:
    """The document of a simulated person under one arm, in that person's device folder."""

    folder: Path
    binding: Binding

    @classmethod
    def found(cls, folder: Path, arm: str, user_id: str) -> FolderStore:
        """The store of what lies there under an arm, bound as that says itself; for simulations.

        Raises FileNotFoundError, StateError.
        """
        stream = BytesIO(read_bounded(folder / f"{arm}.state", BEGINNING_BYTES))
        header = _read_header(stream, arm)
        bundle_id, seed, key = (header.get(name, "") for name in ("bundle_id", "seed", "key"))
        return cls(folder, Binding(bundle_id, arm, user_id, seed, key))

    def exists(self) -> bool:
        """From a file's header and length; what is altered behind them, only `read` notices."""
        return any(self._begins_right(path) for path in self._paths())

    def read(self) -> PersonalState:
        """The newest generation that is whole and belongs to the binding.

        Raises StateError saying why the current one is not usable, if the one before is not either.
        """
        problem: StateError | None = None
        for path in self._paths():
            try:
                return decode_bound(read_regular(path, limit_bytes=MAX_STATE_BYTES), self.binding)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                failed = StateError(f"state of arm {self.binding.arm}: {reason}", hint=HINT)
            except StateError as error:
                failed = error
            problem = problem or failed
        assert problem is not None
        raise problem

    def write(self, state: PersonalState) -> None:
        """Raises StateError for a state that is not finite, or not the binding's."""
        data = encode_bound(state, self.binding)
        current, before = self._paths()
        # What a killed write left; it holds what was learned from a history that may be another now.
        for unfinished in self.folder.glob(f".{self.binding.arm}.*.tmp"):
            unfinished.unlink(missing_ok=True)
        if current.is_file() and not current.is_symlink():
            # A second name for the old file first, so that no moment is without a current file.
            linked = self.folder / f".{self.binding.arm}.{secrets.token_hex(6)}.tmp"
            os.link(current, linked, follow_symlinks=False)
            os.replace(linked, before)
        write_atomic(current, data)

    def remove(self) -> None:
        """Both generations, so that the next round trains anew."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> tuple[Path, Path]:
        arm = self.binding.arm
        return self.folder / f"{arm}.state", self.folder / f"{arm}.previous"

    def _begins_right(self, path: Path) -> bool:
        try:
            stream = BytesIO(read_bounded(path, BEGINNING_BYTES))
            header = _read_header(stream, self.binding.arm)
            left = path.lstat().st_size - stream.tell()
        except (OSError, StateError):
            return False
        whole = header.get("length") == left - DIGEST_BYTES
        return whole and _differs(header, self.binding) is None


def encode_bound(state: PersonalState, binding: Binding) -> bytes:
    """The content of a folder's file. Raises StateError as `FolderStore.write`."""
    from client.person.state import encode

    where = f"state of arm {binding.arm}"
    if (state.bundle_id, state.seed) != (binding.bundle_id, binding.seed):
        raise StateError(f"{where}: does not belong to the user it is saved for")
    try:
        document = encode(state)
    except TrainingError as error:
        raise StateError(
            f"{where}: {error.message}",
            hint="lower the learning rate of the profile's [user] table",
        ) from None
    header = binding.header() | {"format": 2, "length": len(document)}
    head = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    content = MAGIC + struct.pack(">I", len(head)) + head + document
    return content + hashlib.sha256(content).digest()


def decode_bound(data: bytes, binding: Binding) -> PersonalState:
    """The inverse. Raises StateError if it is damaged or belongs to something else."""
    from client.person.state import decode

    where = f"state of arm {binding.arm}"
    stream = BytesIO(data)
    header = _read_header(stream, binding.arm)
    document, digest = data[stream.tell() : -DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != digest:
        raise StateError(f"{where}: the file is damaged", hint=HINT)
    other = _differs(header, binding)
    if other is not None:
        raise StateError(f"{where}: made for another {other}", hint=HINT)
    try:
        return decode(document)
    except VaultError:
        raise StateError(f"{where}: the document cannot be read", hint=HINT) from None


def report_in(folder: Path, arm: str) -> Report:
    """What the trainings of the document under an arm reported; no tensor is read.

    Raises FileNotFoundError, StateError.
    """
    from client.person.state import read_report

    stream = BytesIO(read_bounded(folder / f"{arm}.state", REPORT_BYTES))
    _read_header(stream, arm)
    try:
        return read_report(stream)
    except VaultError:
        raise StateError(f"state of arm {arm}: the document cannot be read", hint=HINT) from None


def _read_header(stream: BytesIO, arm: str) -> Mapping[str, Any]:
    from client.person.state import read_header

    where = f"state of arm {arm}"
    head = read_header(stream, MAGIC, MAX_HEADER_BYTES)
    if head is None and stream.getvalue().startswith(EARLIER):
        raise StateError(f"{where}: written by an earlier version of proper", hint=HINT)
    if head is None:
        raise StateError(f"{where}: not a PROPER state file, or cut off", hint=HINT)
    try:
        header = parse_json(head)
    except DocumentError:
        raise StateError(f"{where}: the header is damaged", hint=HINT) from None
    if not isinstance(header, dict) or header.get("format") != 2:
        raise StateError(f"{where}: a format this version does not know", hint=HINT)
    return header


def _differs(header: Mapping[str, Any], binding: Binding) -> str | None:
    """The first thing that a file was made for and that is another one now."""
    for field, expected in binding.header().items():
        if header.get(field) != expected:
            return field.removesuffix("_id")
    return None
