"""What a method to compare with is given, and what it gives back.

All arms of one benchmark answer the same queries of the same people over the same release, so that
their predictions can be compared person by person (docs/method.md 1.9, 2.3). A method may learn from
pooled users' items and queries and from a test user's own items; a test user's queries hold the
answers, and only what they ask may be read before the predictions are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from proper_model.evaluation import Prediction
from proper_model.progress import Progress, silent
from proper_model.release.contents import Release
from proper_model.tasks import Query, Task, User

if TYPE_CHECKING:
    from client.person.state import PersonalState


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
        states: what the training of one of PROPER's own arms ended with, by user id, where the
            benchmark has it anyway; None: whoever needs one trains it.
    """

    release: Release
    pooled: Sequence[User]
    users: Sequence[User]
    seed: int
    folder: Path
    memory_bytes: int | None = None
    progress: Progress = silent
    states: Callable[[str], Mapping[str, PersonalState]] | None = None

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


def blind(user: User) -> User:
    """The user with no answer to a query: what works on it cannot read one."""
    return replace(user, queries=tuple(blind_query(query) for query in user.queries))


def blind_query(query: Query) -> Query:
    """What a query asks, without the answer."""
    return replace(query, gold="")


def cut(users: Sequence[User], items: int) -> tuple[User, ...]:
    """The users with only the newest items of their histories, at most so many: none with 0."""
    return tuple(replace(u, history=u.history[max(0, len(u.history) - items) :]) for u in users)
