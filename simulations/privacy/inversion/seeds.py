"""Inversion over several seeds: every seed attacked once and kept, then summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.progress import Progress
from proper_model.settings import Structure
from simulations.privacy.inversion.attacks import Attacker
from simulations.privacy.inversion.sentences import sentences
from simulations.privacy.linkage.planned import PlantedPlan, result_of
from simulations.privacy.linkage.releases import Lab
from simulations.privacy.results.rates import RateResult
from simulations.privacy.statistics.inverting import Defence
from simulations.privacy.statistics.shares import Tried

NOTES = (
    "nothing of this is uploaded today: pooled users' texts are on the coordinator, and a device sends a "
    "status; the attacks say what training by gradients from devices would give away",
    "an upload is the gradient of a batch of a participant's texts: of W_l, whose provisional LoRA was "
    "trained on the other half of the participant's texts, or of a LoRA at its start on the linears that "
    "stage 1 trains; lora-update is its change after four steps of plain gradient descent",
    "clipped: to the median norm C of uploads of public texts; noise z: of standard deviation z C a number, "
    "added by the participant",
    "nearest: the batch's texts stand among 100, and the candidate whose gradient has the smallest angle to "
    "the upload is one of them; 'adapter unknown' makes candidates' gradients with another person's adapter",
    "learned reading: a ridge regression from uploads to tokens, trained on public texts under the same "
    "defence, names as many tokens as the batch has; gradient matching searches a text whose gradient "
    "points the same way, and knows the text's length",
    "the positive control is the gradient of the embedding matrix, the negative one the upload of another "
    "participant; guessing names the most frequent tokens of public texts",
    "intervals draw people, each with all seeds; p is two-sided against guessing, corrected (Holm) over all "
    "attacks that are no control",
)
MOST_TEXTS = 12  # half of a synthetic person's items


def check_options(
    structure: Structure, uploads: Sequence[str], batches: Sequence[int], steps: int
) -> None:
    """Raise ConfigError for what cannot be attacked, before anything is trained."""
    if not batches or min(batches) < 1 or max(batches) > MOST_TEXTS:
        raise ConfigError(
            f"--batch takes numbers of texts from 1 to {MOST_TEXTS}, half of what a person has"
        )
    if steps < 0:
        raise ConfigError(f"--steps takes a number from 0 on, got {steps}")
    if set(uploads) == {"router"} and not structure.has_lora_router:
        raise ConfigError(
            f"preset '{structure.name}' has no LoRA-aware router that all users share",
            hint="attack lora or lora-update, or take preset default or paper",
        )


@dataclass(frozen=True)
class Plan(PlantedPlan):
    """What is attacked and how; `batches` are numbers of texts, `steps` those of gradient matching."""

    uploads: tuple[str, ...]
    defences: tuple[Defence, ...]
    batches: tuple[int, ...]
    steps: int

    def __post_init__(self) -> None:
        check_options(self.structure, self.uploads, self.batches, self.steps)

    @property
    def digest(self) -> str:
        """See `PlantedPlan.digest_with`."""
        asked = self.uploads, str(self.defences), self.batches, self.steps
        return self.digest_with("inversion", *asked)


def inversion_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> RateResult:
    """Attack every seed that is not kept in OUT, and sum up all."""

    def attack(lab: Lab) -> list[Tried]:
        found: list[Tried] = []
        for batch in plan.batches:
            found += Attacker(lab, batch, plan.steps).run(plan.uploads, plan.defences)
        return found

    return result_of(
        *(plan, "inversion", plan.digest, attack),
        notes=NOTES,
        sentences=sentences,
        out=out,
        cache=cache,
        progress=progress,
    )
