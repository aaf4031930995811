"""Who is in the scanned runs: synthetic people with canaries, and which of what they learned are some too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.person.state import PersonalState
from proper_model.tasks import User
from simulations.privacy.egress.canaries import Canary, draw, plant
from simulations.privacy.egress.scanner import Scanner
from simulations.synthetic.people import SyntheticPopulation, make_synthetic

KIND = "synth_text"  # its answers are free text, so that they can hold canaries
OF_PEOPLE = ("user id", "item id", "item text", "question", "answer")
OF_PERSON = (*OF_PEOPLE, "exception", "selector")
PERSON = "person"


@dataclass(frozen=True)
class Cast:
    """Synthetic people with canaries: `pooled` and `test` take part in a federation, `alone` does not."""

    population: SyntheticPopulation
    pooled: tuple[User, ...]
    test: tuple[User, ...]
    alone: User
    canaries: tuple[Canary, ...]


def make_cast(seed: int, rng: np.random.Generator | None = None) -> Cast:
    """People from a seed, canaries from `rng` or the system's entropy."""
    population = make_synthetic(KIND, preset="smoke", seed=seed)
    canaries: list[Canary] = []

    def marked(kind: str, users: Sequence[User], names: Sequence[str]) -> tuple[User, ...]:
        planted = []
        for number, user in enumerate(users):
            own = draw(kind if kind == PERSON else f"{kind} {number}", names, rng)
            canaries.extend(own.values())
            planted.append(plant(user, own))
        return tuple(planted)

    people = population.population
    return Cast(
        population,
        marked("pooled", people.pooled, OF_PEOPLE),
        marked("test", people.test[:-1], OF_PEOPLE),
        marked(PERSON, people.test[-1:], OF_PERSON)[0],
        tuple(canaries),
    )


def arrays(state: PersonalState) -> dict[str, NDArray[Any]]:
    """What a state learned, by name."""
    return {name: tensor.numpy() for name, tensor in state.private(KIND).items()}


def learned(canaries: Iterable[Canary], release: Path) -> tuple[Canary, ...]:
    """Those numbers that do not stand in the release, which was signed before anybody learned.

    An embedding that training left where it began is a row of the release, hence public.
    """
    given = tuple(canaries)
    public = {(f.owner, f.canary) for f in Scanner(given).scan_tree(release).findings}
    # Of several people who stayed at the same row, the scanner names one.
    rows = {c.numbers for c in given if (c.owner, c.name) in public}
    return tuple(c for c in given if c.numbers not in rows)
