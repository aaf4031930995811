"""Nothing but fixed codes and the coordinator's own words leaves a node."""

from __future__ import annotations

import struct

import pytest

from client.node.egress import outgoing
from client.node.failures import describe, status_of
from proper_model.errors import (
    BundleSignatureError,
    DataError,
    EgressError,
    ProtocolError,
)
from proper_model.federation.protocol import NO_BUNDLE, Kind, Status

BUNDLE = "ab" * 32
ASKED = ("00" * 32, "11" * 32, "22" * 32)
CANARY = "zq-canary-zq"


def reply(**changes):
    return {"config": {"status": "ok", "protocol": 1, "bundle_id": BUNDLE, **changes}}


def test_allowed_replies_pass_as_a_copy():
    record = reply()
    assert outgoing(Kind.PERSONALIZE, record, asked_bundle=BUNDLE) == record
    assert outgoing(Kind.PERSONALIZE, record, asked_bundle=BUNDLE)["config"] is not record["config"]
    some = reply(missing=[ASKED[0], ASKED[2]])
    assert outgoing(Kind.HAVE, some, asked_bundle=BUNDLE, asked_pieces=ASKED) == some
    none = reply(missing=[], bundle_id=NO_BUNDLE)
    assert outgoing(Kind.HAVE, none) == none


LEAKS = {
    "text in the status": reply(status=CANARY),
    "a longer status": reply(status="ok " + CANARY),
    "another bundle id": reply(bundle_id=CANARY.encode().hex().ljust(64, "0")),
    "a number beside the protocol": reply(protocol=1.5),
    "true for one": reply(protocol=True),
    "a loss": reply(loss=0.25),
    "an example count": {**reply(), "metrics": {"num-examples": 7}},
    "arrays": {**reply(), "arrays": {"lora": struct.pack("<2f", 1.0, 2.0)}},
    "a path": reply(path=f"/home/{CANARY}"),
    "a field that is due elsewhere": reply(missing=[]),
    "nothing of the record": {"config": {}},
    "another record": {"metrics": reply()["config"]},
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_a_leaking_record_is_refused_without_being_quoted(leak):
    with pytest.raises(EgressError) as caught:
        outgoing(Kind.PERSONALIZE, leak, asked_bundle=BUNDLE)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    [
        ["33" * 32],
        [ASKED[1], ASKED[0]],
        [ASKED[0], ASKED[0]],
        [CANARY],
        [CANARY.encode()],
        CANARY,
        5,
        None,
    ],
    ids=["unasked", "reordered", "repeated", "text", "bytes", "a string", "a number", "none"],
)
def test_hashes_are_only_repeated_as_asked(missing):
    with pytest.raises(EgressError):
        outgoing(Kind.HAVE, reply(missing=missing), asked_bundle=BUNDLE, asked_pieces=ASKED)


def test_bundle_id_of_a_malformed_request_is_the_neutral_one():
    with pytest.raises(EgressError):
        outgoing(Kind.STORE, reply())
    assert outgoing(Kind.STORE, reply(bundle_id=NO_BUNDLE))["config"]["bundle_id"] == NO_BUNDLE


def test_every_exception_has_a_fixed_code():
    secret = ValueError(CANARY)
    assert status_of(secret, Kind.PERSONALIZE) is Status.INTERNAL
    assert status_of(KeyError(CANARY), Kind.EVALUATE) is Status.INTERNAL
    assert status_of(RecursionError(), Kind.EVALUATE) is Status.INTERNAL
    assert status_of(OSError(28, CANARY), Kind.STORE) is Status.STORAGE
    assert status_of(ProtocolError("x"), Kind.STORE) is Status.PROTOCOL
    assert status_of(BundleSignatureError("x"), Kind.INSTALL) is Status.BUNDLE_REFUSED
    assert status_of(BundleSignatureError("x"), Kind.STORE) is Status.PIECE_REFUSED


def test_notes_quote_our_own_messages_only():
    def fail(error):
        with pytest.raises(type(error)) as caught:
            raise error
        return describe(caught.value)

    kind, note = fail(ValueError(CANARY))
    assert kind == "ValueError"
    assert CANARY not in note
    assert "test_egress.py" in note
    assert "user.json: field x" in fail(DataError("user.json: field x"))[1]
