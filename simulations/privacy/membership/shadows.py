"""Models that an attacker trains to compare with: what a model says of a record that it has, or has not, seen.

Shadow releases are trained on halves of the same candidates, drawn in pairs: whoever is out of one is in
the other. Pooled people whom the target held back are in none. Only stages 1 and 2 are trained, and a
finished one is found again in the cache of phases. Shadow adapters are trained on halves of a newcomer's
known items, in pairs too, those of all newcomers in shared passes. No draw knows the target's.

Letters: S shadows, n records, m records that are nobody's members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from proper_model.release.contents import Release
from proper_model.settings import Structure, UserRouting
from simulations.privacy.membership.attacked import Attacked, Row, State
from simulations.privacy.membership.found import Flags, Floats, Integers, log_p
from simulations.privacy.membership.reference import References
from simulations.privacy.membership.targets import train_adapters, train_release

SEED_STEP = 1000  # seeds of a target's shadows are no target's


def paired_halves(of: int, shadows: int, seed: int) -> list[tuple[bool, ...]]:
    """Which of so many are in each shadow: random halves and their complements by turns."""
    rng = np.random.default_rng([seed, of, SEED_STEP])
    drawn: list[tuple[bool, ...]] = []
    while len(drawn) < shadows:
        first = set(rng.permutation(of)[: of // 2].tolist())
        drawn.append(tuple(place in first for place in range(of)))
        drawn.append(tuple(place not in first for place in range(of)))
    return drawn[:shadows]


def shadow_releases(
    attacked: Attacked, *, groups: bool
) -> Iterator[tuple[Release, tuple[bool, ...]]]:
    """Releases as the target's, and who of the candidates trained each; `groups`: with stage 2."""
    settings = attacked.settings
    # Nothing here asks what calibration releases, and it takes long.
    settings = replace(settings, calibration=replace(settings.calibration, people=0))
    structure = _first_stages(attacked.structure, groups=groups)
    sides = attacked.sides
    draws = paired_halves(len(sides), attacked.shadows, attacked.seed)
    for number, half in enumerate(draws):
        attacked.progress("shadow releases", number, len(draws))
        inside = {place for place, chosen in zip(sides, half, strict=True) if chosen}
        pooled = tuple(place in inside for place in range(len(attacked.draw.pooled)))
        target = train_release(
            attacked.candidates,
            replace(attacked.draw, pooled=pooled),
            structure,
            settings,
            seed=(attacked.seed + 1) * SEED_STEP + number,
            cache=attacked.cache,
            progress=attacked.progress,
        )
        yield target.release, target.trained


def _first_stages(structure: Structure, *, groups: bool) -> Structure:
    """The structure as far as stages 1 and 2 know it."""
    if not groups:
        return structure.without_groups()
    return replace(structure, user_routing=UserRouting.USER_AWARE, private_lora_router=False)


def release_references(
    attacked: Attacked, things: Sequence[str], lists: Sequence[tuple[Sequence[Row], Integers]]
) -> dict[str, list[References]]:
    """By thing, what shadow releases say of each list of rows.

    Args:
        lists: rows, and whose records the first of them are; the further ones are of people whom no
            shadow trains on.
    """
    said: dict[str, list[list[Floats]]] = {thing: [[] for _ in lists] for thing in things}
    inside: list[list[Flags]] = [[] for _ in lists]
    for release, trained in shadow_releases(attacked, groups="experts" in things):
        passes = attacked.passes(release)
        for number, (rows, owner) in enumerate(lists):
            inside[number].append(np.array([trained[who] for who in owner], dtype=np.bool_))
            for thing in things:
                said[thing][number].append(log_p(attacked.views(rows, passes[thing], release)))
    return {
        thing: [
            References(np.stack(rows), np.stack(flags))
            for rows, flags in zip(of_lists, inside, strict=True)
        ]
        for thing, of_lists in said.items()
    }


@dataclass(frozen=True)
class ShadowAdapters:
    """Adapters of every newcomer on halves of the known items.

    Attributes:
        states: of person p's shadow s at p * S + s.
        inside: by person and shadow, which of the person's known items trained it.
        count: S.
    """

    states: tuple[State, ...]
    inside: tuple[tuple[tuple[bool, ...], ...], ...]
    count: int

    def log_p(self, attacked: Attacked, states: Sequence[State], rows: Sequence[Row]) -> Floats:
        """What the shadows of each row's person say of it: [S, rows]. `states` stand for their own."""
        asked = [
            (person * self.count + number, record)
            for number in range(self.count)
            for person, record in rows
        ]
        return log_p(attacked.personal_views(states, asked)).reshape(self.count, len(rows))

    @property
    def flags(self) -> Flags:
        """Which shadow had which record, [S, n], people's known items one after another."""
        rows = [[flag for own in self.inside for flag in own[s]] for s in range(self.count)]
        return np.array(rows, dtype=np.bool_)


def shadow_adapters(attacked: Attacked, people: Sequence[int]) -> ShadowAdapters:
    """Adapters as devices train them, all in shared passes."""
    sets, inside = [], []
    for who in people:
        items = attacked.known.encoded_of(who)
        seed = attacked.seed * len(attacked.candidates.users) + who
        halves = paired_halves(len(items), attacked.shadows, seed)
        inside.append(tuple(halves))
        for number, half in enumerate(halves):
            name = f"{attacked.candidates.users[who].user_id}/shadow {number}"
            sets.append((name, [item for item, chosen in zip(items, half, strict=True) if chosen]))
    states = train_adapters(attacked.learner, sets, seed=attacked.seed).states
    return ShadowAdapters(states, tuple(inside), attacked.shadows)
