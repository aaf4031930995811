"""What may be in a release: files that a device reads, shared tensors, nothing of a single person.

An embedding row is published personal data (docs/security.md 0.5). So tensor names come from an
allow-list, and a vector that averages people must state over how many, at least `MIN_MEMBERS`. The
publisher checks before signing, the device after verifying: a mistake on one side is caught by the
other. It cannot tell an honest count from an invented one; for that the signature has to be
trusted. First the manifest is judged, then every file. Source: docs/bundle-format.md section 4,
steps 10 to 14.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from proper_model.bundle.file_names import (
    BASE,
    POPULATION,
    is_base_file,
    is_release_file,
    weight_names,
)
from proper_model.bundle.limits import DEFAULT_LIMITS, Limits
from proper_model.bundle.manifest import HubBase, Manifest, TensorEntry
from proper_model.bundle.safe_tensors import (
    LARGEST_EXPONENT,
    TensorSpec,
    check_finite,
    check_positive,
    read_int64,
    read_table,
)
from proper_model.errors import BundleFormatError, BundleIntegrityError

MIN_MEMBERS = 10
# What is computed with. Wider or whole numbers would be converted, or fail, only when they are used.
FLOATS = frozenset({"F32", "BF16", "F16"})
TRAINED_EXPONENT = 10
# Directions in which the gradients of items vary little have coordinates this large.
INFERRED_EXPONENT = 40
POSITIVE = "inferred.items"
_INFERRED = re.compile(r"inferred\.(project|weight)")

_SITE = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
_SHARED_TENSORS = re.compile(
    r"prototypes|prototype_counts|mean_embedding|mean_embedding_count"
    r"|inferred\.(center|center_count|project|items|weight)"
    rf"|experts\.{_SITE}\.(A|B)"
    rf"|starts\.(stage3|oppu-mlp)\.({_SITE}\.(A|B|W)|count)"
    rf"|routers\.{_SITE}\.(text|user|lora)"
    r"|routers\.tied\.user"
)
_POPULATION_TENSORS = re.compile(rf"base_model\.model\.{_SITE}\.lora_[AB]\.weight")
# In a base model `embeddings` is an ordinary word; anywhere else it would be a table of people.
_PERSONAL = re.compile(r"user_?embedding", re.IGNORECASE)
_PERSONAL_OUTSIDE_BASE = re.compile(r"user_?embedding|embeddings", re.IGNORECASE)

# Averages over people, with the tensor that holds the number of people behind each row.
_COUNTED = {
    "prototypes": "prototype_counts",
    "mean_embedding": "mean_embedding_count",
    "inferred.center": "inferred.center_count",
}
_DIMENSIONS = {"prototypes": 3, "mean_embedding": 2, "inferred.center": 1}
# A common start of private LoRAs is one average, of many tensors; its count is one number.
_START = re.compile(r"(starts\.(?:stage3|oppu-mlp))\..+")


def check_declared(manifest: Manifest) -> None:
    """Everything that can be refused from the manifest alone, before a file is fetched.

    Raises BundleFormatError: a file or tensor is not on the allow-list, an average lacks its
    counts, or the files do not fit the way the base model is delivered.
    """
    _check_file_names(manifest)
    for name, entry in manifest.files.items():
        if entry.tensors is None:
            continue
        for tensor, described in entry.tensors.items():
            _check_tensor_name(name, tensor)
            _check_dtype(name, tensor, described.dtype)
        if not name.startswith((BASE, POPULATION)):
            _check_counted(name, entry.tensors)
    weights = [name for name in manifest.files if name.endswith(".safetensors")]
    has_base = any(name.startswith(BASE) for name in weights)
    has_population = any(name.startswith(POPULATION) for name in weights)
    if isinstance(manifest.base, HubBase):
        if has_base:
            raise BundleFormatError(f"bundle: refers to a hub base, yet holds {BASE} weights")
        if not has_population:
            raise BundleFormatError(
                f"bundle: refers to a hub base, expected the population LoRA in {POPULATION}"
            )
    elif not has_base:
        raise BundleFormatError(f"bundle: embeds its base, but holds no {BASE} weights")


def _check_file_names(manifest: Manifest) -> None:
    """Only names that are read, whole sets of weights; foreign names are not repeated."""
    unknown = sum(not is_release_file(name) for name in manifest.files)
    if unknown:
        raise BundleFormatError(
            f"bundle: lists {unknown} files that no release holds",
            hint="the names are in docs/bundle-format.md, section 6.1",
        )
    own = [n.removeprefix(BASE) for n in manifest.files if n.startswith(BASE)]
    named = manifest.base.files if isinstance(manifest.base, HubBase) else own
    if not all(map(is_base_file, named)):
        raise BundleFormatError("bundle: its base names a file that no loader of it reads")
    try:
        weight_names(named)
    except ValueError as error:
        raise BundleFormatError(f"bundle: its base {error}") from None


def _check_dtype(name: str, tensor: str, dtype: str) -> None:
    """Averages' counts are I64, as `_check_counted` says; everything else is of `FLOATS`."""
    counts = tensor in _COUNTED.values() or _is_start_count(tensor)
    if counts and not name.startswith((BASE, POPULATION)):
        return
    if dtype not in FLOATS:
        raise BundleFormatError(
            f"{name}: tensor {tensor} is {dtype}, expected one of {', '.join(sorted(FLOATS))}"
        )


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
        try:
            if not name.endswith(".model"):
                data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleFormatError(f"{name}: not UTF-8 at byte {error.start}") from None
        return
    table = read_table(data, limits, where=name)
    if {t: (s.dtype, s.shape) for t, s in table.items()} != {
        t: (e.dtype, e.shape) for t, e in tensors.items()
    }:
        raise BundleIntegrityError(f"{name}: tensor table differs from the manifest")
    check_numbers(name, data, table)
    check_members(name, data, table)


def check_numbers(name: str, data: bytes, table: Mapping[str, TensorSpec]) -> None:
    """Every number in this verified file is finite and of a size that training leaves.

    What PROPER trains stays near its start, so experts, routers and averages are below 2^10, and below
    2^40 what turns the small gradients of items into embeddings. A number of items divides.

    Raises BundleFormatError naming the tensor.
    """
    if name.startswith(BASE):
        check_finite(data, table, where=name, largest_exponent=LARGEST_EXPONENT)
        return
    inferred = {tensor: spec for tensor, spec in table.items() if _INFERRED.fullmatch(tensor)}
    trained = {tensor: spec for tensor, spec in table.items() if tensor not in inferred}
    check_finite(data, trained, where=name, largest_exponent=TRAINED_EXPONENT)
    check_finite(data, inferred, where=name, largest_exponent=INFERRED_EXPONENT)
    if POSITIVE in table:
        check_positive(data, table[POSITIVE], where=name, name=POSITIVE)


def check_members(name: str, data: bytes, table: Mapping[str, TensorSpec]) -> None:
    """Every average in this verified file is over at least `MIN_MEMBERS` people.

    A count of zero means that the row averages no user; then it must be all zeros.

    Raises BundleFormatError: a count is too small.
    """
    if name.startswith((BASE, POPULATION)):
        return
    for vectors, counts in _COUNTED.items():
        if counts not in table:
            continue
        numbers = read_int64(data, table[counts])
        spec = table[vectors]
        row_bytes = (spec.end - spec.begin) // len(numbers) if numbers else 0
        for row, members in enumerate(numbers):
            begin = spec.begin + row * row_bytes
            if members == 0 and not any(data[begin : begin + row_bytes]):
                continue
            if members < MIN_MEMBERS:
                raise BundleFormatError(
                    f"{name}: {vectors} row {row} averages {members} users, "
                    f"expected at least {MIN_MEMBERS}",
                    hint="leave it out, or build the release from more users",
                )
    for tensor in filter(_is_start_count, table):
        (members,) = read_int64(data, table[tensor])
        if members < MIN_MEMBERS:
            raise BundleFormatError(
                f"{name}: {tensor} says that it averages {members} users, expected at least "
                f"{MIN_MEMBERS}",
                hint="leave the common start out, or build the release from more users",
            )


def _is_start_count(tensor: str) -> bool:
    return _START.fullmatch(tensor) is not None and tensor.endswith(".count")


def _check_tensor_name(name: str, tensor: str) -> None:
    in_base = name.startswith(BASE)
    if (_PERSONAL if in_base else _PERSONAL_OUTSIDE_BASE).search(tensor) is not None:
        raise BundleFormatError(
            f"{name}: tensor {tensor} looks like a table of user embeddings",
            hint="release prototypes only; embeddings of people stay where they were made",
        )
    if in_base:
        return
    in_population = name.startswith(POPULATION)
    allowed = _POPULATION_TENSORS if in_population else _SHARED_TENSORS
    if allowed.fullmatch(tensor) is None:
        raise BundleFormatError(f"{name}: tensor {tensor} is not on the list of shared tensors")


def _check_counted(name: str, tensors: Mapping[str, TensorEntry]) -> None:
    """Averages and counts come together, with one count a row.

    prototypes [K, tables, d_u] with prototype_counts [K]; mean_embedding [tables, d_u] with
    mean_embedding_count [] or [1]; inferred.center [F] with inferred.center_count [] or [1];
    starts.ARM.* with starts.ARM.count [1].
    """
    for vectors, counts in _COUNTED.items():
        if (vectors in tensors) != (counts in tensors):
            raise BundleFormatError(f"{name}: {vectors} and {counts} must come together")
        if vectors not in tensors:
            continue
        shape, counted = tensors[vectors].shape, tensors[counts]
        counts_fit = (
            counted.shape == shape[:1] if vectors == "prototypes" else counted.shape in {(), (1,)}
        )
        fits = len(shape) == _DIMENSIONS[vectors] and counts_fit
        if counted.dtype != "I64" or not fits:
            raise BundleFormatError(f"{name}: {counts} must be I64 with one count for each average")
    for start in {found[1] for tensor in tensors if (found := _START.fullmatch(tensor))}:
        count = tensors.get(f"{start}.count")
        if count is None or count.dtype != "I64" or count.shape != (1,):
            raise BundleFormatError(f"{name}: {start}.count must be I64 with one count")
