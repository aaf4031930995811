"""Detached Ed25519 signatures over one document each, and the fields of signed documents.

A signature is over `domain || message`, so that one on a manifest is none on a root. Which keys
count, and how many, says `trusted_root`. Source: docs/bundle-format.md section 3.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.errors import (
    BundleForeignError,
    BundleFormatError,
    BundleLimitError,
    BundleSignatureError,
)
from proper_model.storage import canonical

PRODUCT = "proper"
MANIFEST_DOMAIN = b"proper bundle manifest 1\x00"
ROOT_DOMAIN = b"proper trusted root 1\x00"
LATEST_DOMAIN = b"proper latest release 1\x00"

MAX_KEYS = 16
MAX_SIGNATURE_BYTES = 16 * 1024

CHANNEL_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
KEY_ID = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


def sign(domain: bytes, message: bytes, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Canonical bytes of a signature file with one signature a key.

    Raises BundleSignatureError: no key, or more than `MAX_KEYS`.
    """
    return canonical.encode({"signatures": signature_fields(domain, message, keys)})


def signature_fields(
    domain: bytes, message: bytes, keys: Sequence[Ed25519PrivateKey]
) -> dict[str, str]:
    """Key id -> signature in hex. Raises as `sign`."""
    if not 1 <= len(keys) <= MAX_KEYS:
        raise BundleSignatureError(f"signing takes 1 to {MAX_KEYS} keys, got {len(keys)}")
    return {key_id(public_bytes(key)): key.sign(domain + message).hex() for key in keys}


def parse_signatures(data: bytes) -> dict[str, bytes]:
    """Key id -> 64 signature bytes.

    Raises BundleLimitError: more bytes or signatures than allowed; BundleFormatError: not a
    canonical signature file.
    """
    where = "signatures.json"
    check_length(data, MAX_SIGNATURE_BYTES, where)
    fields = exact_object(canonical.decode(data, where=where), {"signatures"}, where)
    return parse_signature_fields(fields["signatures"], where=where)


def parse_signature_fields(entries: Any, *, where: str) -> dict[str, bytes]:
    """Key id -> 64 signature bytes, of a parsed object. Raises as `parse_signatures`."""
    if not isinstance(entries, dict):
        raise BundleFormatError(f"{where}: signatures must be an object")
    if len(entries) > MAX_KEYS:
        raise BundleLimitError(f"{where}: {len(entries)} signatures, expected at most {MAX_KEYS}")
    for name, value in entries.items():
        match_text(KEY_ID, name, f"{where}: key id")
        match_text(_SIGNATURE, value, f"{where}: signature")
    return {name: bytes.fromhex(value) for name, value in entries.items()}


def check_signature(public: bytes, signature: bytes, message: bytes, *, where: str) -> None:
    """Raises BundleSignatureError unless the signature on the message is this key's."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise BundleSignatureError(
            f"{where}: the signature of key {key_id(public)[:16]} does not match the bytes",
            hint="the file was damaged or altered on the way; get it again",
        ) from None


def check_origin(value: Any, format_field: str, expected: Collection[int], where: str) -> None:
    """Tell a document of another product or format version from a malformed one of ours.

    Raises BundleForeignError: `product` or the format number is not ours.
    """
    if not isinstance(value, dict):
        raise BundleFormatError(f"{where}: expected an object")
    if value.get("product") != PRODUCT:
        raise BundleForeignError(f"{where}: made for another product, expected {PRODUCT}")
    number = value.get(format_field)
    if isinstance(number, int) and not isinstance(number, bool) and number not in expected:
        readable = " and ".join(str(known) for known in sorted(expected))
        raise BundleForeignError(
            f"{where}: format {number}, this version of {PRODUCT} reads {readable}",
            hint="update the program, or ask the publisher for a release in this format",
        )


def check_length(data: bytes, most: int, where: str) -> None:
    """Raises BundleLimitError for more bytes than that."""
    if len(data) > most:
        raise BundleLimitError(f"{where}: {len(data)} bytes, expected at most {most}")


def exact_object(value: Any, names: set[str], where: str) -> dict[str, Any]:
    """The value, if it is an object with exactly these fields. Raises BundleFormatError."""
    if not isinstance(value, dict):
        raise BundleFormatError(f"{where}: expected an object")
    if set(value) != names:
        raise BundleFormatError(f"{where}: expected exactly the fields {', '.join(sorted(names))}")
    return value


def match_text(pattern: re.Pattern[str], value: Any, where: str) -> str:
    """The value, if it is text of this form. Raises BundleFormatError."""
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise BundleFormatError(f"{where}: expected the form {pattern.pattern}")
    return value


def whole_number(value: Any, where: str) -> int:
    """The value, if it is an integer from 1 up. Raises BundleFormatError."""
    if type(value) is not int or not 1 <= value <= canonical.MAX_INTEGER:
        raise BundleFormatError(f"{where}: expected an integer of at least 1")
    return value
