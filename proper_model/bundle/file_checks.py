"""Checks on the content of one bundle file, after the manifest was accepted.

Length, then hash, then what the bytes hold: UTF-8 text, or a tensor file whose table is the signed
one, without NaN or huge values, and without an average over too few people. Source:
docs/bundle-format.md section 4, steps 11 to 14.
"""

from __future__ import annotations

import hashlib

from proper_model.bundle.content_policy import check_members, check_numbers
from proper_model.bundle.limits import DEFAULT_LIMITS, Limits
from proper_model.bundle.manifest import Manifest
from proper_model.bundle.safe_tensors import read_table
from proper_model.errors import BundleFormatError, BundleIntegrityError


def content_id(manifest_bytes: bytes) -> str:
    """Identity of a bundle: sha256 of its manifest bytes, as 64 hex digits."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def check_hash(manifest: Manifest, name: str, data: bytes) -> None:
    """The bytes are those the manifest promises.

    Raises BundleFormatError: the manifest does not list this file; BundleIntegrityError: another
    length or hash.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise BundleFormatError("bundle: holds a file that its manifest does not list")
    if len(data) != entry.size:
        raise BundleIntegrityError(f"{name}: {len(data)} bytes, expected {entry.size}")
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleIntegrityError(
            f"{name}: sha256 differs from the manifest",
            hint="the file was damaged or altered; get it again",
        )


def check_file(
    manifest: Manifest, name: str, data: bytes, *, limits: Limits = DEFAULT_LIMITS
) -> None:
    """The bytes are those promised, and safe to hand to a reader of their format.

    Raises BundleFormatError: unlisted, not UTF-8, malformed tensors, NaN, or too small an average;
    BundleIntegrityError: other length, hash or tensor table than the manifest says;
    BundleLimitError: a safetensors header over `limits`.
    """
    check_hash(manifest, name, data)
    tensors = manifest.files[name].tensors
    if tensors is None:
        if not name.endswith(".model"):
            _check_text(name, data)
        return
    table = read_table(data, limits, where=name)
    if {t: (s.dtype, s.shape) for t, s in table.items()} != {
        t: (e.dtype, e.shape) for t, e in tensors.items()
    }:
        raise BundleIntegrityError(f"{name}: tensor table differs from the manifest")
    check_numbers(name, data, table)
    check_members(name, data, table)


def _check_text(name: str, data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"{name}: not UTF-8 at byte {error.start}") from None
