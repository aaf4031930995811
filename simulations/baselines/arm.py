"""What a method to compare with is given, and what it gives back.

All arms of one benchmark answer the same queries of the same people over the same release, so that
their predictions can be compared person by person (docs/method.md 1.9, 2.3). A method may learn from
pooled users' items and queries and from a test user's own items; a test user's queries hold the
answers, and only what they ask may be read before the predictions are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proper_model.evaluation import Prediction
from proper_model.progress import Progress, silent
from proper_model.release.contents import Release
from proper_model.tasks import Task, User


@dataclass(frozen=True)
class Benchmark:
    """What every arm is given.

    Attributes:
        release: the stages that the server trained; its base has stage 1 merged in.
        pooled: the users it was trained on.
        users: the test users, whose queries are answered.
        folder: private to the arm: its checkpoints, so that a killed run goes on.
        memory_bytes: what training and answering may take beside the base; None: what a GPU has
            free, and on a CPU no limit but the profile's `tokens_per_step`.
    """

    release: Release
    pooled: Sequence[User]
    users: Sequence[User]
    seed: int
    folder: Path
    memory_bytes: int | None = None
    progress: Progress = silent

    @property
    def task(self) -> Task:
        return self.release.task


class Arm(Protocol):
    """A method by the name it has in tables."""

    @property
    def name(self) -> str: ...

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query, in the order of users and their queries.

        Raises a ProperError where the method does not fit the task.
        """
        ...
