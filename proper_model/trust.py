"""Whom a device trusts: Ed25519 keys, a threshold, and how to move to new keys.

A `TrustedRoot` is pinned on the device out of band. Signatures are detached, over
`domain || message`, so that a signature on one kind of document is none on another. Source:
SECURITY 2 ("Bundle"), docs/bundle-format.md sections 3 and 4. No I/O: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proper_model import canonical
from proper_model.errors import (
    BundleForeignError,
    BundleFormatError,
    BundleLimitError,
    BundleRollbackError,
    BundleSignatureError,
)

PRODUCT = "proper"
ROOT_FORMAT = 1
DEFAULT_CHANNEL = "default"
MANIFEST_DOMAIN = b"proper bundle manifest 1\x00"
ROOT_DOMAIN = b"proper trusted root 1\x00"

MAX_KEYS = 16
MAX_ROOT_BYTES = 16 * 1024
MAX_SIGNATURE_BYTES = 16 * 1024

CHANNEL_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of the public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw()


def key_id(public: bytes) -> str:
    """Name of a public key: sha256 of its 32 raw bytes, as 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def sign(domain: bytes, message: bytes, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Canonical bytes of a signature file with one signature a key.

    Raises:
        BundleSignatureError: no key, or more than `MAX_KEYS`.
    """
    if not 1 <= len(keys) <= MAX_KEYS:
        raise BundleSignatureError(f"signing takes 1 to {MAX_KEYS} keys, got {len(keys)}")
    signatures = {key_id(public_bytes(key)): key.sign(domain + message).hex() for key in keys}
    return canonical.encode({"signatures": signatures})


def parse_signatures(data: bytes, *, max_bytes: int = MAX_SIGNATURE_BYTES) -> dict[str, bytes]:
    """Key id -> 64 signature bytes.

    Raises:
        BundleLimitError: more bytes or signatures than allowed.
        BundleFormatError: not a canonical signature file.
    """
    where = "signatures.json"
    if len(data) > max_bytes:
        raise BundleLimitError(f"{where}: {len(data)} bytes, expected at most {max_bytes}")
    fields = _object(canonical.decode(data, where=where), {"signatures"}, where)
    entries = fields["signatures"]
    if not isinstance(entries, dict):
        raise BundleFormatError(f"{where}: signatures must be an object")
    if len(entries) > MAX_KEYS:
        raise BundleLimitError(f"{where}: {len(entries)} signatures, expected at most {MAX_KEYS}")
    for name, value in entries.items():
        _match(_KEY_ID, name, f"{where}: key id")
        _match(_SIGNATURE, value, f"{where}: signature")
    return {name: bytes.fromhex(value) for name, value in entries.items()}


@dataclass(frozen=True)
class TrustedRoot:
    """Keys a device accepts releases from.

    Attributes:
        keys: key id -> 32 raw public key bytes.
        threshold: how many different keys must have signed.
        version: 1 for the first root of a population, one more with every rotation.
        channel: the population the releases are for; one key may serve several channels without
            a release of one being accepted in another.
    """

    keys: Mapping[str, bytes]
    threshold: int = 1
    version: int = 1
    channel: str = DEFAULT_CHANNEL

    def __post_init__(self) -> None:
        where = "trusted root"
        if not 1 <= len(self.keys) <= MAX_KEYS:
            raise BundleFormatError(f"{where}: {len(self.keys)} keys, expected 1 to {MAX_KEYS}")
        if not 1 <= self.threshold <= len(self.keys):
            raise BundleFormatError(
                f"{where}: threshold {self.threshold}, expected 1 to {len(self.keys)} (its keys)"
            )
        if not 1 <= self.version <= canonical.MAX_INTEGER:
            raise BundleFormatError(f"{where}: version {self.version}, expected at least 1")
        _match(CHANNEL_PATTERN, self.channel, f"{where}: channel")
        for name, public in self.keys.items():
            if len(public) != 32 or key_id(public) != name:
                raise BundleFormatError(f"{where}: a key does not match its id")

    @classmethod
    def of(
        cls,
        keys: Sequence[Ed25519PrivateKey | Ed25519PublicKey],
        *,
        threshold: int = 1,
        version: int = 1,
        channel: str = DEFAULT_CHANNEL,
    ) -> TrustedRoot:
        """The root that lists these keys; only their public halves enter it."""
        public = [public_bytes(key) for key in keys]
        return cls({key_id(raw): raw for raw in public}, threshold, version, channel)

    def to_bytes(self) -> bytes:
        """Canonical bytes of root.json."""
        return canonical.encode(
            {
                "product": PRODUCT,
                "root_format": ROOT_FORMAT,
                "version": self.version,
                "channel": self.channel,
                "threshold": self.threshold,
                "keys": {name: public.hex() for name, public in self.keys.items()},
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustedRoot:
        """Read root.json.

        Raises:
            BundleLimitError: more than `MAX_ROOT_BYTES`.
            BundleForeignError: another product or root format.
            BundleFormatError: anything else that is not a root.
        """
        where = "root.json"
        if len(data) > MAX_ROOT_BYTES:
            raise BundleLimitError(f"{where}: {len(data)} bytes, expected at most {MAX_ROOT_BYTES}")
        value = canonical.decode(data, where=where)
        names = {"product", "root_format", "version", "channel", "threshold", "keys"}
        check_origin(value, "root_format", ROOT_FORMAT, where)
        fields = _object(value, names, where)
        for name in ("version", "threshold"):
            if not isinstance(fields[name], int) or isinstance(fields[name], bool):
                raise BundleFormatError(f"{where}: {name} must be an integer")
        if not isinstance(fields["keys"], dict):
            raise BundleFormatError(f"{where}: keys must be an object")
        for public in fields["keys"].values():
            _match(_PUBLIC_KEY, public, f"{where}: public key")
        _match(CHANNEL_PATTERN, fields["channel"], f"{where}: channel")
        keys = {name: bytes.fromhex(public) for name, public in fields["keys"].items()}
        return cls(keys, fields["threshold"], fields["version"], fields["channel"])

    def verify(self, domain: bytes, message: bytes, signatures: bytes, *, where: str) -> None:
        """Check that enough trusted keys signed `domain || message`.

        Signatures by keys that are not listed are ignored, because a release signed by the old and
        the new keys must be readable under either root. A listed key's signature must be valid.

        Raises:
            BundleSignatureError: fewer than `threshold` listed keys signed, or one of their
                signatures is wrong.
            BundleFormatError, BundleLimitError: the signature file itself is malformed.
        """
        given = parse_signatures(signatures)
        known = [name for name in given if name in self.keys]
        if len(known) < self.threshold:
            raise BundleSignatureError(
                f"{where}: signed by {len(known)} of this device's {len(self.keys)} trusted keys, "
                f"expected at least {self.threshold}",
                hint="it comes from another publisher, or the device needs a newer root",
            )
        for name in known:
            try:
                Ed25519PublicKey.from_public_bytes(self.keys[name]).verify(
                    given[name], domain + message
                )
            except InvalidSignature:
                raise BundleSignatureError(
                    f"{where}: the signature of key {name[:16]} does not match the bytes",
                    hint="the file was damaged or altered on the way; get it again",
                ) from None


def rotate(current: TrustedRoot, root: bytes, signatures: bytes) -> TrustedRoot:
    """The next root, if the keys of both the current and the new one vouch for it.

    Args:
        current: the pinned root.
        root: canonical bytes of the new one; its version must be exactly one more.
        signatures: a signature file over `ROOT_DOMAIN || root`.

    Raises:
        BundleSignatureError: below the threshold of the old or of the new root.
        BundleRollbackError: a version this device already has, or an older one.
        BundleForeignError: for another channel or product.
        BundleFormatError: malformed, or a version was skipped.
        BundleLimitError: larger than `MAX_ROOT_BYTES`.
    """
    if len(root) > MAX_ROOT_BYTES:
        raise BundleLimitError(f"root.json: {len(root)} bytes, expected at most {MAX_ROOT_BYTES}")
    current.verify(ROOT_DOMAIN, root, signatures, where="new root, by the current keys")
    new = TrustedRoot.from_bytes(root)
    new.verify(ROOT_DOMAIN, root, signatures, where="new root, by its own keys")
    if new.channel != current.channel:
        raise BundleForeignError(
            f"new root: for channel {new.channel}, this device follows {current.channel}"
        )
    if new.version <= current.version:
        raise BundleRollbackError(
            f"new root: version {new.version}, this device already has {current.version}"
        )
    if new.version != current.version + 1:
        raise BundleFormatError(
            f"new root: version {new.version}, expected exactly {current.version + 1}",
            hint="apply the roots between them first, in order",
        )
    return new


def check_origin(value: Any, format_field: str, expected: int, where: str) -> None:
    """Tell a document of another product or format version from a malformed one of ours.

    Raises:
        BundleForeignError: `product` or the format number is not ours.
    """
    if not isinstance(value, dict):
        raise BundleFormatError(f"{where}: expected an object")
    if value.get("product") != PRODUCT:
        raise BundleForeignError(f"{where}: made for another product, expected {PRODUCT}")
    number = value.get(format_field)
    if isinstance(number, int) and not isinstance(number, bool) and number != expected:
        raise BundleForeignError(
            f"{where}: format {number}, this version of {PRODUCT} reads {expected}",
            hint="update the program, or ask the publisher for a release in this format",
        )


def _object(value: Any, names: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleFormatError(f"{where}: expected an object")
    if set(value) != names:
        raise BundleFormatError(f"{where}: expected exactly the fields {', '.join(sorted(names))}")
    return value


def _match(pattern: re.Pattern[str], value: Any, where: str) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise BundleFormatError(f"{where}: expected the form {pattern.pattern}")
