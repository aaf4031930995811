"""Trusted roots: thresholds, rotation by old and new keys, and domains."""

from __future__ import annotations

import json

import pytest
from bundle_samples import KEY, SECOND_KEY, STRANGER, flips
from outcomes import outcome

from client.releases.pinned_root import follow, load_root, pin_root
from proper_model.bundle.trusted_root import (
    MANIFEST_DOMAIN,
    MAX_ROOT_BYTES,
    ROOT_DOMAIN,
    TrustedRoot,
    key_id,
    public_bytes,
    rotate,
    sign,
)
from proper_model.errors import (
    BundleError,
    BundleForeignError,
    BundleFormatError,
    BundleLimitError,
    BundleRollbackError,
    BundleSignatureError,
    StateError,
)
from proper_model.storage import canonical

OLD = TrustedRoot.of([KEY])
NEW = TrustedRoot.of([SECOND_KEY], version=2)


def next_root(root=NEW, keys=(KEY, SECOND_KEY), domain=ROOT_DOMAIN):
    data = root.to_bytes()
    return data, sign(domain, data, keys)


def test_round_trip():
    root = TrustedRoot.of([KEY, SECOND_KEY], threshold=2, version=7, channel="films")
    assert TrustedRoot.from_bytes(root.to_bytes()) == root
    assert set(root.keys) == {key_id(public_bytes(KEY)), key_id(public_bytes(SECOND_KEY))}


@pytest.mark.parametrize(
    ("threshold", "keys", "accepted"),
    [
        (1, [KEY], True),
        (1, [KEY, STRANGER], True),
        (2, [KEY, SECOND_KEY], True),
        (2, [KEY], False),
        (2, [KEY, KEY], False),
        (2, [KEY, STRANGER], False),
        (1, [STRANGER], False),
    ],
)
def test_threshold_counts_different_trusted_keys(threshold, keys, accepted):
    root = TrustedRoot.of([KEY, SECOND_KEY], threshold=threshold)
    signatures = sign(MANIFEST_DOMAIN, b"message", keys)
    with outcome(None if accepted else BundleSignatureError):
        root.verify(MANIFEST_DOMAIN, b"message", signatures, where="x")
    for domain, message in ((MANIFEST_DOMAIN, b"massage"), (ROOT_DOMAIN, b"message")):
        with pytest.raises(BundleSignatureError):
            root.verify(domain, message, signatures, where="x")


def test_one_wrong_signature_of_a_trusted_key_is_refused_above_the_threshold():
    root = TrustedRoot.of([KEY, SECOND_KEY], threshold=1)
    value = json.loads(sign(MANIFEST_DOMAIN, b"message", [KEY, SECOND_KEY]))
    value["signatures"][key_id(public_bytes(SECOND_KEY))] = "0" * 128
    with pytest.raises(BundleSignatureError, match="does not match"):
        root.verify(MANIFEST_DOMAIN, b"message", canonical.encode(value), where="x")


def test_rotation_needs_the_old_and_the_new_keys():
    assert rotate(OLD, *next_root()) == NEW
    for keys in ([KEY], [SECOND_KEY], [STRANGER], [KEY, STRANGER]):
        with pytest.raises(BundleSignatureError):
            rotate(OLD, *next_root(keys=keys))
    with pytest.raises(BundleSignatureError):
        rotate(OLD, *next_root(domain=MANIFEST_DOMAIN))


@pytest.mark.parametrize(
    ("version", "error"),
    [
        (4, BundleRollbackError),
        (5, BundleRollbackError),
        (7, BundleFormatError),
        (2**40, BundleFormatError),
    ],
)
def test_rotation_moves_exactly_one_version(version, error):
    current = TrustedRoot.of([KEY], version=5)
    with pytest.raises(error):
        rotate(current, *next_root(TrustedRoot.of([SECOND_KEY], version=version)))


def test_every_bit_of_a_rotation_counts():
    data, signatures = next_root()
    for altered in flips(data):
        with pytest.raises(BundleError):
            rotate(OLD, altered, signatures)


def test_the_root_beside_a_release_is_followed_only_by_rotation(tmp_path):
    def beside(root, keys=(KEY, SECOND_KEY)):
        data, signatures = next_root(root, keys)
        return {"root.json": data, "root.signatures.json": signatures}

    def followed(files):
        return follow(OLD, lambda name, _: files.get(name))

    with pytest.raises(BundleSignatureError):
        followed(beside(NEW, [SECOND_KEY]))
    assert followed(beside(NEW)) == NEW
    assert followed(beside(OLD, [STRANGER])) == OLD
    assert followed({}) == OLD
    with pytest.raises(BundleForeignError):  # another of the same version
        followed(beside(TrustedRoot.of([SECOND_KEY])))
    path = tmp_path / "root.json"
    with pytest.raises(StateError):
        load_root(path)
    pin_root(path, NEW)
    assert load_root(path) == NEW
    assert path.read_bytes() == NEW.to_bytes()


def test_limits_come_before_parsing():
    with pytest.raises(BundleLimitError):
        TrustedRoot.from_bytes(b"[" * (MAX_ROOT_BYTES + 1))
    with pytest.raises(BundleLimitError):
        rotate(OLD, b"[" * (MAX_ROOT_BYTES + 1), b"")


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"threshold": 2},
        {"threshold": True},
        {"version": 0},
        {"version": "1"},
        {"channel": "No Channel"},
        {"channel": 3},
        {"keys": {}},
        {"keys": []},
        {"keys": {"0" * 64: "0" * 64}},
        {"keys": {key_id(public_bytes(KEY)): "A" * 64}},
        {"extra": 1},
    ],
    ids=str,
)
def test_malformed_roots(change):
    value = {**json.loads(OLD.to_bytes()), **change}
    with pytest.raises(BundleFormatError):
        TrustedRoot.from_bytes(canonical.encode(value))


@pytest.mark.parametrize("change", [{"product": "other"}, {"root_format": 3}], ids=str)
def test_foreign_roots(change):
    value = {**json.loads(OLD.to_bytes()), **change}
    with pytest.raises(BundleForeignError):
        TrustedRoot.from_bytes(canonical.encode(value))


def test_signing_needs_a_key():
    with pytest.raises(BundleSignatureError):
        sign(MANIFEST_DOMAIN, b"", [])
