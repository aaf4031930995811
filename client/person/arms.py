"""Arms: which private parts a person has, and answers under them, each row with its own person's.

Without private state, `stage1` is the merged base alone, and `stage2-mean` adds experts routed by the
mean embedding. With it, `stage2` uses the fitted embedding, `stage3` adds the private LoRA and its
routing, and `oppu-mlp` is the private LoRA without experts (docs/method.md 1.9).

Where a release is calibrated, an arm with an adapter answers mixed with the arm below it, by how many
items the adapter was trained on. Where embeddings are inferred, somebody of whom nothing is known is
answered by `stage1` (docs/adr/0011).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from client.person.state import EMBEDDING, PersonalState
from proper_model.answering import Answer, Question, answer_queries, inference_tokens
from proper_model.errors import ConfigError
from proper_model.evaluation import Prediction
from proper_model.model import (
    ALONE,
    MakePass,
    Mixture,
    base_pass,
    group_pass,
    personal_pass,
    private_tensor,
    stack_adapters,
)
from proper_model.progress import Progress, Steps, silent
from proper_model.release.contents import Release
from proper_model.settings import UserRouting
from proper_model.tasks import Example, OwnItems, Query, Task, User


class Parts(NamedTuple):
    """What an arm's private state holds."""

    embedding: bool
    adapter: bool


STATEFUL_ARMS: Mapping[str, Parts] = {
    "stage2": Parts(embedding=True, adapter=False),
    "stage3": Parts(embedding=True, adapter=True),
    "oppu-mlp": Parts(embedding=False, adapter=True),
}
STATELESS_ARMS = ("stage1", "stage2-mean")
# What an arm is mixed with: the same without the private LoRA.
BELOW = {"stage3": "stage2", "oppu-mlp": "stage1"}

# `embedding` and `lora.<site>.A|B` of one person, as far as there are.
Private = Mapping[str, Tensor]


def check_arms(arms: Sequence[str]) -> None:
    """Raise ConfigError if one of them is none."""
    known = (*STATELESS_ARMS, *STATEFUL_ARMS)
    unknown = sorted(set(arms) - set(known))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}", hint=f"known: {', '.join(known)}")


class ArmModel:
    """A release's model, which answers one task's questions under any arm."""

    def __init__(self, release: Release, task: Task) -> None:
        self.release, self.task = release, task
        self.model, self.encoder = release.model(), release.encoder()
        self._most_tokens: dict[tuple[str, ...], int] = {}

    def make_pass(self, arm: str, people: Sequence[Private]) -> MakePass:
        """From row slots (places in `people`) to the pass of an arm alone; the model holds their adapters.

        Raises:
            ConfigError: an unknown arm.
            StateError: somebody lacks what the arm needs, or has it in another shape.
        """
        check_arms([arm])
        if arm == "stage1":
            return base_pass
        if arm == "stage2-mean":
            mean = self.release.mean_embedding[None].repeat(len(people), 1, 1)
            return lambda slots: group_pass(slots, mean)
        parts = STATEFUL_ARMS[arm]
        fitted: Tensor | None = None
        if parts.embedding:
            rows = [private_tensor(own, EMBEDDING) for own in people]
            fitted = torch.stack(rows).to(self.model.device)
        if parts.adapter:
            stack_adapters(self.model, people, experts=parts.embedding)
            own = self.model.structure.user_routing
            routing = own if parts.embedding else UserRouting.USER_AWARE
            return lambda slots: personal_pass(
                slots, embeddings=fitted, routing=routing, experts=parts.embedding
            )
        assert fitted is not None
        embeddings = fitted
        return lambda slots: group_pass(slots, embeddings)

    def mixture(self, arm: str, people: Sequence[Private], items: Sequence[int]) -> Mixture:
        """How an arm answers: its pass, mixed with that below it as the release is calibrated.

        Args:
            items: how many each one's adapter was trained on.

        Raises as `make_pass`.
        """
        above = self.make_pass(arm, people)
        shares = [
            share_of(self.release, arm, own, count)
            for own, count in zip(people, items, strict=bool(items))
        ]
        if all(share == ALONE for share in shares):
            return Mixture(above)
        return Mixture(above, self.make_pass(BELOW[arm], people), shares)

    def answers(
        self,
        asked: Sequence[tuple[int, Example, Query]],
        arm: str,
        people: Sequence[Private],
        *,
        items: Sequence[int] | None = None,
        memory_bytes: int | None = None,
        progress: Steps | None = None,
    ) -> list[Answer]:
        """Greedy answers and the gold answers' losses, in passes that fit the memory.

        Args:
            asked: place in `people`, what is asked, and the query whose labels bound the answer.
            items: as in `mixture`; None: the arm alone.
            memory_bytes: what answering may take beside the base; None: what a GPU has free.
        """
        alike: dict[str, list[int]] = {}
        for place, (slot, _, _) in enumerate(asked):
            alike.setdefault(answered_by(self.release, arm, people[slot]), []).append(place)
        found: dict[int, Answer] = {}
        for own, places in alike.items():
            part = [asked[place] for place in places]
            answers = self._answers(part, own, people, items or (), memory_bytes, progress)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(asked))]

    def _answers(
        self,
        asked: Sequence[tuple[int, Example, Query]],
        arm: str,
        people: Sequence[Private],
        items: Sequence[int],
        memory_bytes: int | None,
        progress: Steps | None,
    ) -> list[Answer]:
        """As `answers`, everybody under the same arm."""
        numeric = "mae_expected" in self.task.metrics
        questions = [
            Question(
                slot=slot,
                example=example,
                labels=tuple(self.task.labels_for(query)) if numeric else (),
                max_new_tokens=self.answer_limit(query),
            )
            for slot, example, query in asked
        ]
        settings = self.release.settings
        mixture = self.mixture(arm, people, items)
        return answer_queries(
            self.model,
            self.encoder,
            questions,
            mixture,
            tokens_per_step=inference_tokens(
                memory_bytes,
                self.model,
                users=len(people),
                longest=settings.longest_tokens(retrieval=bool(self.task.retrieve)),
                tokens=settings.tokens_per_step,
                answer=settings.max_answer_tokens,
                passes=mixture.passes,
            ),
            progress=progress,
        )

    def answer_limit(self, query: Query) -> int:
        """Tokens to generate: the query's longest label and its end, or the release's limit.

        Label lists that repeat are measured once.
        """
        most = self.release.settings.max_answer_tokens
        labels = tuple(self.task.labels_for(query)) if self.task.kind != "generation" else ()
        if labels not in self._most_tokens:
            lengths = [len(self.encoder.text_ids(" " + label)) for label in labels]
            self._most_tokens[labels] = min(max(lengths) + 1, most) if labels else most
        return self._most_tokens[labels]


def answered_by(release: Release, arm: str, own: Private) -> str:
    """The arm that answers somebody who is asked under `arm`.

    Under the mean of inferred embeddings, zeros, and without an adapter nothing is known of the person.
    """
    parts = STATEFUL_ARMS.get(arm)
    if not release.structure.infers_user or parts is None or not parts.embedding:
        return arm
    said = EMBEDDING not in own or bool(own[EMBEDDING].any())
    return arm if said or (parts.adapter and _trained(own)) else "stage1"


def share_of(release: Release, arm: str, own: Private, items: int) -> tuple[float, float]:
    """Weight of an arm in a person's answers, and their temperature; `items` trained the adapter.

    An adapter that changes nothing, because it was not trained or not kept, has no weight: the arm
    below answers as it is.
    """
    if release.calibration is None or arm not in BELOW:
        return ALONE
    found = release.calibration.of(arm, items)
    if not _trained(own) and (found is None or found.weight > 0):
        return 0.0, 1.0
    return ALONE if found is None else (found.weight, found.temperature)


def _trained(own: Private) -> bool:
    """Whether there is an adapter that changes something."""
    return any(bool(own[name].any()) for name in own if name.endswith(".B"))


def predict(
    release: Release,
    users: Sequence[User],
    arm: str,
    states: Mapping[str, PersonalState],
    *,
    asked_as: Callable[[int, Query], Example] | None = None,
    memory_bytes: int | None = None,
    progress: Progress = silent,
) -> list[Prediction]:
    """One prediction a query of every user, under the release's task.

    Own items stand before the queries where the task retrieves some (`Release.retrieving`).

    Args:
        states: by user id, for arms that need one; a state of `stage3` also serves `stage2`.
        asked_as: how a query of the user at a place is put to the model, where something else than
            retrieved items stands before it.
        memory_bytes: as in `ArmModel.answers`.

    Raises:
        StateError: if a state is missing or lacks what the arm needs.
    """
    task, room = release.task, release.encoder().room
    people = [OwnItems(task, user.history, room) for user in users]
    asked = [
        (slot, asked_as(slot, query) if asked_as else people[slot].query_example(query), query)
        for slot, user in enumerate(users)
        for query in user.queries
    ]
    answers = ArmModel(release, task).answers(
        asked,
        arm,
        private_of(users, states, task),
        items=trained_items(users, states, task),
        memory_bytes=memory_bytes,
        progress=partial(progress, arm),
    )
    return [
        prediction_of(users[slot].user_id, query.id, answer)
        for (slot, _, query), answer in zip(asked, answers, strict=True)
    ]


def private_of(
    users: Sequence[User], states: Mapping[str, PersonalState], task: Task
) -> list[Private]:
    """Every user's private tensors under a task; none where there is no state."""
    return [
        states[user.user_id].private(task.name) if user.user_id in states else {} for user in users
    ]


def trained_items(
    users: Sequence[User], states: Mapping[str, PersonalState], task: Task
) -> list[int]:
    """How many items every user's adapter was trained on; 0 where there is none."""
    return [
        states[user.user_id].trained_items(task.name) if user.user_id in states else 0
        for user in users
    ]


def prediction_of(user_id: str, query_id: str, answer: Answer) -> Prediction:
    """An answer as a row of what is scored."""
    return Prediction(
        user_id=user_id,
        query_id=query_id,
        output=answer.output,
        nll=answer.nll,
        answer_tokens=answer.answer_tokens,
        expected=answer.expected,
    )
