"""Messages and pieces: what may be said, and that files come back together as they were cut."""

from __future__ import annotations

import hashlib

import pytest

from coordinator.shipment import Shipment
from proper_model.errors import BundleIntegrityError, ProtocolError
from proper_model.federation import protocol
from proper_model.federation.protocol import (
    FileTable,
    Kind,
    Status,
    check_request,
    hashes,
    parse_reply,
    request_fields,
    size_bytes,
)

BUNDLE = "ab" * 32


def reply(**changes):
    return {"status": "ok", "protocol": 1, "bundle_id": BUNDLE, **changes}


def test_private_round_may_answer_three_fields_only():
    assert protocol.REPLY_FIELDS[Kind.PERSONALIZE] == {"status", "protocol", "bundle_id"}
    assert protocol.REPLY_FIELDS[Kind.EVALUATE] == {"status", "protocol", "bundle_id"}
    assert set(protocol.REPLY_FIELDS) == set(Kind) == set(protocol.REQUEST_FIELDS)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_file_table_survives_the_wire():
    table = FileTable({"a": (sha(b"1234"),), "b": (sha(b"1234"), sha(b"5678")), "empty": ()})
    fields = request_fields(Kind.INSTALL, BUNDLE, **table.to_fields())
    assert check_request(Kind.INSTALL, fields) == BUNDLE
    assert FileTable.from_fields(fields) == table
    # "1234" is in both files and is one piece to send.
    assert table.all_pieces() == (sha(b"1234"), sha(b"5678"))


@pytest.mark.parametrize(
    "broken",
    [
        {"counts": [1]},
        {"counts": [1, 2]},
        {"counts": [2, -1]},
        {"counts": "11"},
        {"counts": [1, True]},
        {"names": ["a", "a"]},
        {"names": "ab"},
        {"pieces": ["00" * 32]},
        {"pieces": ["00" * 32, "ZZ" * 32]},
    ],
)
def test_lists_that_do_not_fit_are_refused(broken):
    good = {"names": ["a", "b"], "counts": [1, 1], "pieces": ["00" * 32, "11" * 32]}
    assert FileTable.from_fields(good).pieces["b"] == ("11" * 32,)
    with pytest.raises(ProtocolError):
        FileTable.from_fields({**good, **broken})


def test_requests_are_checked_on_both_sides():
    with pytest.raises(ProtocolError):
        request_fields(Kind.PERSONALIZE, BUNDLE, path="/home")
    good = request_fields(Kind.PERSONALIZE, BUNDLE)
    for broken in ({"protocol": 2}, {"bundle_id": "x"}, {"bundle_id": 7}, {"more": 1}):
        with pytest.raises(ProtocolError):
            check_request(Kind.PERSONALIZE, {**good, **broken})


def test_hash_lists_have_an_upper_length(monkeypatch):
    monkeypatch.setattr(protocol, "MAX_PIECES", 2)
    assert len(hashes({"pieces": ["00" * 32] * 2}, "pieces")) == 2
    with pytest.raises(ProtocolError):
        hashes({"pieces": ["00" * 32] * 3}, "pieces")


def test_reply_is_parsed_strictly():
    assert parse_reply(Kind.STORE, reply()) == (Status.OK, BUNDLE)
    for broken in ({"status": "great"}, {"protocol": 2}, {"bundle_id": "short"}, {"loss": 0.1}):
        with pytest.raises(ProtocolError):
            parse_reply(Kind.STORE, reply(**broken))
    with pytest.raises(ProtocolError):
        parse_reply(Kind.HAVE, reply())


def test_sizes_count_names_and_values():
    assert size_bytes({"ab": "é", "n": 3, "l": [b"xyz", b""], "s": ["a"]}) == 2 + 2 + 9 + 4 + 2


def test_shipment_reads_pieces_and_notices_a_changed_file(tmp_path, monkeypatch):
    monkeypatch.setattr("coordinator.shipment.PIECE_BYTES", 4)
    monkeypatch.setattr("coordinator.shipment.MESSAGE_BYTES", 8)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "w").write_bytes(b"aaaabbbbcc")
    (tmp_path / "m.json").write_bytes(b"bbbb")
    (tmp_path / "empty").touch()
    shipment = Shipment.of_folder(BUNDLE, tmp_path)
    assert shipment.table.pieces == {
        "base/w": (sha(b"aaaa"), sha(b"bbbb"), sha(b"cc")),
        "empty": (),
        "m.json": (sha(b"bbbb"),),
    }
    wanted = shipment.table.all_pieces()
    assert [shipment.piece(sha) for sha in wanted] == [b"aaaa", b"bbbb", b"cc"]
    assert list(shipment.loads(wanted)) == [wanted[:2], wanted[2:]]
    (tmp_path / "base" / "w").write_bytes(b"aaaaXbbbcc")
    with pytest.raises(BundleIntegrityError):
        shipment.piece(wanted[1])
