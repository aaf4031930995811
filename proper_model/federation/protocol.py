"""What coordinator and nodes say to each other, without knowing how it is sent.

Five kinds of message and their replies, the fixed status codes, and how a release is cut into
pieces that are asked for by content hash. Everything a node may ever answer is listed in
`REPLY_FIELDS`; the node's one exit (`client/node/egress.py`) enforces that list. The private round's
reply holds `status`, `protocol` and `bundle_id` and nothing else: no path, duration, loss,
example count or text. Source: docs/federation.md 4 (ask first, send only what is
missing) and docs/security.md 2 (allow-list).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from proper_model.errors import ProtocolError

PROTOCOL_VERSION = 1

CONFIG = "config"  # the one record of every message, in both directions
NO_BUNDLE = "0" * 64  # stands in a reply for a request that names no bundle

PIECE_BYTES = 4 * 1024 * 1024
MESSAGE_BYTES = 16 * 1024 * 1024  # of pieces in one message; Flower's own limit is far above
MAX_PIECES = 1 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")

Scalar = str | int | float | bool | bytes
Value = Scalar | Sequence[str] | Sequence[int] | Sequence[bytes]


class Kind(StrEnum):
    """Message types; the part before the dot is Flower's, the part after it ours."""

    HAVE = "query.have"  # which of these pieces do you lack?
    STORE = "query.store"  # keep these pieces
    INSTALL = "query.install"  # put the pieces together, verify, install
    PERSONALIZE = "train.personalize"  # the private round
    EVALUATE = "evaluate"  # predict on each device, results stay there


class Status(StrEnum):
    """Every outcome a node reports. A code says what to do next, never what was in the data."""

    OK = "ok"
    PROTOCOL = "protocol_refused"
    NO_BUNDLE = "bundle_not_installed"
    BUNDLE_REFUSED = "bundle_refused"
    PIECE_REFUSED = "piece_refused"
    DEVICE_FAILED = "device_failed"
    STORAGE = "storage_failed"
    EGRESS = "egress_refused"
    INTERNAL = "internal_error"


RETRY_USELESS = frozenset({Status.PROTOCOL, Status.BUNDLE_REFUSED, Status.EGRESS})

_PLAIN = frozenset({"status", "protocol", "bundle_id"})
REPLY_FIELDS: Mapping[Kind, frozenset[str]] = {
    **dict.fromkeys(Kind, _PLAIN),
    Kind.HAVE: _PLAIN | {"missing"},
}
REQUEST_FIELDS: Mapping[Kind, frozenset[str]] = {
    Kind.HAVE: frozenset({"protocol", "bundle_id", "pieces"}),
    Kind.STORE: frozenset({"protocol", "bundle_id", "pieces", "data"}),
    Kind.INSTALL: frozenset({"protocol", "bundle_id", "names", "counts", "pieces"}),
    Kind.PERSONALIZE: frozenset({"protocol", "bundle_id"}),
    Kind.EVALUATE: frozenset({"protocol", "bundle_id"}),
}


def sha256_hex(data: bytes) -> str:
    """The lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def is_sha256(value: object) -> bool:
    """True for exactly 64 lower-case hexadecimal digits."""
    return type(value) is str and _SHA256.fullmatch(value) is not None


@dataclass(frozen=True)
class FileTable:
    """How files are put together from pieces: `pieces[name]` in order, by content hash.

    An empty file has no piece.
    """

    pieces: Mapping[str, tuple[str, ...]]

    def all_pieces(self) -> tuple[str, ...]:
        """Every distinct piece, in order of first use."""
        return tuple(dict.fromkeys(sha for shas in self.pieces.values() for sha in shas))

    def to_fields(self) -> dict[str, Value]:
        """The table as the three flat lists that a Flower ConfigRecord can hold."""
        return {
            "names": list(self.pieces),
            "counts": [len(shas) for shas in self.pieces.values()],
            "pieces": [sha for shas in self.pieces.values() for sha in shas],
        }

    @staticmethod
    def from_fields(fields: Mapping[str, object]) -> FileTable:
        """The inverse of `to_fields`. Raises ProtocolError if the lists do not fit together."""
        names = _strings(fields, "names")
        pieces = hashes(fields, "pieces")
        counts = fields["counts"]
        if not isinstance(counts, Sequence) or not all(
            type(count) is int and count >= 0 for count in counts
        ):
            raise ProtocolError("install request: field 'counts' must be a list of counts")
        if len(names) != len(counts) or sum(counts) != len(pieces) or len(set(names)) != len(names):
            raise ProtocolError(
                f"install request: {len(names)} names, {len(counts)} counts and "
                f"{len(pieces)} pieces do not fit together"
            )
        rest = iter(pieces)
        return FileTable(
            {
                name: tuple(next(rest) for _ in range(count))
                for name, count in zip(names, counts, strict=True)
            }
        )


def request_fields(kind: Kind, bundle_id: str, **more: Value) -> dict[str, Value]:
    """The fields of a request of this `kind`. Raises ProtocolError for a wrong set of fields."""
    fields: dict[str, Value] = {"protocol": PROTOCOL_VERSION, "bundle_id": bundle_id, **more}
    if set(fields) != REQUEST_FIELDS[kind]:
        raise ProtocolError(
            f"request {kind.value}: fields {sorted(fields)}, "
            f"expected {sorted(REQUEST_FIELDS[kind])}"
        )
    return fields


def check_request(kind: Kind, fields: Mapping[str, object]) -> str:
    """The bundle id of a well-formed request. Raises ProtocolError otherwise."""
    if fields.get("protocol") != PROTOCOL_VERSION:
        raise ProtocolError(
            f"request {kind.value}: not protocol {PROTOCOL_VERSION}",
            hint="update the older of coordinator and client",
        )
    if set(fields) != REQUEST_FIELDS[kind]:
        raise ProtocolError(f"request {kind.value}: expected {sorted(REQUEST_FIELDS[kind])}")
    bundle_id = fields["bundle_id"]
    if not is_sha256(bundle_id):
        raise ProtocolError(f"request {kind.value}: bundle_id is not a SHA-256")
    return str(bundle_id)


def hashes(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A list field of SHA-256 values. Raises ProtocolError if it is anything else."""
    values = _strings(fields, name)
    if len(values) > MAX_PIECES or not all(is_sha256(value) for value in values):
        raise ProtocolError(f"field '{name}' must hold at most {MAX_PIECES} SHA-256 values")
    return values


def _strings(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = fields.get(name)
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not all(type(value) is str for value in values)
    ):
        raise ProtocolError(f"field '{name}' must be a list of strings")
    return tuple(values)


def size_bytes(fields: Mapping[str, object]) -> int:
    """Payload size of a record: text as UTF-8, numbers as 8 bytes, containers as their sum."""

    def size(value: object) -> int:
        if isinstance(value, str):
            return len(value.encode())
        if isinstance(value, bytes | bytearray):
            return len(value)
        if isinstance(value, Sequence):
            return sum(size(item) for item in value)
        return 8

    return sum(len(name.encode()) + size(value) for name, value in fields.items())


def parse_reply(
    kind: Kind, fields: Mapping[str, object], *, bundle_id: str | None = None
) -> tuple[Status, str]:
    """(status, bundle id) of a node's reply. Raises ProtocolError if it is malformed.

    The coordinator checks too: a field that should not be there is refused, not ignored, and so is
    a value of another kind. `bundle_id` is the one that was asked about, which a node that has done
    what it was asked must name.
    """
    if set(fields) != REPLY_FIELDS[kind]:
        raise ProtocolError(f"reply to {kind.value}: unexpected set of fields")
    if fields["protocol"] != PROTOCOL_VERSION or not is_sha256(fields["bundle_id"]):
        raise ProtocolError(f"reply to {kind.value}: wrong protocol or bundle_id")
    try:
        status = Status(str(fields["status"]))
    except ValueError:
        raise ProtocolError(f"reply to {kind.value}: unknown status") from None
    if status is Status.OK and bundle_id not in (None, fields["bundle_id"]):
        raise ProtocolError(f"reply to {kind.value}: about another bundle")
    if "missing" in fields:
        missing = hashes(fields, "missing")
        if len(set(missing)) < len(missing):
            raise ProtocolError(f"reply to {kind.value}: a piece is named twice")
    return status, str(fields["bundle_id"])
