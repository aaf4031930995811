"""Linkage over several seeds: every seed attacked once and kept, then summed up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.progress import Progress
from simulations.privacy.linkage.attacks import Attacker
from simulations.privacy.linkage.planned import PlantedPlan, result_of
from simulations.privacy.linkage.releases import Lab
from simulations.privacy.linkage.sentences import sentences
from simulations.privacy.results.rates import RateResult
from simulations.privacy.statistics.shares import Tried

NOTES = (
    "who is pooled, who is attacked and which half of a person's items trains which copy is drawn by seed; "
    "the halves have no item in common",
    "group: a linear classifier, trained on four fifths of the people and asked about the others; its "
    "positive control reads the texts, its negative one has groups exchanged between people, or "
    "adapters that nobody trained",
    "the others: the most similar person by cosine, as the numbers are (guessing: 1 of all people) or after "
    "a linear map that is learned from half of the people, who are known in both (guessing: 1 of the "
    "other half); the negative control has people exchanged",
    "the two tasks of a person share the planted group and nothing else, so knowing the group is the "
    "positive control and about the most that can be found",
    "intervals draw people, each with all seeds; p is two-sided against guessing, corrected (Holm) over all "
    "attacks that are no control",
)


@dataclass(frozen=True)
class Plan(PlantedPlan):
    """What is attacked and how: `things` that are held of people, `scopes` what is asked about them."""

    scopes: tuple[str, ...]
    things: tuple[str, ...]

    @property
    def digest(self) -> str:
        """See `PlantedPlan.digest_with`."""
        return self.digest_with("linkage", self.scopes, self.things)


def linkage_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> RateResult:
    """Attack every seed that is not kept in OUT, and sum up all."""

    def attack(lab: Lab) -> list[Tried]:
        found = Attacker(lab, plan.things).run(plan.scopes)
        if all(one.control == "positive" for one in found):
            raise ConfigError(
                f"preset '{plan.structure.name}' has nothing of {', '.join(plan.things)} to ask about"
            )
        return found

    return result_of(
        *(plan, "linkage", plan.digest, attack),
        notes=NOTES,
        sentences=sentences,
        out=out,
        cache=cache,
        progress=progress,
    )
