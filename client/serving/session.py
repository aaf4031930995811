"""What the server needs of a loaded model: one Protocol, and the values that it takes and gives.

The server calls a session from one thread of its own, one call at a time, so that a session needs
no lock and may keep state that belongs to a thread (such as torch's gradient mode).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from client.person.answering import Wording
from proper_model.progress import Progress
from proper_model.text import ChatMessage


@dataclass(frozen=True)
class Manner:
    """How an answer is to be made.

    Attributes:
        max_tokens: at most so many; None: as many as the model has for such an answer.
        temperature: 0 takes the most probable tokens, whatever `top_p` and `seed` say.
        top_p: tokens are drawn from the most probable ones that have so much together.
        seed: of the draws; None: from the system's entropy.
        stop: texts before which the answer ends.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ending:
    """Why a generation ended, how many tokens it made, and how many it was asked with.

    `length`: `max_tokens`, or the model's own limit, was reached. `stop`: the model was done, or a
    stop text came. `prompt_tokens`: of the whole prompt, with what is put around the words given.
    """

    reason: Literal["stop", "length"]
    tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class Routing:
    """Mean weight [S, N] of every expert N at every site S (a layer's linear) over the prompt."""

    sites: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ItemRow:
    """One item of the history as the page lists it; `preview` is a short piece of its text."""

    number: int
    id: str
    date: str | None
    preview: str


@dataclass(frozen=True)
class ForgetReport:
    """What forgetting did, in counts, and remarks for the person (`notes`, shown as they are)."""

    forgotten: int
    kept: int
    notes: tuple[str, ...] = ()


class Session(Protocol):
    """A model of one user, loaded."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that can answer, of "1", "2", "3"."""

    @property
    def model_names(self) -> Mapping[str, str]:
        """Name in a request -> stage; the first one is the page's default."""

    @property
    def task(self) -> str: ...

    @property
    def bundle_id(self) -> str: ...

    @property
    def adapted(self) -> bool: ...

    @property
    def stored(self) -> bool:
        """Whether anything private lies here that could be removed; asked in the server's thread."""

    @property
    def label_choices(self) -> tuple[str, ...]:
        """The answers of a task that has a fixed set of them; else empty."""

    def refresh(self) -> None:
        """Before each request, and now and then: take what is stored now, if it is another state.

        Raises BusyError if that cannot be had; nothing of the state before is used any more then.
        """

    def wording(self, messages: Sequence[ChatMessage]) -> Wording:
        """Whether a conversation is asked in the trained task's words or in the base's chat template."""

    def generate(
        self, messages: Sequence[ChatMessage], *, stage: str, manner: Manner
    ) -> Generator[str, None, Ending]:
        """The answer to a conversation in pieces of text; returns how it ended.

        `close()` ends it early. Raises ConfigError, DataError or RequestError for what it cannot take,
        at the first piece at the latest.
        """

    def routing(self, prompt: str, *, stage: str) -> Routing:
        """Raises ConfigError for a stage without experts."""

    def items(self) -> Sequence[ItemRow]:
        """The history, shown only in the local page."""

    def forget(self, ids: Sequence[str] | None, *, progress: Progress) -> ForgetReport:
        """Remove items, or everything with None, and retrain from the rest; may take minutes.

        Whatever `progress` raises ends it; the last complete state stays then. Raises DataError
        for an id that is not in the history.
        """
