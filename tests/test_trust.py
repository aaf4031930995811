"""Roots, the word on the newest release, and times: pure functions.

Rotations and words signed by the wrong keys are vectors (`test_bundle_vectors`).
"""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from bundle_samples import CREATED, KEY, NOW, SECOND_KEY, STRANGER, flips, sample_files, sample_info
from outcomes import outcome

from proper_model.bundle.latest import parse_latest
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.signatures import LATEST_DOMAIN, MANIFEST_DOMAIN, ROOT_DOMAIN, sign
from proper_model.bundle.signed_bundle import build_bundle, verify_bundle
from proper_model.bundle.trusted_root import (
    LATEST,
    MAX_ROOT_BYTES,
    RELEASE,
    ROOT,
    TrustedRoot,
    rotate,
)
from proper_model.errors import (
    BundleError,
    BundleExpiredError,
    BundleForeignError,
    BundleFormatError,
    BundleLimitError,
    BundleRollbackError,
    BundleSignatureError,
    BundleTimeError,
    ConfigError,
)
from proper_model.storage import canonical
from tests.publisher import (
    LATEST_KEY,
    NEW_RELEASE_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    THIEF,
    YEAR,
    bundle,
    roles_root,
    signed_root,
    word,
)

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
    with pytest.raises(BundleRollbackError):
        rotate(NEW, *next_root(OLD))


def test_every_bit_of_a_rotation_counts():
    data, signatures = next_root()
    for altered in flips(data):
        with pytest.raises(BundleError):
            rotate(OLD, altered, signatures)


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


# --- roots with roles -----------------------------------------------------------------------------

FIRST = roles_root()
SECOND = roles_root(2, release=(NEW_RELEASE_KEY,))
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TICK = timedelta(seconds=1)


def ids(*keys):
    return sorted(key_id(public_bytes(key)) for key in keys)


def test_a_root_with_roles_comes_back():
    root = roles_root(7, release=(RELEASE_KEY, NEW_RELEASE_KEY), release_threshold=2, channel="x")
    assert TrustedRoot.from_bytes(root.to_bytes()) == root
    assert (root.format, TrustedRoot.of([KEY]).format) == (2, 1)


@pytest.mark.parametrize("domain", [ROOT_DOMAIN, MANIFEST_DOMAIN, LATEST_DOMAIN])
@pytest.mark.parametrize(
    ("keys", "role"),
    [
        (ROOT_KEYS[:2], ROOT_DOMAIN),
        ((RELEASE_KEY,), MANIFEST_DOMAIN),
        ((LATEST_KEY,), LATEST_DOMAIN),
    ],
)
def test_each_role_signs_its_own_kind_of_document_and_no_other(domain, keys, role):
    with outcome(None if domain == role else BundleSignatureError, "signed by 0 of"):
        signed_by = FIRST.verify(domain, b"message", sign(domain, b"message", keys), where="x")
        assert sorted(signed_by) == ids(*keys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"roles": {}}, "exactly the fields"),
        ({"roles": []}, "expected an object"),
        ({"root": {"keys": [], "threshold": 1}}, "threshold 1, expected 1 to 0"),
        ({"root": {"keys": ids(*ROOT_KEYS), "threshold": 4}}, "threshold 4"),
        ({"root": {"keys": ids(*ROOT_KEYS), "threshold": 0}}, "threshold"),
        ({"root": {"keys": ids(*ROOT_KEYS), "threshold": True}}, "threshold"),
        ({"root": {"keys": [ids(*ROOT_KEYS)[0]] * 2, "threshold": 2}}, "sorted, different"),
        ({"root": {"keys": ids(*ROOT_KEYS)[::-1], "threshold": 2}}, "sorted, different"),
        ({"root": {"keys": ids(*ROOT_KEYS, THIEF), "threshold": 2}}, "listed"),
        ({"root": {"keys": ids(*ROOT_KEYS, RELEASE_KEY), "threshold": 2}}, "keys of its own"),
        ({"root": {"keys": ids(*ROOT_KEYS, LATEST_KEY), "threshold": 2}}, "keys of its own"),
        ({"root": {"keys": ids(*ROOT_KEYS[:2]), "threshold": 2}}, "no role uses"),
        ({"root": {"keys": "x", "threshold": 2}}, "array"),
        ({"root": {"keys": ids(*ROOT_KEYS)}}, "exactly the fields"),
        ({"expires": None}, "time"),
        ({"expires": "2026-01-01T00:00:00Z"}, "not after created"),
        ({"threshold": 1}, "exactly the fields"),
        ({"root_format": True}, "root_format"),
    ],
    ids=str,
)
def test_malformed_roots_with_roles(change, told):
    value = json.loads(FIRST.to_bytes())
    if "root" in change:
        value["roles"]["root"] = change["root"]
    else:
        value.update(change)
    with pytest.raises(BundleFormatError, match=told):
        TrustedRoot.from_bytes(canonical.encode(value))


# --- times ---------------------------------------------------------------------------------------


def verified(now=NOW, root=FIRST, **changes):
    files = bundle(1, **changes)
    return verify_bundle(files.manifest_bytes, files.signature_bytes, files.files, root, now=now)


def test_no_document_is_valid_for_ever():
    assert verified(expires=CREATED + 400 * DAY).version == 1
    with pytest.raises(BundleTimeError, match="401 days"):
        build_bundle(sample_files(), sample_info(expires=CREATED + 401 * DAY), [RELEASE_KEY])
    assert roles_root(expires=CREATED + 5 * 366 * DAY).format == 2
    with pytest.raises(BundleTimeError, match="1831 days"):
        roles_root(expires=CREATED + 1831 * DAY)
    with pytest.raises(BundleTimeError, match="101 days"):
        word(bundle(1), 1, 1, days=101)


@pytest.mark.parametrize(
    ("root", "error"),
    [
        (roles_root(expires=NOW), BundleExpiredError),
        (roles_root(expires=NOW + TICK), None),
        (roles_root(created=NOW + HOUR), None),
        (roles_root(created=NOW + HOUR + TICK), BundleTimeError),
    ],
    ids=["expired", "last second", "clocks differ", "future"],
)
def test_a_root_past_or_ahead_of_its_time_lets_nothing_new_in(root, error):
    with outcome(error):
        assert verified(root=root).version == 1


def test_an_expired_root_may_still_be_followed_by_the_next_one():
    past = roles_root(expires=CREATED + DAY)
    rotate(past, *signed_root(SECOND)).check_current(NOW + 30 * DAY)


# --- the word on the newest release ----------------------------------------------------------------


def test_the_word_comes_back_and_names_its_signers():
    files = bundle(3)
    latest, keys = parse_latest(word(files, 3, 8)).verify(FIRST, NOW)
    assert (latest.version, latest.number, latest.bundle_id) == (3, 8, files.bundle_id)
    assert latest.expires == CREATED + 30 * DAY
    assert keys == (key_id(public_bytes(LATEST_KEY)),)


def test_every_bit_of_the_word_counts():
    data = word(bundle(1), 1, 1)
    for altered in flips(data):
        with pytest.raises(BundleError):
            parse_latest(altered).verify(FIRST, NOW)


@pytest.mark.parametrize(
    "content",
    [
        b'{"signed":{},"signatures":{}}',
        b'{"signatures":{},"signed":null}',
        b'{"bundle_id":"x","version":1}',
        b'{"bundle_id":"' + b"0" * 64 + b'","version":0}',
    ],
)
def test_damaged_words(content):
    with pytest.raises(BundleError):
        parse_latest(content)


def test_the_unsigned_form_of_earlier_publishers_is_read_but_never_verified():
    pointer = parse_latest(b'{"bundle_id":"' + b"0" * 64 + b'","version":4}')
    assert (pointer.version, pointer.latest) == (4, None)
    with pytest.raises(BundleSignatureError, match="not signed"):
        pointer.verify(FIRST, NOW)


def test_what_was_signed_counts_until_a_key_of_it_is_taken_away():
    both = ids(RELEASE_KEY, NEW_RELEASE_KEY)
    two = roles_root(release=(RELEASE_KEY, NEW_RELEASE_KEY), release_threshold=2)
    one = roles_root(release=(NEW_RELEASE_KEY, THIEF))
    old, new = ids(RELEASE_KEY), ids(NEW_RELEASE_KEY)
    assert two.are_enough(RELEASE, both)
    assert not two.are_enough(RELEASE, old * 2)
    for root, role, keys, counts in (
        (two, RELEASE, both, True),
        (two, RELEASE, old, True),  # the threshold was only raised
        (one, RELEASE, both, True),  # one is left, and one is enough
        (one, RELEASE, new, True),
        (one, RELEASE, old, False),
        (two, RELEASE, ids(RELEASE_KEY, THIEF), False),  # one of two is too few
        (two, LATEST, both, False),
        (two, ROOT, ids(RELEASE_KEY, *ROOT_KEYS[:1]), False),
    ):
        assert root.still_vouches(role, keys) is counts


def test_times_need_a_zone():
    local = CREATED.replace(tzinfo=None)
    with pytest.raises(ConfigError, match="time zone"):
        roles_root(created=local, expires=local + YEAR).to_bytes()
