"""A published release, ready to be sent in pieces: what is in it, and any piece on demand.

Pieces are read from the release folder when they are sent, so the coordinator's memory holds one
message's worth, whatever the size of the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import BundleIntegrityError, BundleLimitError
from proper_model.federation.protocol import (
    MAX_PIECES,
    MESSAGE_BYTES,
    PIECE_BYTES,
    FileTable,
    sha256_hex,
)


@dataclass(frozen=True)
class Shipment:
    """`table` says how files are put together; `places` where each piece can be read."""

    bundle_id: str
    table: FileTable
    places: dict[str, tuple[Path, int, int]]  # hash -> file, offset, length in bytes

    @staticmethod
    def of_folder(bundle_id: str, folder: Path) -> Shipment:
        """Hash every file below `folder`. Raises BundleLimitError if there are too many pieces."""
        pieces: dict[str, tuple[str, ...]] = {}
        places: dict[str, tuple[Path, int, int]] = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            shas = []
            with path.open("rb") as handle:
                while piece := handle.read(PIECE_BYTES):
                    shas.append(sha256_hex(piece))
                    offset = handle.tell() - len(piece)
                    places.setdefault(shas[-1], (path, offset, len(piece)))
            pieces[path.relative_to(folder).as_posix()] = tuple(shas)
        if len(places) > MAX_PIECES:
            raise BundleLimitError(
                f"{folder}: {len(places)} pieces of {PIECE_BYTES} bytes, at most {MAX_PIECES} "
                "can be sent",
                hint="reference the base model by hub id instead of embedding it",
            )
        return Shipment(bundle_id, FileTable(pieces), places)

    def piece(self, sha: str) -> bytes:
        """The bytes of a piece. Raises BundleIntegrityError if the file changed underneath."""
        path, offset, length = self.places[sha]
        with path.open("rb") as handle:
            handle.seek(offset)
            data = handle.read(length)
        if sha256_hex(data) != sha:
            raise BundleIntegrityError(f"{path}: changed while it was being sent")
        return data

    def loads(self, missing: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """`missing` in groups of at most `MESSAGE_BYTES`, each one message's load."""
        load: list[str] = []
        size = 0
        for sha in missing:
            length = self.places[sha][2]
            if load and size + length > MESSAGE_BYTES:
                yield tuple(load)
                load, size = [], 0
            load.append(sha)
            size += length
        if load:
            yield tuple(load)
