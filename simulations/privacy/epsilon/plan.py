"""What is trained under which promises, and what a finished outcome depends on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordinator.pooled_privacy import spend
from proper_model.errors import ConfigError
from proper_model.settings import (
    PrivacySettings,
    StageSettings,
    Structure,
    check_private_structure,
    to_mapping,
)
from simulations.privacy.epsilon.people import check_coins
from simulations.privacy.epsilon.trained import UNCLIPPED, Promise
from simulations.privacy.membership.population import Candidates
from simulations.privacy.results.kept import digest_of
from simulations.privacy.results.seeded import base_name

# Raised whenever something else is measured, so that what was kept before is not mixed in.
VERSION = 1
NO_NOISE = "inf"


@dataclass(frozen=True)
class Plan:
    """What is trained and how often.

    Attributes:
        newcomers: how many of the people are judged on.
        promises: in order, the last one `unclipped`.
        delta: of the promises and of both audits.
        canaries: crafted users a seed.
        accountant: which program says what a promise comes to.
    """

    people: Candidates
    newcomers: int
    structure: Structure
    settings: StageSettings
    promises: tuple[Promise, ...]
    delta: float
    seeds: tuple[int, ...]
    canaries: int
    accountant: str

    def __post_init__(self) -> None:
        people = len(self.people.users)
        check_coins(people, self.newcomers, self.seeds, self.settings)
        audited = len(self.seeds) * max(self.canaries, people - self.newcomers)
        if 2 * audited * self.delta > 1:
            raise ConfigError(
                f"delta is {self.delta:g} with {audited} canaries over all seeds: an audit of so many needs "
                "it below half of one over their number",
                hint=f"--delta {1 / (20 * audited):.0e}, or fewer --canaries",
            )

    def digest(self, promise: Promise) -> str:
        """sha256 over all that a seed's outcome under a promise depends on but the seed."""
        return digest_of(
            VERSION,
            *(str(self.people.task), base_name(self.people.base), str(self.structure)),
            to_mapping(self.settings),
            None if promise.privacy is None else to_mapping(promise.privacy),
            *(self.newcomers, self.canaries, self.people.texts),
        )


def plain(settings: StageSettings) -> StageSettings:
    """The settings under which all is trained, with privacy or without: what it forbids is left out of both."""
    return replace(
        settings,
        privacy=None,
        group=replace(settings.group, prototypes=0),
        calibration=replace(settings.calibration, people=0),
    )


def promises_of(
    epsilons: Sequence[float], terms: PrivacySettings, structure: Structure
) -> tuple[tuple[Promise, ...], str]:
    """For every epsilon the noise that keeps it, and beside them training without clipping.

    `terms` is how a step is taken; its own target is not used. Draws and noise follow from the seed, so that
    the curve repeats. They are of the same law as those of the system's, so the promise holds for everything that is measured
    here, though no such release keeps one to whoever knows the seed. And which accountant was asked.

    Raises ConfigError for a structure that privacy cannot cover, or without an accountant.
    """
    check_private_structure(structure)
    found, accountant = [], "none"
    for epsilon in epsilons:
        if math.isinf(epsilon):
            seeded = replace(terms, epsilon=None, noise_multiplier=0.0, reproducible=True)
            found.append(Promise(NO_NOISE, seeded, math.inf))
            continue
        target = replace(terms, epsilon=epsilon, noise_multiplier=None, reproducible=False)
        spent = spend(target, target.steps(structure))
        seeded = replace(target.with_noise(spent.noise_multiplier), reproducible=True)
        found.append(Promise(f"{epsilon:g}", seeded, spent.epsilon))
        accountant = spent.accountant
    return (*found, Promise(UNCLIPPED, None, math.inf)), accountant
