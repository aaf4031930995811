"""Ed25519 keys under which anybody's signature verifies are no keys; nor is a second spelling of one."""

from __future__ import annotations

import json

import pytest
from bundle_samples import KEY, SECOND_KEY
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coordinator.keys import load_public
from proper_model.bundle import public_keys
from proper_model.bundle.public_keys import check_public_key, key_id, public_bytes
from proper_model.bundle.signatures import MANIFEST_DOMAIN
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.errors import BundleFormatError, BundleSignatureError, ConfigError
from proper_model.storage import canonical

# The eight points of small order in all their encodings, as libsodium's and the "Taming the many
# EdDSAs" paper's lists have them: order 1, 2, 4 and 8; canonical or not; with either sign bit.
SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]
# RFC 8032, section 7.1.
HONEST = [
    bytes.fromhex(text)
    for text in (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    )
]
ORDER = 2**252 + 27742317777372353535851937790883648493


def forge(public: bytes) -> tuple[bytes, bytes]:
    """A message and a signature that the library accepts under this key; no private key is used."""
    key = Ed25519PublicKey.from_public_bytes(public)
    for number in range(64):
        message = b"release %d" % number
        for commitment in SMALL_ORDER:
            signature = commitment + bytes(32)
            try:
                key.verify(signature, MANIFEST_DOMAIN + message)
            except InvalidSignature:
                continue
            return message, signature
    pytest.fail("no forgery found")


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda key: key.hex()[:8] + key.hex()[-2:])
def test_a_key_of_small_order_verifies_forgeries_and_is_refused_everywhere(public, tmp_path):
    forge(public)  # the library alone accepts it: this is what the check is for
    with pytest.raises(BundleFormatError):
        check_public_key(public, where="x")
    for root in roots_with(public).values():
        with pytest.raises(BundleFormatError, match="a public key"):
            TrustedRoot.from_bytes(root)
    path = tmp_path / "key.pub"
    path.write_text(public.hex())
    with pytest.raises(ConfigError, match="a public key"):
        load_public(path)


def roots_with(public: bytes) -> dict[str, bytes]:
    """Roots of both formats that list this key beside a good one."""
    keys = {key_id(public): public.hex(), key_id(public_bytes(KEY)): public_bytes(KEY).hex()}
    common = {"product": "proper", "version": 1, "channel": "default", "keys": keys}
    role = {"keys": [key_id(public_bytes(KEY))], "threshold": 1}
    roles = {"root": {"keys": [key_id(public)], "threshold": 1}, "release": role, "latest": role}
    times = {"created": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z"}
    values = {
        "one role": {**common, "root_format": 1, "threshold": 1},
        "roles": {**common, "root_format": 2, "roles": roles, **times},
    }
    return {name: canonical.encode(value) for name, value in values.items()}


def test_without_the_check_a_forged_release_would_be_verified(monkeypatch):
    """The positive control: nothing else stands in the way."""
    public = SMALL_ORDER[0]
    message, signature = forge(public)
    monkeypatch.setattr(public_keys, "_fault", lambda _public: None)
    root = TrustedRoot.from_bytes(roots_with(public)["one role"])
    given = canonical.encode({"signatures": {key_id(public): signature.hex()}})
    assert root.verify(MANIFEST_DOMAIN, message, given, where="x") == (key_id(public),)


@pytest.mark.parametrize("public", HONEST, ids=lambda key: key.hex()[:8])
def test_honest_keys_pass(public):
    check_public_key(public, where="x")


def with_torsion(public: bytes) -> bytes:
    """The honest point plus one of order eight: still a point, and the holder can sign for it."""

    def decode(data: bytes) -> tuple[int, int, int, int]:
        y = int.from_bytes(data, "little") & (2**255 - 1)
        x = public_keys._x_of(y)
        x = x if x & 1 == data[31] >> 7 else public_keys._P - x
        return x, y, 1, x * y % public_keys._P

    x, y, z, _ = public_keys._add(decode(public), decode(SMALL_ORDER[10]))
    inverse = pow(z, -1, public_keys._P)
    x, y = x * inverse % public_keys._P, y * inverse % public_keys._P
    return (y | (x & 1) << 255).to_bytes(32, "little")


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        ((2**255 - 19 + 3).to_bytes(32, "little"), "canonical"),
        ((2).to_bytes(32, "little"), "no point"),
        (HONEST[0][:31], "31 bytes"),
        (with_torsion(HONEST[0]), "part of small order"),
    ],
    ids=["not reduced", "no point", "short", "mixed order"],
)
def test_other_bytes_that_are_no_key(public, reason):
    with pytest.raises(BundleFormatError, match=reason):
        check_public_key(public, where="x")


def test_a_key_counts_once_however_it_is_written():
    """Its negative, which one secret opens too, is no second key."""
    public = public_bytes(KEY)
    negative = public[:31] + bytes([public[31] ^ 128])
    check_public_key(negative, where="x")
    value = json.loads(TrustedRoot.of([KEY, SECOND_KEY], threshold=2).to_bytes())
    value["keys"] = {key_id(raw): raw.hex() for raw in (public, negative)}
    with pytest.raises(BundleFormatError, match="one secret"):
        TrustedRoot.from_bytes(canonical.encode(value))


@pytest.mark.parametrize("multiple", range(1, 15))
def test_a_signature_has_one_form(multiple):
    """S plus a multiple of the group's order satisfies the same equation."""
    root, message = TrustedRoot.of([KEY]), b"message"
    signature = KEY.sign(MANIFEST_DOMAIN + message)
    other = int.from_bytes(signature[32:], "little") + multiple * ORDER
    malleable = signature[:32] + other.to_bytes(32, "little")
    given = canonical.encode({"signatures": {key_id(public_bytes(KEY)): malleable.hex()}})
    with pytest.raises(BundleSignatureError):
        root.verify(MANIFEST_DOMAIN, message, given, where="x")
