"""Responses in OpenAI's form, whole and as chunks of a stream.

Source: OpenAI's API reference, "The completion object", "The chat completion object", "The chat
completion chunk object". With `include_usage` every chunk has a null `usage` and a last chunk
without choices holds the counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from client.serving.session import Ending

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply(ABC):
    """One answer's frame: id, time (seconds since 1970) and model name."""

    id: str
    created: int
    model: str
    include_usage: bool = False

    @abstractmethod
    def whole(self, text: str, ending: Ending, prompt_tokens: int) -> Json:
        """The answer in one object."""

    @abstractmethod
    def opening(self) -> Iterator[Json]:
        """Chunks before the first piece."""

    @abstractmethod
    def piece(self, text: str) -> Json:
        """A chunk with a piece of text."""

    @abstractmethod
    def last(self, ending: Ending) -> Json:
        """The chunk that says why the text ended."""

    def closing(self, ending: Ending, prompt_tokens: int) -> Iterator[Json]:
        """Chunks after the last piece."""
        yield self.last(ending)
        if self.include_usage:
            last = self.last(ending)
            yield {**last, "choices": [], "usage": usage(ending, prompt_tokens)}

    def framed(self, kind: str, choice: Json) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "logprobs": None, **choice}],
        }

    def chunk(self, kind: str, choice: Json) -> Json:
        extra = {"usage": None} if self.include_usage else {}
        return {**self.framed(kind, choice), **extra}


class TextReply(Reply):
    """Of /v1/completions; chunks have the form of the whole."""

    def whole(self, text: str, ending: Ending, prompt_tokens: int) -> Json:
        choice = {"text": text, "finish_reason": ending.reason}
        counts = usage(ending, prompt_tokens)
        return {**self.framed("text_completion", choice), "usage": counts}

    def opening(self) -> Iterator[Json]:
        return iter(())

    def piece(self, text: str) -> Json:
        return self.chunk("text_completion", {"text": text, "finish_reason": None})

    def last(self, ending: Ending) -> Json:
        return self.chunk("text_completion", {"text": "", "finish_reason": ending.reason})


class ChatReply(Reply):
    """Of /v1/chat/completions."""

    def whole(self, text: str, ending: Ending, prompt_tokens: int) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"message": message, "finish_reason": ending.reason}
        counts = usage(ending, prompt_tokens)
        return {**self.framed("chat.completion", choice), "usage": counts}

    def opening(self) -> Iterator[Json]:
        yield self._delta({"role": "assistant", "content": ""})

    def piece(self, text: str) -> Json:
        return self._delta({"content": text})

    def last(self, ending: Ending) -> Json:
        return self._delta({}, ending.reason)

    def _delta(self, delta: Json, reason: str | None = None) -> Json:
        return self.chunk("chat.completion.chunk", {"delta": delta, "finish_reason": reason})


def usage(ending: Ending, prompt_tokens: int) -> Json:
    """Token counts of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": ending.tokens,
        "total_tokens": prompt_tokens + ending.tokens,
    }
