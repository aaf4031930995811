"""What one seed found of deletion, as it is kept: attacks, how far exact retraining is away, what remains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from simulations.privacy.statistics.measures import Scored
from simulations.privacy.statistics.shares import Control

Scope = Literal["before", "after", "both"]
Level = Literal["person", "record"]


@dataclass(frozen=True)
class Attempt:
    """One attack of one seed. `scope` says which state it has: before deletion, after it, or both.

    Members are whoever withdrew, or the items that were forgotten.
    """

    scope: Scope
    thing: str
    attack: str
    level: Level
    control: Control
    scored: Scored

    @property
    def name(self) -> str:
        """What tells it from the other attacks of a file."""
        return f"{self.scope}/{self.thing}/{self.attack}/{self.control}"


@dataclass(frozen=True)
class Retrained:
    """How a thing after deletion differs from one that never had the data.

    Attributes:
        thing: release or adapter.
        compared: how many of them.
        different: how many have a tensor that differs in any bit.
        distance: the largest difference of two numbers.
        change: the same between before and after deletion, so that it is seen that something changed.
    """

    thing: str
    compared: int
    different: int
    distance: float
    change: float


@dataclass(frozen=True)
class Remaining:
    """How often marks of whoever was deleted stand in a place, before and after.

    Attributes:
        run: pooled or device.
        place: which folder or file.
        what: ids, texts or trained numbers.
        unread: files or streams that could not be looked through to their end.
    """

    run: str
    place: str
    what: str
    before: int
    after: int
    unread: int


Row = Attempt | Retrained | Remaining


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[bool, float]:
    """Whether two states differ in any bit, name or shape, and the largest difference of two numbers.

    Numbers are compared of what both have in the same shape: fewer people have fewer prototypes.
    """
    pairs = [(one[name].cpu(), other[name].cpu()) for name in one if name in other]
    same = one.keys() == other.keys() and all(torch.equal(a, b) for a, b in pairs)
    alike = [(a, b) for a, b in pairs if a.shape == b.shape and a.numel()]
    gaps = [float((a.double() - b.double()).abs().max()) for a, b in alike]
    return not same, max(gaps, default=0.0)


def content_of(row: Row) -> dict[str, Any]:
    """A row in JSON's types; the inverse of `row_of`."""
    if isinstance(row, Attempt):
        scored = {name: getattr(row.scored, name).tolist() for name in ("score", "member", "owner")}
        own = {n: getattr(row, n) for n in ("scope", "thing", "attack", "level", "control")}
        return {"kind": "attempt", **own, **scored}
    return {"kind": "retrained" if isinstance(row, Retrained) else "remaining", **asdict(row)}


def row_of(content: Mapping[str, Any]) -> Row:
    """Raises KeyError, TypeError, ValueError or MetricError for what is no row."""
    fields = dict(content)
    kind = fields.pop("kind")
    if kind == "retrained":
        return Retrained(**fields)
    if kind == "remaining":
        return Remaining(**fields)
    scored = Scored(
        np.array(fields.pop("score"), dtype=np.float64),
        np.array(fields.pop("member"), dtype=np.bool_),
        np.array(fields.pop("owner"), dtype=np.int64),
    )
    return Attempt(**fields, scored=scored)
