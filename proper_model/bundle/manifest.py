"""The manifest of a release: what is signed. Written format: docs/bundle-format.md section 6.

pydantic turns bytes from outside into typed values or an error.
Names of files are checked for every file system a release may land on, before any file is touched.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from proper_model.bundle.limits import Limits
from proper_model.bundle.safe_tensors import MAX_DIMENSIONS, MAX_NAME_LENGTH, TENSOR_NAME
from proper_model.bundle.signatures import CHANNEL_PATTERN, check_origin
from proper_model.bundle.signed_time import Time, parse_time
from proper_model.errors import BundleFormatError, BundleLimitError
from proper_model.storage import canonical

FORMAT = 1
MANIFEST_NAME = "manifest.json"
SIGNATURES_NAME = "signatures.json"
# No pickle, no archive, no code: each of these is parsed by a reader that cannot execute anything.
EXTENSIONS = (".safetensors", ".json", ".toml", ".txt", ".model", ".jinja")

_SEGMENT = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_])?")
_MAX_SEGMENTS = 6
_PRINTABLE = re.compile(r"[A-Za-z0-9_./-]{1,120}")
_HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def check_file_name(name: str) -> str:
    """The name itself if it is a safe relative path with an allowed extension.

    Raises ValueError saying which rule it breaks, without repeating the name.
    """
    segments = name.split("/")
    if len(segments) > _MAX_SEGMENTS:
        raise ValueError(f"file name: {len(segments)} path segments, expected ≤ {_MAX_SEGMENTS}")
    for segment in segments:
        if _SEGMENT.fullmatch(segment) is None or ".." in segment:
            raise ValueError(
                "file name: a path segment is empty, too long, or has other characters"
            )
        if _WINDOWS_DEVICES.fullmatch(segment.lower()) is not None:
            raise ValueError("file name: a path segment is a reserved device name")
    if not name.endswith(EXTENSIONS):
        raise ValueError(f"file name: extension must be one of {' '.join(EXTENSIONS)}")
    if name.lower() in {MANIFEST_NAME, SIGNATURES_NAME}:
        raise ValueError("file name: reserved for the bundle itself")
    return name


def check_file_names(names: Iterable[str]) -> None:
    """All names are safe, and stay different on a file system that ignores case.

    Raises ValueError: a name is unsafe, two names collide, or one is both file and folder.
    """
    spelling: dict[str, tuple[str, bool]] = {}  # lower-case path -> (its one spelling, is a file)
    for name in names:
        segments = check_file_name(name).split("/")
        for depth in range(1, len(segments) + 1):
            path, is_file = "/".join(segments[:depth]), depth == len(segments)
            known = spelling.setdefault(path.lower(), (path, is_file))
            if known != (path, is_file):
                raise ValueError(
                    "file names: two collide where case is ignored or as file and folder"
                )


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) > MAX_DIMENSIONS or any(n < 0 for n in shape):
        raise ValueError(f"shape: at most {MAX_DIMENSIONS} non-negative integers")
    return shape


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Natural = Annotated[int, Field(ge=0, le=canonical.MAX_INTEGER)]
Dtype = Literal["BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TensorEntry(_Strict):
    """One line of a tensor table."""

    dtype: Dtype
    shape: Annotated[tuple[Natural, ...], AfterValidator(_shape)]


class FileEntry(_Strict):
    """Exact length and hash of one file; tensor table for safetensors files, null for others."""

    size: Natural
    sha256: Sha256
    tensors: dict[str, TensorEntry] | None


class EmbeddedBase(_Strict):
    """The base model's files are in the bundle, under base/."""

    kind: Literal["embedded"]


class HubBase(_Strict):
    """The base model is fetched elsewhere; these hashes say which bytes it must have."""

    kind: Literal["hub"]
    hub_id: Annotated[str, Field(pattern=rf"^{_HUB_PART}(/{_HUB_PART})?\z")]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}\z")]
    files: Annotated[dict[str, Sha256], Field(min_length=1, max_length=256)]


@dataclass(frozen=True)
class BaseReference:
    """A base model that is not in the bundle: hub id, revision, and sha256 of each file used."""

    hub_id: str
    revision: str
    files: Mapping[str, str]


class Manifest(_Strict):
    """Contents of manifest.json."""

    product: Literal["proper"]
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]  # Literal[1] would also take `true`
    channel: Annotated[str, Field(pattern=rf"^{CHANNEL_PATTERN.pattern}\z")]
    version: Annotated[int, Field(ge=1, le=canonical.MAX_INTEGER)]
    created: Time
    expires: Time
    base: Annotated[EmbeddedBase | HubBase, Field(discriminator="kind")]
    files: Annotated[dict[str, FileEntry], Field(min_length=1)]

    @property
    def created_at(self) -> datetime:
        return parse_time(self.created)

    @property
    def expires_at(self) -> datetime:
        return parse_time(self.expires)

    @property
    def base_reference(self) -> BaseReference | None:
        """Where the base comes from; None when it is embedded."""
        if isinstance(self.base, EmbeddedBase):
            return None
        return BaseReference(self.base.hub_id, self.base.revision, self.base.files)

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Of the tensors in every file, by file name and tensor name."""
        return {
            name: {tensor: found.shape for tensor, found in (entry.tensors or {}).items()}
            for name, entry in self.files.items()
        }

    def to_bytes(self) -> bytes:
        return canonical.encode(self.model_dump(mode="json"))


def content_id(manifest_bytes: bytes) -> str:
    """Identity of a bundle: sha256 of its manifest bytes, as 64 hex digits."""
    return hashlib.sha256(manifest_bytes).hexdigest()


def parse_manifest(data: bytes, limits: Limits) -> Manifest:
    """Manifest of bytes whose signature has been checked.

    Raises BundleForeignError: another product or format version; BundleFormatError: not canonical,
    or a field is missing, unknown or malformed; BundleLimitError: it declares more files, bytes,
    tensors or elements than `limits`.
    """
    value = canonical.decode(data, where=MANIFEST_NAME)
    check_origin(value, "format", (FORMAT,), MANIFEST_NAME)
    manifest = build_manifest(value)
    check_limits(manifest, limits)
    return manifest


def build_manifest(value: Any) -> Manifest:
    """Typed manifest of a plain value.

    Raises BundleFormatError naming the first field at fault, not its content.
    """
    try:
        # From JSON text, where an array is a tuple; from Python values strict mode would refuse it.
        manifest = Manifest.model_validate_json(canonical.encode(value))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        parts = [str(part) for part in first["loc"][:2]]
        # A key is the sender's text: it may be long, or hold control characters for a terminal.
        place = ".".join(p if _PRINTABLE.fullmatch(p) else "(a name)" for p in parts)
        raise BundleFormatError(
            f"{MANIFEST_NAME}: {place or 'top level'}: {first['msg']}"
        ) from None
    _check_consistent(manifest)
    return manifest


def check_limits(manifest: Manifest, limits: Limits) -> None:
    """Refuse what declares itself too large, before any file is fetched or hashed.

    Raises BundleLimitError naming the quantity.
    """
    entries = manifest.files.values()
    shapes = [t.shape for entry in entries if entry.tensors for t in entry.tensors.values()]
    for what, found, allowed in (
        ("files", len(manifest.files), limits.files),
        ("bytes in its largest file", max(e.size for e in entries), limits.file_bytes),
        ("bytes in all files", sum(e.size for e in entries), limits.total_bytes),
        ("tensors", len(shapes), limits.tensors),
        ("tensor elements", sum(map(math.prod, shapes)), limits.elements),
    ):
        if found > allowed:
            raise BundleLimitError(f"{MANIFEST_NAME}: {found} {what}, expected at most {allowed}")


def _check_consistent(manifest: Manifest) -> None:
    """Rules that span fields."""
    try:
        check_file_names(manifest.files)
        if isinstance(manifest.base, HubBase):
            check_file_names(manifest.base.files)
    except ValueError as error:
        raise BundleFormatError(f"{MANIFEST_NAME}: {error}") from None
    if manifest.expires_at <= manifest.created_at:
        raise BundleFormatError(f"{MANIFEST_NAME}: expires is not after created")
    for name, entry in manifest.files.items():
        if (entry.tensors is not None) != name.endswith(".safetensors"):
            raise BundleFormatError(
                f"{MANIFEST_NAME}: {name}: safetensors files have a tensor table, others null"
            )
        for tensor in entry.tensors or ():
            if len(tensor) > MAX_NAME_LENGTH or TENSOR_NAME.fullmatch(tensor) is None:
                raise BundleFormatError(f"{MANIFEST_NAME}: {name}: a tensor name is malformed")
