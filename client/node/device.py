"""One device's own folder: the user's data, private state and predictions, and nothing shared.

Layout: `user.json` (that one user, OPPU form), `root.json` (the trust root this device pins),
`state/` (private state, see `client.person.stores`), `predictions/<arm>.jsonl`, `failure.json` (why
the last round failed here). Folders are 0700, files 0600 from creation, writes are atomic, and
links are never followed. Source: docs/security.md 2 (same-device user) and docs/method.md 1.1.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import DataError, StateError
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from proper_model.tasks import User, user_to_json

MAX_USER_BYTES = 1 << 30
MAX_ROOT_BYTES = 1 << 20

USER_FILE = "user.json"
ROOT_FILE = "root.json"
FAILURE_FILE = "failure.json"


@dataclass(frozen=True)
class DeviceFolder:
    """Access to one device's folder. `device_id` is a name for the device, not for its user."""

    device_id: str
    path: Path

    def check(self) -> None:
        """Raises StateError unless the folder is a real one that only its owner may enter."""
        try:
            status = os.lstat(self.path)
        except OSError:
            raise StateError(
                f"device {self.device_id}: its folder is missing",
                hint="write the device folders again with proper-sim prepare",
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise StateError(f"device {self.device_id}: its folder is a link or a file")
        if status.st_mode & 0o077:
            raise StateError(
                f"device {self.device_id}: others may enter its folder",
                hint=f"chmod 700 the folder of device {self.device_id}",
            )

    def user_bytes(self) -> bytes:
        """The raw bytes of `user.json`. Raises DataError without quoting what is in it."""
        return self._read(USER_FILE, MAX_USER_BYTES)

    def root_bytes(self) -> bytes:
        """The pinned trust root. Raises DataError if it is missing or not a plain file."""
        return self._read(ROOT_FILE, MAX_ROOT_BYTES)

    def _read(self, name: str, limit_bytes: int) -> bytes:
        try:
            return read_regular(self.path / name, limit_bytes=limit_bytes)
        except OSError as error:
            raise DataError(
                f"device {self.device_id}: {name} cannot be read "
                f"({os.strerror(error.errno or 0)}); expected a plain file of at most "
                f"{limit_bytes} bytes"
            ) from None

    def make_state_folder(self) -> Path:
        """The folder of private state, 0700, made if it is not there."""
        return make_private_folder(self.path / "state")

    def predictions(self, arm: str) -> Path:
        return self.path / "predictions" / f"{arm}.jsonl"

    def has_predictions(self, arm: str, key: str) -> bool:
        """True if the predictions of `arm` were completed under exactly this `key`."""
        try:
            stored = read_regular(self._key_file(arm), limit_bytes=1024)
        except OSError:
            return False
        return stored == key.encode() and self.predictions(arm).is_file()

    def write_predictions(self, arm: str, rows: Iterable[Mapping[str, object]], key: str) -> None:
        """Write one JSON line a prediction, then the key that says the file is complete."""
        make_private_folder(self.path / "predictions")
        lines = [json.dumps(dict(row), ensure_ascii=False, allow_nan=False) for row in rows]
        # An old key beside a new file would vouch for the wrong rows after a crash in between.
        self._key_file(arm).unlink(missing_ok=True)
        write_atomic(self.predictions(arm), "".join(f"{line}\n" for line in lines).encode())
        write_atomic(self._key_file(arm), key.encode())

    def _key_file(self, arm: str) -> Path:
        return self.path / "predictions" / f"{arm}.key"

    def note_failure(self, phase: str, error: str, message: str) -> None:
        """Leave the reason of a failure on the device; it never travels."""
        row = {"phase": phase, "error": error, "message": message}
        write_atomic(self.path / FAILURE_FILE, (json.dumps(row) + "\n").encode())

    def clear_failure(self) -> None:
        (self.path / FAILURE_FILE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Hosted:
    """A device and its user while a round runs, and hashes of what results depend on."""

    device: DeviceFolder
    user: User

    @property
    def history_key(self) -> str:
        return digest(user_to_json(self.user)["profile"])

    @property
    def queries_key(self) -> str:
        return digest(user_to_json(self.user)["query"])


def digest(content: object) -> str:
    """SHA-256, in hexadecimal, of something JSON-ready."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
