"""Which 32 bytes are an Ed25519 public key that may be trusted, and the name of such a key.

OpenSSL verifies under any bytes that decode to a point. Under a point of small order the equation
holds without a private key: all messages, or one in eight, verify under a signature that anybody can
write. One point may also have two encodings, hence two names. So a key counts only in its canonical
encoding and only if it generates the group of prime order, as every honest key does.
Source: RFC 8032 section 5.1.3; docs/bundle-format.md section 3.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from proper_model.errors import BundleFormatError

KEY_BYTES = 32

_P = 2**255 - 19  # field
_L = 2**252 + 27742317777372353535851937790883648493  # order of the base point
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

# Extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z.
_Point = tuple[int, int, int, int]
_IDENTITY: _Point = (0, 1, 1, 0)


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of the public key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw()


def key_id(public: bytes) -> str:
    """Name of a public key: sha256 of its 32 raw bytes, as 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def check_public_key(public: bytes, *, where: str) -> None:
    """Accept only the one encoding of a point of prime order.

    Raises BundleFormatError with the reason; `where` names the document.
    """
    reason = _fault(bytes(public))
    if reason is not None:
        raise BundleFormatError(
            f"{where}: a public key {reason}, expected an Ed25519 key",
            hint="such a key lets anybody's signature pass; do not trust this document",
        )


@lru_cache(maxsize=256)
def _fault(public: bytes) -> str | None:
    """What is wrong with these bytes as a key; milliseconds of arithmetic, kept for the next call."""
    if len(public) != KEY_BYTES:
        return f"has {len(public)} bytes, not {KEY_BYTES}"
    number = int.from_bytes(public, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:
        return "is not in canonical form"
    x = _x_of(y)
    if x is None:
        return "is no point of the curve"
    if x & 1 != sign:
        x = _P - x  # for x = 0, which has no other sign, the order says no
    point: _Point = (x, y, 1, x * y % _P)
    # L is prime, so a point that it sends to the identity has order L, or is the identity itself.
    if _is_identity(point) or not _is_identity(_times(_L, point)):
        return "has small order or a part of small order"
    return None


def _x_of(y: int) -> int | None:
    """A square root x of (y^2 - 1) / (d y^2 + 1), or None."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    return None if (x * x - square) % _P else x


def _add(first: _Point, second: _Point) -> _Point:
    """RFC 8032 section 5.1.4; complete, so it also doubles."""
    a = (first[1] - first[0]) * (second[1] - second[0]) % _P
    b = (first[1] + first[0]) * (second[1] + second[0]) % _P
    c = 2 * first[3] * second[3] * _D % _P
    d = 2 * first[2] * second[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(factor: int, point: _Point) -> _Point:
    total = _IDENTITY
    while factor:
        if factor & 1:
            total = _add(total, point)
        point, factor = _add(point, point), factor >> 1
    return total


def _is_identity(point: _Point) -> bool:
    return point[0] % _P == 0 and (point[1] - point[2]) % _P == 0
