"""The vault's folder: `<generation>.vault` files, of which the newest two are kept.

`Contents` reads the newest whole generation under one master key, and adds another.
docs/vault-format.md 1 and 5.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from client.vault.key_derivation import SALT_BYTES
from client.vault.sealing import MAX_FILE_BYTES, MAX_GENERATION, Header, read_header, seal, unseal
from client.vault.secrets import Random
from client.vault.working_files import remove_working
from proper_model.errors import StorageError, VaultError, VaultForeignError
from proper_model.storage.files import read_private, save_private, storage_errors, sync_folder

_NAME = re.compile(r"([0-9]{8,16})\.vault")
# The temporary files of a killed `write_atomic`.
_LEFTOVER = re.compile(r"\.(keys\.json|[0-9]{8,16}\.vault|training-.+)\.[0-9a-f]{12}\.tmp")


def generation_name(generation: int) -> str:
    """The file name of a generation: at least eight digits."""
    return f"{generation:08d}.vault"


def list_generations(folder: Path) -> list[int]:
    """Numbers of the generation files there, newest first. Raises StorageError."""
    with storage_errors(folder):
        names = {path.name for path in folder.iterdir()}
    numbers = [int(match[1]) for match in map(_NAME.fullmatch, names) if match]
    valid = (n for n in numbers if 1 <= n <= MAX_GENERATION and generation_name(n) in names)
    return sorted(valid, reverse=True)


def read_generation(folder: Path, generation: int) -> bytes:
    """The bytes of a generation file. Raises StorageError."""
    return read_private(folder / generation_name(generation), limit_bytes=MAX_FILE_BYTES)


def remove_generations(folder: Path, generations: Iterable[int]) -> None:
    """Delete these generation files. Raises StorageError.

    The oldest first: a reader whose master key is replaced meanwhile finds the newest, or none.
    """
    with storage_errors(folder):
        for generation in sorted(generations):
            (folder / generation_name(generation)).unlink(missing_ok=True)
        sync_folder(folder)


def list_leftovers(folder: Path) -> list[Path]:
    """Temporary files of a killed save, or of one at work now. Raises StorageError."""
    with storage_errors(folder):
        return sorted(path for path in folder.iterdir() if _LEFTOVER.fullmatch(path.name))


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of killed saves; nobody else may be writing. Raises StorageError."""
    with storage_errors(folder):
        for path in list_leftovers(folder):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Content:
    """A payload, the bundle it belongs to, and its generation; `alone` as in `sealing.Header`."""

    payload: bytes = field(repr=False)
    bundle_id: str
    generation: int
    alone: bool = False


@dataclass(frozen=True)
class Contents:
    """Access to the generations in a folder. Files under `pending_id` are not complete yet."""

    folder: Path
    vault_id: str
    key_id: str
    master_key: bytes = field(repr=False)
    pending_id: str | None = None

    def find(
        self, warn: Callable[[str], None] = lambda _: None, *, before: int = MAX_GENERATION + 1
    ) -> Content | None:
        """The newest whole generation below `before`; `warn` is called where newer are damaged.

        Raises:
            VaultForeignError: another vault's file lies there.
            VaultError: there are generations and none is whole.
            StorageError: a file is a link, or others may read it.
        """
        problem: VaultError | None = None
        for generation in self._below(before):
            try:
                content = self._open(generation)
            except VaultForeignError:
                raise
            except VaultError as error:
                problem = problem or error
                continue
            if content is None:
                continue
            if problem is not None:
                warn(f"{problem.message}; generation {content.generation} is used instead")
            return content
        if problem is not None:
            raise problem
        return None

    def _open(self, generation: int) -> Content | None:
        """None for a file of a rotation that has not been completed."""
        where = generation_name(generation)
        try:
            data = read_generation(self.folder, generation)
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                raise VaultError(error.message, hint=error.hint) from error.__cause__
            raise
        if self.pending_id is not None and self._is_pending(data, where):
            return None
        header, payload = unseal(
            data,
            self.master_key,
            vault_id=self.vault_id,
            key_id=self.key_id,
            generation=generation,
            where=where,
        )
        return Content(payload, header.bundle_id, generation, header.alone)

    def _is_pending(self, data: bytes, where: str) -> bool:
        try:
            return read_header(data, where=where).key_id == self.pending_id
        except VaultError:
            return False

    def add(self, content: Content, *, random: Random) -> None:
        """Write a generation, which must not exist yet; what is there stays.

        Raises StorageError, VaultError.
        """
        number = content.generation
        header = Header(
            self.vault_id, self.key_id, content.bundle_id, number, random(SALT_BYTES), content.alone
        )
        data = seal(content.payload, header, self.master_key)
        path = self.folder / generation_name(number)
        if path.is_symlink() or path.exists():
            raise VaultError(
                f"{path.name}: expected no such file yet",
                hint="another program put a file into the vault's folder; remove it",
            )
        save_private(path, data)

    def keep_two(self) -> int:
        """Remove all generations below the newest whole one before the last; the oldest that stays.

        Raises as `find`; nothing is removed unless that one has been read.
        """
        newest = list_generations(self.folder)[0]
        previous = self.find(before=newest)
        if previous is None:
            return newest
        remove_generations(self.folder, self._below(previous.generation))
        return previous.generation

    def _below(self, generation: int) -> list[int]:
        return [one for one in list_generations(self.folder) if one < generation]

    def whole(self) -> tuple[int, int] | None:
        """The newest whole generation and the one before it, or itself twice where there is none.

        Raises as `find`.
        """
        newest = self.find()
        if newest is None:
            return None
        previous = None if newest.alone else self.find(before=newest.generation)
        return newest.generation, (previous or newest).generation

    def forgotten(self) -> int | None:
        """The number of the newest generation if it is `alone` and older files still lie there."""
        generations = list_generations(self.folder)
        if len(generations) < 2:
            return None
        try:
            newest = self.find()
        except (VaultError, StorageError):  # reading says what is wrong
            return None
        if newest is None or not newest.alone or newest.generation == generations[-1]:
            return None
        return newest.generation

    def remove_before(self, generation: int) -> None:
        """Remove the files of work in progress and all older generations. Raises StorageError."""
        try:
            # Generations last: while one of them lies there, the rest is known to be unfinished.
            remove_working(self.folder)
            remove_generations(self.folder, self._below(generation))
        except StorageError as error:
            raise StorageError(
                f"{error.message}; the new state is there and nothing reads the older files any "
                "more, but not all of them could be removed",
                hint="the next command that changes something removes them first",
            ) from error.__cause__

    def remove_pending(self) -> None:
        """Remove the files of a rotation that has not been completed. Raises StorageError."""
        pending = [
            one
            for one in list_generations(self.folder)
            if self._is_pending(read_generation(self.folder, one), generation_name(one))
        ]
        remove_generations(self.folder, pending)
