"""Upper bounds that are checked before bytes of a release are parsed or hashed.

Source: docs/security.md 2 ("limits before parsing"), docs/bundle-format.md section 5. The defaults
hold a 7-billion-parameter base in 16 bit with room to spare; a small device passes smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """What a device is willing to look at: inclusive maxima of one bundle.

    `file_bytes` is of one file, `header_bytes` of one safetensors header; `total_bytes`, `tensors`
    and `elements` are of all files together.
    """

    manifest_bytes: int = 4 * MIB
    signature_bytes: int = 16 * KIB
    files: int = 256
    file_bytes: int = 16 * GIB
    total_bytes: int = 64 * GIB
    header_bytes: int = 1 * MIB
    tensors: int = 20_000
    elements: int = 40_000_000_000


DEFAULT_LIMITS = Limits()
