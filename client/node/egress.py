"""What may leave a node: every outgoing record is checked here and rebuilt from the allow-list.

A reply may hold a fixed status code, the protocol number, the bundle id that the request itself
named, and, in answer to "which pieces do you lack?", some of the hashes that were asked about, in
the order they were asked. So nothing in a reply originates on the node but a choice from fixed
codes and from the coordinator's own list. Source: docs/security.md 2 (allow-list).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proper_model.errors import EgressError
from proper_model.federation.protocol import (
    CONFIG,
    NO_BUNDLE,
    PROTOCOL_VERSION,
    REPLY_FIELDS,
    Kind,
    Status,
    Value,
)


def outgoing(
    kind: Kind,
    records: Mapping[str, Mapping[str, object]],
    *,
    asked_bundle: str | None = None,
    asked_pieces: Sequence[str] = (),
) -> dict[str, dict[str, Value]]:
    """A new, checked copy of `records`, ready to be sent as the reply to a `kind` request.

    `asked_bundle` and `asked_pieces` are what the request named (None if it was malformed).
    Raises EgressError, whose message never quotes the offending value, for a record or field not
    on the allow-list, a wrong type, or a value that the request did not contain.
    """
    if set(records) != {CONFIG}:
        raise EgressError(f"reply to {kind.value}: only the record '{CONFIG}' may leave the node")
    fields = records[CONFIG]
    if set(fields) != REPLY_FIELDS[kind]:
        raise EgressError(
            f"reply to {kind.value}: fields must be exactly {sorted(REPLY_FIELDS[kind])}"
        )
    checked: dict[str, Value] = {
        "status": _status(kind, fields["status"]),
        "protocol": _protocol(kind, fields["protocol"]),
        "bundle_id": _bundle(kind, fields["bundle_id"], asked_bundle),
    }
    if "missing" in fields:
        checked["missing"] = _subsequence(kind, fields["missing"], asked_pieces)
    return {CONFIG: checked}


def _status(kind: Kind, value: object) -> str:
    if not isinstance(value, str) or value not in set(Status):
        raise EgressError(f"reply to {kind.value}: status must be one of the fixed codes")
    return Status(value).value


def _protocol(kind: Kind, value: object) -> int:
    if type(value) is not int or value != PROTOCOL_VERSION:
        raise EgressError(f"reply to {kind.value}: protocol must be {PROTOCOL_VERSION}")
    return PROTOCOL_VERSION


def _bundle(kind: Kind, value: object, asked: str | None) -> str:
    allowed = asked if asked is not None else NO_BUNDLE
    if type(value) is not str or value != allowed:
        raise EgressError(f"reply to {kind.value}: bundle_id must be the one asked about")
    return allowed


def _subsequence(kind: Kind, value: object, asked: Sequence[str]) -> list[str]:
    """`value` if it is `asked` with some members left out; its order then tells nothing."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise EgressError(f"reply to {kind.value}: missing must be a list of hashes")
    wanted = iter(value)
    following = next(wanted, None)
    kept: list[str] = []
    for sha in asked:
        if following == sha:
            kept.append(sha)
            following = next(wanted, None)
    if len(kept) != len(value):
        raise EgressError(f"reply to {kind.value}: missing must repeat hashes as they were asked")
    return kept
