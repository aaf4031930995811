"""One phase of the pooled stages: taken from the cache, or trained into it.

What `pooled_stages` and `calibration_phases` share: who takes part, what a phase depends on, and what
every stage is told beside its data and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from coordinator.phase_cache import PhaseCache, Train
from coordinator.phase_checks import check_finite
from coordinator.phase_keys import Key, PhaseInputs
from coordinator.step_curves import CURVE_FILE, curve_writer, keep_curve
from proper_model.progress import Progress, Watch
from proper_model.stages import PooledData, PooledUser, router_cohort
from proper_model.stages.pooled_users import fingerprint_of, with_shuffled_identities
from proper_model.text import Encoder

Notes = Mapping[str, Any]


@dataclass(frozen=True)
class GroupPeople:
    """Who trains stages 2 and 3a-3b: `users`, of whom the last `unasked` are known by histories only."""

    users: tuple[PooledUser, ...]
    unasked: int

    @classmethod
    def of(
        cls, data: PooledData, personalized: tuple[PooledUser, ...], shuffled: int | None
    ) -> GroupPeople:
        """Who trained stage 1 and `personalized`; with a seed `shuffled`, items go to anybody."""
        users = (*data.trained, *personalized)
        if shuffled is not None:
            users = with_shuffled_identities(users, shuffled)
        return cls(users, len(personalized))

    def fingerprint(self, data: PooledData) -> str | None:
        """None where it is who trained stage 1, with the same items."""
        return None if self.users == data.trained else fingerprint_of({"grouped": self.users})


@dataclass(frozen=True)
class PhaseRunner:
    """What all phases of one release are run with.

    Attributes:
        data: who trains and judges stage 1, and who is set apart to calibrate on.
        people: who trains the stages after it.
        memory_bytes: what training may take beside the base; None: no limit.
        say: told how far each phase has come, under its name.
        curves: folder for the phases' curves by step; None: they stay in the cache.
    """

    encoder: Encoder
    data: PooledData
    people: GroupPeople
    inputs: PhaseInputs
    cache: PhaseCache
    memory_bytes: int | None
    say: Progress
    curves: Path | None = None

    def cohort(self) -> list[int]:
        """Positions in `people.users` of those whose provisional LoRAs 3a trains."""
        limit = self.inputs.settings.router.cohort
        users, unasked = self.people.users, self.people.unasked
        return router_cohort(users, limit, self.inputs.seed, unasked=unasked)

    def run(self, name: str, key: Key, train: Train) -> tuple[dict[str, Tensor], Notes]:
        """What a phase ended with, trained here if nobody has. Raises TrainingError if not finite."""
        phase = self.cache.phase(name, key)
        tensors, notes = phase.train_once(train)
        check_finite(name, tensors, phase.folder)
        if self.curves is not None:
            keep_curve(phase.folder, name, self.curves)
        return tensors, notes

    def how(self, phase: str, checkpoint: Path) -> dict[str, Any]:
        """What every stage is told beside its data and settings."""
        return {
            "seed": self.inputs.seed,
            "memory_bytes": self.memory_bytes,
            "checkpoint": checkpoint,
            "progress": lambda done, total: self.say(phase, done, total),
        }

    def watch(self, checkpoint: Path) -> Watch:
        """What a pooled training tells of every step, kept beside the phase's result."""
        return curve_writer(checkpoint.with_name(CURVE_FILE))
