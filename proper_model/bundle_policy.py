"""What may be in a release at all: shared tensors, never one person's.

An embedding row is published personal data (SECURITY 0.5). So tensor names come from an allow-list,
and a vector that averages people must state over how many, at least `MIN_MEMBERS`. The publisher
checks before signing, the device after verifying: a mistake on one side is caught by the other.
It cannot tell an honest count from an invented one; that trust lies in the signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proper_model.errors import BundleFormatError
from proper_model.manifest import HubBase, Manifest
from proper_model.safe_tensors import TensorSpec, read_int64

MIN_MEMBERS = 10
BASE_FOLDER = "base/"
POPULATION_FOLDER = "adapters/population/"

_SITE = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
_SHARED_TENSORS = re.compile(
    r"prototypes|prototype_counts|mean_embedding|mean_embedding_count"
    rf"|experts\.{_SITE}\.(A|B)"
    rf"|routers\.{_SITE}\.(text|user|lora)"
    r"|routers\.tied\.user"
)
_POPULATION_TENSORS = re.compile(rf"base_model\.model\.{_SITE}\.lora_[AB]\.weight")
# In a base model `embeddings` is an ordinary word; anywhere else it would be a table of people.
_PERSONAL = re.compile(r"user_?embedding", re.IGNORECASE)
_PERSONAL_OUTSIDE_BASE = re.compile(r"user_?embedding|embeddings", re.IGNORECASE)

# Averages over people, with the tensor that holds the number of people behind each row.
_COUNTED = {"prototypes": "prototype_counts", "mean_embedding": "mean_embedding_count"}


def check_declared(manifest: Manifest) -> None:
    """Everything that can be refused from the manifest alone, before a file is fetched.

    Raises:
        BundleFormatError: a tensor is not on the allow-list, an average lacks its counts, or the
            files do not fit the way the base model is delivered.
    """
    for name, entry in manifest.files.items():
        if entry.tensors is None:
            continue
        for tensor in entry.tensors:
            _check_tensor_name(name, tensor)
        if not name.startswith((BASE_FOLDER, POPULATION_FOLDER)):
            shapes = {t: (e.dtype, e.shape) for t, e in entry.tensors.items()}
            _check_counted(name, shapes)
    weights = [name for name in manifest.files if name.endswith(".safetensors")]
    has_base = any(name.startswith(BASE_FOLDER) for name in weights)
    has_population = any(name.startswith(POPULATION_FOLDER) for name in weights)
    if isinstance(manifest.base, HubBase):
        if has_base:
            raise BundleFormatError(
                f"bundle: refers to a hub base, yet holds {BASE_FOLDER} weights"
            )
        if not has_population:
            raise BundleFormatError(
                f"bundle: refers to a hub base, expected the population LoRA in {POPULATION_FOLDER}"
            )
    elif not has_base:
        raise BundleFormatError(f"bundle: embeds its base, but holds no {BASE_FOLDER} weights")


def check_members(name: str, data: bytes, table: Mapping[str, TensorSpec]) -> None:
    """Every average in this verified file is over at least `MIN_MEMBERS` people.

    A count of zero means that the row averages nobody; then it must be all zeros.

    Raises:
        BundleFormatError: a count is too small.
    """
    if name.startswith((BASE_FOLDER, POPULATION_FOLDER)):
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


def _check_tensor_name(name: str, tensor: str) -> None:
    in_base = name.startswith(BASE_FOLDER)
    if (_PERSONAL if in_base else _PERSONAL_OUTSIDE_BASE).search(tensor) is not None:
        raise BundleFormatError(
            f"{name}: tensor {tensor} looks like a table of user embeddings",
            hint="release prototypes only; embeddings of people stay where they were made",
        )
    if in_base:
        return
    in_population = name.startswith(POPULATION_FOLDER)
    allowed = _POPULATION_TENSORS if in_population else _SHARED_TENSORS
    if allowed.fullmatch(tensor) is None:
        raise BundleFormatError(f"{name}: tensor {tensor} is not on the list of shared tensors")


def _check_counted(name: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Averages and counts come together, with one count a row.

    prototypes [K, tables, d_u] with prototype_counts [K]; mean_embedding [tables, d_u] with
    mean_embedding_count [] or [1].
    """
    for vectors, counts in _COUNTED.items():
        if (vectors in tensors) != (counts in tensors):
            raise BundleFormatError(f"{name}: {vectors} and {counts} must come together")
        if vectors not in tensors:
            continue
        dtype, count_shape = tensors[counts]
        shape = tensors[vectors][1]
        if vectors == "prototypes":
            fits = len(shape) == 3 and count_shape == shape[:1]
        else:
            fits = len(shape) == 2 and count_shape in {(), (1,)}
        if dtype != "I64" or not fits:
            raise BundleFormatError(f"{name}: {counts} must be I64 with one count for each average")
