"""Seeds that are finished: what each found person by person, in OUT/seeds, never made twice.

A file says what it was made with, and another configuration is refused rather than mixed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from proper_model.errors import CheckpointError, MetricError
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from simulations.privacy.statistics.shares import Tried

SEEDS = "seeds"
MAX_BYTES = 1 << 30
Row = TypeVar("Row")


def digest_of(*made: Any) -> str:
    """sha256 over all that a seed's result depends on but the seed."""
    return hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()


def kept_seed(
    folder: Path, seed: int, digest: str, make: Callable[[], Sequence[Tried]]
) -> list[Tried]:
    """What a seed found person by person; see `kept_rows`."""
    return kept_rows(folder, seed, digest, make, write=_row, read=_tried)


def kept_rows(
    folder: Path,
    seed: int,
    digest: str,
    make: Callable[[], Sequence[Row]],
    *,
    write: Callable[[Row], Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], Row],
) -> list[Row]:
    """What a seed found, read if it is there, else made and written whole.

    Args:
        write: a row in JSON's types; `read` is its inverse, and raises KeyError, TypeError, ValueError or
            MetricError for what is no row.

    Raises CheckpointError for a damaged file, or one of another configuration.
    """
    path = folder / SEEDS / f"{seed}.json"
    stored = _read(path, digest, read)
    if stored is not None:
        return stored
    found = list(make())
    make_private_folder(path.parent)
    content = {"digest": digest, "attacks": [write(one) for one in found]}
    write_atomic(path, json.dumps(content).encode())
    return found


def _row(one: Tried) -> dict[str, Any]:
    return {
        "scope": one.scope,
        "thing": one.thing,
        "attack": one.attack,
        "control": one.control,
        "chance": one.chance,
        "hit": one.hit.tolist(),
        "owner": one.owner.tolist(),
        "rank": None if one.rank is None else one.rank.tolist(),
        "ranked": one.ranked,
    }


def _read(path: Path, digest: str, read: Callable[[Mapping[str, Any]], Row]) -> list[Row] | None:
    try:
        stored: Mapping[str, Any] = parse_object(read_regular(path, limit_bytes=MAX_BYTES))
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise _unusable(path, "is damaged") from error
    if stored.get("digest") != digest:
        raise _unusable(path, "was made with other people, options or settings")
    try:
        return [read(row) for row in stored["attacks"]]
    except (KeyError, TypeError, ValueError, MetricError):
        raise _unusable(path, "is damaged") from None


def _tried(row: Mapping[str, Any]) -> Tried:
    rank = row["rank"]
    arrays = {
        "hit": np.array(row["hit"], dtype=np.float64),
        "owner": np.array(row["owner"], dtype=np.int64),
        "rank": None if rank is None else np.array(rank, dtype=np.float64),
    }
    return Tried(**{**row, **arrays})


def _unusable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} {why}", hint="take another --out, or delete that file")
