"""A person's own model: answers at every stage, and the weights by which routers mix experts.

Stage 1 is the population's model, stage 2 adds the group experts under this person's embedding,
stage 3 adds the private adapter and answers mixed with stage 2 where the release is calibrated.
Someone without an adapter gets the highest stage there is, and is told.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from client.person.arms import ArmModel, Private, answered_by, share_of
from client.person.state import EMBEDDING, PersonalState
from proper_model.answering import Answer, Ended, Sampling, routing_weights, stream
from proper_model.errors import ConfigError, DataError
from proper_model.evaluation import is_unusable
from proper_model.model import AdaptedModel, MakePass
from proper_model.release.contents import Release
from proper_model.settings import presets
from proper_model.tasks import Depth, Example, HistoryItem, OwnItems, Query, Task
from proper_model.text import ChatMessage, Encoder, unknown_tokens

Wording = Literal["task", "chat"]
CHAT_TOKENS = 512  # of an answer in a conversation, where nobody says how many
ARMS = {"1": "stage1", "2": "stage2", "3": "stage3"}
MEAN = "stage2-mean"
ROWS_AT_ONCE = 64  # of routing weights: bounded memory for long histories


def wording_of(messages: Sequence[ChatMessage]) -> Wording:
    """How a conversation is put to the model.

    `task`: one message of the user, and nothing before it, is a question of the task that was trained,
    and is asked in that task's wording. `chat`: anything else is asked in the base's chat template.
    """
    return "task" if [message.role for message in messages] == ["user"] else "chat"


def check_retrieve(state: PersonalState | None, depth: Depth | None) -> None:
    """Raise ConfigError if items are to be retrieved and none are stored."""
    if depth and (state is None or not state.tasks):
        raise ConfigError(
            "--retrieve puts items of yours before a question, and none are stored here",
            hint="start with: proper adapt HISTORY",
        )


@dataclass(frozen=True)
class Prompt:
    """A conversation as a stage reads it, made into tokens once: to refuse, to answer and to count it."""

    messages: Sequence[ChatMessage]
    stage: str
    tokens: Sequence[int]

    @property
    def wording(self) -> Wording:
        return wording_of(self.messages)


@dataclass(frozen=True)
class Personal:
    """One task of one person over one release; `private` is empty before any adaptation.

    Attributes:
        items: the person's own, of which a question may have some before it.
        trained_items: how many the adapter was trained on.
        retrieve: how many own items stand before a question, at every stage; None: as the task was
            adapted, and none at stage 1, which is what others get.
    """

    release: Release
    task: Task
    private: Private
    items: tuple[HistoryItem, ...] = ()
    trained_items: int = 0
    retrieve: Depth | None = None

    @classmethod
    def of(
        cls,
        release: Release,
        state: PersonalState | None,
        name: str | None,
        *,
        retrieve: Depth | None = None,
    ) -> Personal:
        """The person's task of that name; the release's own task before any adaptation.

        Raises as `check_retrieve`.
        """
        check_retrieve(state, retrieve)
        if state is None or not state.tasks:
            return cls(release, release.task, {})
        name, task_state = state.task_named(name)
        return cls(
            release,
            task_state.task(),
            state.private(name),
            task_state.items,
            state.trained_items(name),
            retrieve,
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages that there are for this person."""
        shared = ("1",) if self.release.structure.population_only else ("1", "2")
        return (*shared, "3") if self.private.keys() - {EMBEDDING} else shared

    def arm(self, stage: str) -> str:
        """The arm of a stage. Raises ConfigError for a stage that there is not."""
        if stage not in ARMS:
            raise ConfigError(f"unknown stage '{stage}'", hint="stages are 1, 2 and 3")
        if stage == "2" and stage not in self.stages:
            raise ConfigError(
                "there is no stage 2: " + presets.POPULATION_ONLY_NOTE, hint="ask for stage 1 or 3"
            )
        if stage not in self.stages:
            raise ConfigError(
                "there is no private adapter for this task yet, so no stage 3",
                hint="proper adapt HISTORY makes one from "
                f"{self.release.settings.user.min_items_to_train} or more items; stages 1 and 2 work",
            )
        own = self.private.get(EMBEDDING)
        if stage == "2" and own is None:
            return ARMS["1"] if self.release.structure.infers_user else MEAN
        return answered_by(self.release, ARMS[stage], self.private)

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
        return share_of(self.release, ARMS["3"], self.private, self.trained_items)

    def own_items(self, stage: str) -> OwnItems:
        """What makes examples of questions and items, with own items before them as the stage has."""
        depth = self.retrieve
        if depth is None:
            depth = 0 if stage == "1" else self.task.retrieve
        if depth not in self._own:
            task = replace(self.task, retrieve=depth)
            self._own[depth] = OwnItems(task, self.items, self.encoder.room)
        return self._own[depth]

    @cached_property
    def _own(self) -> dict[Depth, OwnItems]:
        """Made once each: their index is."""
        return {}

    def prompt_tokens(self, text: str, *, stage: str) -> list[int]:
        """A question in the task's wording, after own items, as a stage is asked."""
        asked = self.own_items(stage).ask(text)
        return self.encoder.prompt(asked.prompt, lines=asked.lines)

    def unknown_words(self, text: str) -> tuple[int, int]:
        """How many words of a question the base does not know, and how many there are.

        Of what the person asks, without the task's own words around it.
        """
        parts = self.task.query_text(Query("question", text, ""))
        return unknown_tokens(self.encoder, text if parts is None else " ".join(parts.values()))

    def unusable(self, text: str, answer: str) -> bool:
        """Whether an answer to a question says nothing: it is empty, or none of the labels."""
        labels: Sequence[str] = ()
        with suppress(DataError):  # a question may list no labels of its own
            labels = self.task.labels_for(Query("question", text, ""))
        return is_unusable(answer, labels)

    def answer_limit(self, text: str, most: int | None = None) -> int:
        """Tokens an answer may have: the longest label and its end, or the release's limit."""
        limit = self._answering.answer_limit(Query("question", text, ""))
        return limit if most is None else min(limit, most)

    def generate(
        self, text: str, *, stage: str, max_tokens: int | None = None
    ) -> Generator[str, None, Ended]:
        """The answer to a question, greedily decoded, in pieces. Raises as `answer`."""
        return self.answer(
            self.prompt([ChatMessage("user", text)], stage=stage), max_tokens=max_tokens
        )

    def answer(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Generator[str, None, Ended]:
        """The answer to the last message of a conversation, in pieces; greedily without `sampling`.

        Args:
            max_tokens: at most so many; never more than there is room for.
            stop: texts before which the answer ends.

        Raises, before the first piece: ConfigError for a stage that there is not, DataError for a
        conversation that leaves no room.
        """
        if prompt.wording == "task":
            limit = self.answer_limit(prompt.messages[-1].text, max_tokens)
            ends: tuple[int, ...] = ()
        else:
            room = self.positions - len(prompt.tokens)
            if room < 1:
                raise DataError(
                    f"the conversation has {len(prompt.tokens)} tokens and this base reads "
                    f"{self.positions}, its answer included",
                    hint="begin anew, or leave the oldest messages out",
                )
            limit = min(room, max_tokens or CHAT_TOKENS)
            stop = (*stop, *self.encoder.turn_ends)
            ends = self.encoder.turn_end_tokens
        return stream(
            self.model,
            self.encoder,
            prompt.tokens,
            self._answering.mixture(self.arm(prompt.stage), [self.private], [self.trained_items]),
            max_new_tokens=limit,
            sampling=sampling,
            stop=stop,
            ends=ends,
        )

    def prompt(self, messages: Sequence[ChatMessage], *, stage: str) -> Prompt:
        """A conversation as the model reads it; a question of the task alone as `prompt_tokens`.

        Args:
            messages: in order (`proper_model.text.in_order`).

        Raises BaseModelError where the base's chat template fails on it.
        """
        if wording_of(messages) == "task":
            tokens = self.prompt_tokens(messages[-1].text, stage=stage)
        else:
            tokens = self.encoder.conversation(messages)
        return Prompt(messages, stage, tokens)

    @property
    def positions(self) -> int:
        """Tokens that the base reads, the answer's among them."""
        found = getattr(self.model.base.config, "max_position_embeddings", None)
        return int(found or self.release.settings.longest_tokens(retrieval=True))

    def judge(self, items: Sequence[HistoryItem], *, stage: str) -> list[Answer]:
        """Answers to own items as questions, and the loss of what the person wrote.

        In passes that fit the release's memory.
        """
        examples = [self.own_items(stage).history_example(item) for item in items]
        return self._answering.answers(
            [(0, one, Query(one.id, one.prompt, one.answer)) for one in examples],
            self.arm(stage),
            [self.private],
            items=[self.trained_items],
            memory_bytes=self.release.memory_bytes,
        )

    def routing(self, examples: Sequence[Example], *, stage: str) -> Tensor:
        """Mean routing weights over the examples' tokens: [S, N], each site summing to one.

        Raises ConfigError for stage 1, which has no experts.
        """
        if self.release.structure.population_only:
            raise ConfigError("there are no experts: " + presets.POPULATION_ONLY_NOTE)
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
