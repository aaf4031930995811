"""Pieces of a release on a node, addressed by content, so that each travels once.

A piece that arrives is kept under its SHA-256 until the bundle it belongs to is installed; then
the copy is dropped and an index says in which installed file, and where, the same bytes stand.
The next release asks the index too: a base model that did not change is not sent again. Every
piece is hashed when it is stored and again when it is read. Source: docs/federation.md 4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from proper_model.errors import BundleIntegrityError
from proper_model.federation.protocol import PIECE_BYTES, FileTable, is_sha256, sha256_hex
from proper_model.storage.documents import parse_object
from proper_model.storage.files import make_private_folder, read_regular, write_atomic

INDEX_FILE = "pieces.json"
MAX_INDEX_BYTES = 256 * 1024 * 1024


class PieceStore:
    """`folder/blobs/<sha256>` and `folder/pieces.json`; one store a node host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = make_private_folder(folder / "blobs")

    def missing(self, asked: Iterable[str]) -> list[str]:
        """The members of `asked` that this node cannot produce, in the order asked."""
        index = self._index()
        return [sha for sha in asked if self._find(sha, index) is None]

    def put(self, sha: str, data: bytes) -> None:
        """Keep a piece. Raises BundleIntegrityError if the data is not what its name says."""
        if len(data) > PIECE_BYTES or sha256_hex(data) != sha:
            raise BundleIntegrityError(
                f"piece of {len(data)} bytes does not have the hash it was announced with"
            )
        write_atomic(self._blobs / sha, data)

    def get(self, sha: str) -> bytes:
        """The bytes of a piece. Raises BundleIntegrityError if it is not here, or altered."""
        data = self._find(sha, self._index())
        if data is None:
            raise BundleIntegrityError(
                "a piece of the bundle is missing on this node",
                hint="run again; the coordinator sends what is missing",
            )
        return data

    def files(self, table: FileTable) -> PieceFiles:
        """The files of a table, each put together when it is asked for."""
        return PieceFiles(self, table)

    def adopt(self, table: FileTable, installed: Mapping[str, Path]) -> None:
        """After an install: remember where the pieces stand, and drop the copies of them.

        `installed` gives the path of each file of the table that now stands on disk; pieces of
        other files are dropped without an entry.
        """
        index = self._index()
        for name, shas in table.pieces.items():
            if name in installed:
                where = os.path.relpath(installed[name], self._folder)
                for number, sha in enumerate(shas):
                    index[sha] = (where, number * PIECE_BYTES)
        write_atomic(
            self._folder / INDEX_FILE,
            json.dumps(index, sort_keys=True, separators=(",", ":")).encode(),
        )
        for blob in self._blobs.iterdir():
            if blob.name in index or not is_sha256(blob.name):
                blob.unlink(missing_ok=True)

    def _index(self) -> dict[str, tuple[str, int]]:
        """Hash to (file relative to the node's folder, offset in bytes)."""
        try:
            raw = read_regular(self._folder / INDEX_FILE, limit_bytes=MAX_INDEX_BYTES)
            stored = parse_object(raw)
            return {str(sha): (str(where), int(offset)) for sha, (where, offset) in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            # The index only saves sending; without it pieces are asked for again.
            return {}

    def _find(self, sha: str, index: Mapping[str, tuple[str, int]]) -> bytes | None:
        candidates = [(self._blobs / sha, 0)]
        if sha in index:
            where, offset = index[sha]
            candidates.append((self._folder / where, offset))
        for path, offset in candidates:
            try:
                with path.open("rb") as handle:
                    handle.seek(offset)
                    data = handle.read(PIECE_BYTES)
            except (OSError, ValueError, OverflowError):  # a damaged index may say anything
                continue
            if sha256_hex(data) == sha:
                return data
        return None


class PieceFiles(Mapping[str, bytes]):
    """Name to content, read from pieces on access: a large base is never in memory whole twice."""

    def __init__(self, store: PieceStore, table: FileTable) -> None:
        self._store = store
        self._table = table

    def __getitem__(self, name: str) -> bytes:
        return b"".join(self._store.get(sha) for sha in self._table.pieces[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.pieces)

    def __len__(self) -> int:
        return len(self._table.pieces)
