"""A person's own model: answers at every stage, and the weights by which routers mix experts.

Stage 1 is the population's model, stage 2 adds the group experts under this person's embedding,
stage 3 adds the private adapter and answers mixed with stage 2 where the release is calibrated.
Someone without an adapter gets the highest stage there is, and is told.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from client.person.arms import ArmModel, Private, share_of
from client.person.state import EMBEDDING, PersonalState
from proper_model.answering import Answer, Ended, routing_weights, stream
from proper_model.errors import ConfigError, DataError
from proper_model.model import AdaptedModel, MakePass
from proper_model.release.contents import Release
from proper_model.tasks import Example, HistoryItem, Query, Task
from proper_model.text import Encoder

ARMS = {"1": "stage1", "2": "stage2", "3": "stage3"}
MEAN = "stage2-mean"
ROWS_AT_ONCE = 64  # of routing weights: bounded memory for long histories


@dataclass(frozen=True)
class Personal:
    """One task of one person over one release; `private` is empty before any adaptation.

    Attributes:
        items: how many the adapter was trained on.
    """

    release: Release
    task: Task
    private: Private
    items: int = 0

    @classmethod
    def of(cls, release: Release, state: PersonalState | None, name: str | None) -> Personal:
        """The person's task of that name; the release's own task before any adaptation."""
        if state is None or not state.tasks:
            return cls(release, release.task, {})
        name, task_state = state.task_named(name)
        return cls(release, task_state.task(), state.private(name), state.trained_items(name))

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that there are for this person."""
        return ("1", "2", "3") if self.private.keys() - {EMBEDDING} else ("1", "2")

    def arm(self, stage: str) -> str:
        """The arm of a stage. Raises ConfigError for a stage that there is not."""
        if stage not in ARMS:
            raise ConfigError(f"unknown stage '{stage}'", hint="stages are 1, 2 and 3")
        if stage not in self.stages:
            raise ConfigError(
                "there is no private adapter for this task yet, so no stage 3",
                hint="proper adapt HISTORY makes one from "
                f"{self.release.settings.user.min_items_to_train} or more items; stages 1 and 2 work",
            )
        return MEAN if stage == "2" and EMBEDDING not in self.private else ARMS[stage]

    @cached_property
    def _answering(self) -> ArmModel:
        """Made once, so that labels are measured once for all questions."""
        return ArmModel(self.release, self.task)

    @property
    def model(self) -> AdaptedModel:
        return self._answering.model

    @property
    def encoder(self) -> Encoder:
        return self._answering.encoder

    def make_pass(self, stage: str) -> MakePass:
        """From row slots, all of them 0, to the pass of a stage alone. Loads the adapter if it is used."""
        return self._answering.make_pass(self.arm(stage), [self.private])

    @property
    def share(self) -> tuple[float, float]:
        """Weight of stage 3 in its answers, against stage 2, and their temperature; 0 and 1 without it."""
        if "3" not in self.stages:
            return 0.0, 1.0
        return share_of(self.release, ARMS["3"], self.private, self.items)

    def prompt(self, text: str) -> str:
        """A question in the task's wording."""
        return self.task.ask(text)

    def answer_limit(self, text: str, most: int | None = None) -> int:
        """Tokens an answer may have: the longest label and its end, or the release's limit."""
        limit = self._answering.answer_limit(Query("question", text, ""))
        return limit if most is None else min(limit, most)

    def generate(
        self, text: str, *, stage: str, max_tokens: int | None = None
    ) -> Generator[str, None, Ended]:
        """The answer to a question, greedily decoded, in pieces.

        Raises ConfigError for a stage that there is not, before the first piece.
        """
        return stream(
            self.model,
            self.encoder,
            self.encoder.prompt(self.prompt(text)),
            self._answering.mixture(self.arm(stage), [self.private], [self.items]),
            max_new_tokens=self.answer_limit(text, max_tokens),
        )

    def judge(self, items: Sequence[HistoryItem], *, stage: str) -> list[Answer]:
        """Answers to own items as questions, and the loss of what the person wrote.

        In passes that fit the release's memory.
        """
        examples = [self.task.history_example(item) for item in items]
        return self._answering.answers(
            [(0, one, Query(one.id, one.prompt, one.answer)) for one in examples],
            self.arm(stage),
            [self.private],
            items=[self.items],
            memory_bytes=self.release.memory_bytes,
        )

    def routing(self, examples: Sequence[Example], *, stage: str) -> Tensor:
        """Mean routing weights over the examples' tokens: [S, N], each site summing to one.

        Raises ConfigError for stage 1, which has no experts.
        """
        if stage == "1":
            raise ConfigError("stage 1 has no experts", hint="ask for stage 2 or 3")
        make_pass = self.make_pass(stage)
        samples = [self.encoder.encode(example) for example in examples]
        total: Tensor | None = None
        for first in range(0, len(samples), ROWS_AT_ONCE):
            part = samples[first : first + ROWS_AT_ONCE]
            batch = self.encoder.batch(part, [0] * len(part), device=self.model.device)
            weights = routing_weights(self.model, batch, make_pass(batch.slots)).sum(1)
            total = weights if total is None else total + weights
        if total is None:
            raise DataError("there is nothing to route", hint="give a question, or adapt first")
        return total / len(samples)
