"""How often an attack succeeds on people: means of values in [0, 1] with intervals over owners.

All values of one owner are drawn together in the bootstrap, over all seeds, as in `measures`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Control = Literal["none", "positive", "negative"]

DRAWS = 2000
_TAILS = (0.025, 0.975)
_ROUNDING = 1e-9  # a mean of equal numbers differs from them by less


@dataclass(frozen=True)
class Share:
    """A mean with its 95 % percentile interval over owners; bounds are NaN with a single owner."""

    value: float
    low: float
    high: float
    n_owners: int


@dataclass(frozen=True)
class Tried:
    """One attack of one seed, person by person.

    Attributes:
        scope: what was asked, such as `group` or `other seed`.
        thing: what the attacker has.
        attack: how.
        chance: what guessing reaches in the mean.
        hit: `[n]` in [0, 1], the success with a person; owner: `[n]` who that is.
        rank: `[n]` place of the right answer among all that were compared, 1 the first; None: of no
            meaning here.
        ranked: among how many.
    """

    scope: str
    thing: str
    attack: str
    control: Control
    chance: float
    hit: Floats
    owner: Integers
    rank: Floats | None = None
    ranked: int | None = None

    def __post_init__(self) -> None:
        hit, owner = np.asarray(self.hit, dtype=np.float64), np.asarray(self.owner)
        if hit.ndim != 1 or not len(hit) or hit.shape != owner.shape:
            raise MetricError(f"hits and owners are {hit.shape} and {owner.shape}, expected [n]")
        if not np.isfinite(hit).all() or not 0 <= hit.min() <= hit.max() <= 1:
            raise MetricError("an attack's successes must be numbers from 0 to 1")
        object.__setattr__(self, "hit", hit)
        object.__setattr__(self, "owner", owner.astype(np.int64))

    @property
    def name(self) -> str:
        """What tells it from the other attacks of a file."""
        return f"{self.scope}/{self.thing}/{self.attack}/{self.control}"


def share(
    values: Floats, owner: Integers, *, rng: np.random.Generator, draws: int = DRAWS
) -> Share:
    """Mean of `values` [n]; `owner` [n] says whose each is."""
    owners, row = np.unique(owner, return_inverse=True)
    count = np.bincount(row).astype(np.float64)
    total = np.bincount(row, weights=values)
    low = high = math.nan
    if len(owners) > 1:
        even = np.full(len(owners), 1 / len(owners))
        drawn = rng.multinomial(len(owners), even, size=draws)
        low, high = np.quantile((drawn @ total) / (drawn @ count), _TAILS).tolist()
    return Share(float(np.mean(values)), low, high, len(owners))


def ratio(
    above: Floats,
    below: Floats,
    owner: Integers,
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Share:
    """Sum of `above` [n] over that of `below` [n]; `owner` [n] says whose each pair is.

    NaN where the sum below is not positive; bounds are NaN where that of a draw is not.
    """
    owners, row = np.unique(owner, return_inverse=True)
    sums = np.stack([np.bincount(row, weights=values) for values in (above, below)])
    if sums[1].sum() <= 0:
        return Share(math.nan, math.nan, math.nan, len(owners))
    low = high = math.nan
    if len(owners) > 1:
        even = np.full(len(owners), 1 / len(owners))
        one, other = sums @ rng.multinomial(len(owners), even, size=draws).T
        if (other > 0).all():
            low, high = np.quantile(one / other, _TAILS).tolist()
    return Share(float(sums[0].sum() / sums[1].sum()), low, high, len(owners))


def worst_decile(values: Floats, owner: Integers) -> float:
    """Mean of the tenth of owners (rounded up) with whom an attack succeeds most, over their own means.

    Choosing the worst off raises it above the mean without any leak: compare it with that of a control.
    """
    _, row = np.unique(owner, return_inverse=True)
    means = np.sort(np.bincount(row, weights=values) / np.bincount(row))
    return float(means[-math.ceil(len(means) / 10) :].mean())


def cases(
    values: Floats, owner: Integers, *, rng: np.random.Generator, draws: int = DRAWS
) -> Share:
    """As `share`, of cases that happened (1) or did not (0), or of their probabilities.

    Where none or all happened no draw differs from another; the bound is then the exact one for so many
    owners (Clopper and Pearson 1934), because three of three are no certainty.
    """
    found = share(values, owner, rng=rng, draws=draws)
    edge = _TAILS[0] ** (1 / found.n_owners)
    if values.sum() < 1:  # of probabilities: less than one case
        found = replace(found, high=max(found.high, 1 - edge))
    if (1 - values).sum() < 1:
        found = replace(found, low=min(found.low, edge))
    return found


def rng_of(name: str) -> np.random.Generator:
    """The bootstrap's generator of a row: the same file gives the same intervals, whatever else is in it."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def p_against(value: float, low: float, high: float, null: float, *, draws: int = DRAWS) -> float:
    """Two-sided p of a value against `null`, its 95 % interval taken for a normal one.

    NaN without an interval; never below 1 / draws, since so many draws cannot tell more.
    """
    width = high - low
    if not math.isfinite(width):
        return math.nan
    if width < _ROUNDING:
        return 1.0 if abs(value - null) < _ROUNDING else 1 / draws
    return max(1 / draws, math.erfc(abs(value - null) / (width / 3.92) / math.sqrt(2)))
