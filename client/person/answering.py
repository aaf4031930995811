"""A person's own model on one device: answers at every stage, and where the routers lean.

Stage 1 is the population's model, stage 2 adds the group experts under this person's embedding,
stage 3 adds the private adapter. Someone without an adapter gets the highest stage there is, and is
told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from client.node.cohort_adaptation import UserState
from client.person.arms import AnswerLimits, answering_tokens, arm_pass
from client.person.state import PersonalState, TaskState
from proper_model.answering import Answer, Ended, Question, answer_queries, routing_weights, stream
from proper_model.errors import ConfigError, DataError
from proper_model.model import AdaptedModel, Pass
from proper_model.release.contents import Release
from proper_model.tasks import Example, HistoryItem, Query, Task, User
from proper_model.text import Encoder

ARMS = {"1": "stage1", "2": "stage2", "3": "stage3"}
MEAN = "stage2-mean"
_ME = User("me", (), ())
ROWS_AT_ONCE = 64  # of routing weights: bounded memory for long histories


@dataclass(frozen=True)
class Personal:
    """One task of one person over one release.

    Args:
        embedding: [tables, e], None before any adaptation.
        adapter: the private LoRA, empty where there is none.
    """

    release: Release
    task: Task
    embedding: Tensor | None
    adapter: TaskState | None

    @classmethod
    def of(cls, release: Release, state: PersonalState | None, name: str | None) -> Personal:
        """The person's task of that name; the release's own task before any adaptation."""
        if state is None or not state.tasks:
            return cls(release, release.task, None, None)
        _, task_state = state.task_named(name)
        return cls(release, task_state.task(), state.embedding, task_state)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that there are for this person."""
        found = ["1", "2"]
        if self.adapter is not None and self.adapter.adapter:
            found.append("3")
        return tuple(found)

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
        return MEAN if stage == "2" and self.embedding is None else ARMS[stage]

    @cached_property
    def model(self) -> AdaptedModel:
        """The release's model; made once."""
        return self.release.model()

    @cached_property
    def encoder(self) -> Encoder:
        return self.release.encoder()

    @cached_property
    def _limits(self) -> AnswerLimits:
        """Kept, so that labels are measured once for all questions."""
        return AnswerLimits(self.task, self.encoder, self.release.settings.max_answer_tokens)

    def make_pass(self, stage: str) -> Callable[[Tensor], Pass]:
        """From row slots, all of them 0, to the pass of a stage. Loads the adapter if it is used."""
        arm = self.arm(stage)
        tensors: dict[str, Tensor] = {}
        if self.embedding is not None:
            tensors["embedding"] = self.embedding
        if self.adapter is not None:
            tensors |= dict(self.adapter.adapter)
        states = {_ME.user_id: UserState(_ME.user_id, arm, "", tensors, {})}
        return arm_pass(self.release, self.model, [_ME], arm, states)

    def prompt(self, text: str) -> str:
        """A question in the task's wording."""
        return self.task.ask(text)

    def answer_limit(self, text: str, most: int | None = None) -> int:
        """Tokens an answer may have: the longest label and its end, or the release's limit."""
        limit = self._limits.of(Query("question", text, ""))
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
            self.make_pass(stage),
            max_new_tokens=self.answer_limit(text, max_tokens),
        )

    def judge(
        self,
        items: Sequence[HistoryItem],
        *,
        stage: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Answer]:
        """Answers to own items as questions, and the loss of what the person wrote.

        In passes that fit the release's memory.
        """
        task = self.task
        questions = []
        for item in items:
            example = task.history_example(item)
            query = Query(item.id, example.prompt, example.answer)
            numeric = "mae_expected" in task.metrics and task.labels is not None
            questions.append(
                Question(
                    slot=0,
                    example=example,
                    labels=tuple(task.labels_for(query)) if numeric else (),
                    max_new_tokens=self.answer_limit(example.prompt),
                )
            )
        return answer_queries(
            self.model,
            self.encoder,
            questions,
            self.make_pass(stage),
            tokens_per_step=answering_tokens(
                self.release, self.model, self.release.memory_bytes, users=1
            ),
            progress=progress,
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
