"""People's text to token ids, none of which controls the model.

A tokenizer turns `</s>` or `<|im_end|>` in a text into the token that ends answers or turns. In
a person's text these are letters like any others: they get the ids of their letters. A chat
template's own control tokens, and what a tokenizer puts in front of every text, stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from proper_model.errors import BaseModelError
from proper_model.text import chat_turn
from proper_model.text.conversation import ChatMessage, Role, without_system

PROBE = "a"
# Stands for a text while a chat template is rendered; no tokenizer's token, and not trimmed.
_PLACE = "\ue000text{}\ue001"


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that no text may be turned into: special tokens, and what a chat template writes.

    Not the one for unknown words, unless it also ends, begins or fills a text.
    """
    found = {int(i) for i in getattr(tokenizer, "all_special_ids", ())}
    unknown = getattr(tokenizer, "unk_token_id", None)
    ends = {getattr(tokenizer, f"{kind}_token_id", None) for kind in ("eos", "bos", "pad")}
    if unknown not in ends:
        found.discard(unknown)
    template = str(getattr(tokenizer, "chat_template", None) or "")
    for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        # White space is a token of its own in some vocabularies, and every template has some.
        written = bool(str(token).strip()) and str(token) in template
        if number != unknown and (token.special or written):
            found.add(int(number))
    return frozenset(found)


class PlainText:
    """A tokenizer for people's text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.control = control_ids(tokenizer)

    @cached_property
    def before(self) -> list[int]:
        """What the tokenizer puts in front of every text, such as a beginning of sequence.

        What it would put behind one, such as an end, has no place between prompt and answer.
        """
        inner = self.raw(PROBE)
        framed = list(self.tokenizer(PROBE, add_special_tokens=True)["input_ids"])
        for start in range(len(framed) - len(inner) + 1):
            if framed[start : start + len(inner)] == inner:
                return framed[:start]
        return []

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with nothing in front of it or behind it."""
        found = self.raw(text)
        return found if self.control.isdisjoint(found) else self._spelled(text)

    def asked(self, text: str) -> str:
        """The text as a user's turn in the tokenizer's chat template, up to where answers begin.

        Raises BaseModelError for a template that fails.
        """
        return chat_turn.asked(self.tokenizer, text)

    def turn_ids(self, text: str) -> list[int]:
        """The ids of `asked(text)`, whose control tokens are the template's own."""
        return self._rendered_ids([ChatMessage("user", text)])

    def conversation_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The ids of a conversation (`conversation.in_order`) in the chat template, as those of a turn.

        Of a template that refuses a system message or leaves it out, that one begins the user's first.
        Raises BaseModelError for a template that fails all the same.
        """
        if messages[0].role == "system" and not self._takes_system(messages):
            messages = without_system(messages)
        return self._rendered_ids(messages)

    @cached_property
    def turn_end(self) -> int | None:
        """The control token that the chat template writes behind an assistant's message.

        None of a template that writes none. Not always the end of sequence: Gemma's is not, nor is that of a
        ChatML template over a base whose texts end otherwise.
        """
        roles: tuple[Role, ...] = ("user", "assistant", "user")
        try:
            frame = self._frame([ChatMessage(role, PROBE) for role in roles])
        except BaseModelError:
            return None
        behind = self.raw(frame[2]) if frame else []
        return next((number for number in behind if number in self.control), None)

    def _takes_system(self, messages: Sequence[ChatMessage]) -> bool:
        # Not the text itself, which may stand elsewhere too, in the user's message for example.
        place = _PLACE.format("")
        tried = [ChatMessage("system", place), *messages[1:]]
        try:
            return place in chat_turn.rendered(self.tokenizer, tried)
        except BaseModelError:
            return False

    def _rendered_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        asked = chat_turn.rendered(self.tokenizer, messages)
        texts = [message.text for message in messages]
        if all(map(self.is_free, texts)):
            return self.raw(asked)
        found = self._framed_ids(asked, texts, self._frame(messages))
        if found is not None:
            return found
        return self.raw(
            chat_turn.rendered(
                self.tokenizer, [ChatMessage(one.role, self._broken(one.text)) for one in messages]
            )
        )

    def _framed_ids(
        self, asked: str, texts: Sequence[str], frame: Sequence[str]
    ) -> list[int] | None:
        """The ids of a rendered conversation, its texts spelled; None if it is not texts in that frame."""
        if not frame or not asked.startswith(frame[0]):
            return None
        found, place = self.raw(frame[0]), len(frame[0])
        for text, behind in zip(texts, frame[1:], strict=True):
            for written in (text, text.strip()):  # templates may trim, some of them not every role
                if asked.startswith(written + behind, place):
                    break
            else:
                return None
            found += self._spelled(written) + self.raw(behind)
            place += len(written) + len(behind)
        return found if place == len(asked) else None

    def _frame(self, messages: Sequence[ChatMessage]) -> list[str]:
        """What the template writes before, between and behind the messages' texts.

        Empty where it does not write all of them, once and in their order.
        """
        places = [_PLACE.format(number) for number in range(len(messages))]
        rest = chat_turn.rendered(
            self.tokenizer,
            [ChatMessage(one.role, place) for one, place in zip(messages, places, strict=True)],
        )
        frame = []
        for place in places:
            front, found, rest = rest.partition(place)
            if not found or place in rest:
                return []
            frame.append(front)
        return [*frame, rest]

    def is_free(self, text: str) -> bool:
        """True if the tokenizer finds no control token in a text."""
        return self.control.isdisjoint(self.raw(text))

    def raw(self, text: str, **options: bool) -> list[int]:
        """The ids of a text as the tokenizer has it, control tokens included.

        Raises BaseModelError where the tokenizer fails, without its words: they may hold the text.
        """
        try:
            return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
            raise BaseModelError(
                f"the base's tokenizer fails on a text ({type(error).__name__})",
                hint="use another base or release, and report it to its publisher",
            ) from None

    def _spelled(self, text: str) -> list[int]:
        """The ids of a text whose control tokens are replaced by their letters."""
        # Some vocabularies hold control tokens as words, so that they appear all the same.
        return [
            part
            for number in self.raw(text, split_special_tokens=True)
            for part in (self._letters(number) if number in self.control else [number])
        ]

    def _letters(self, control: int) -> Sequence[int]:
        """The ids of a control token's letters, one at a time."""
        name = str(self.tokenizer.convert_ids_to_tokens(control))
        letters = (part for letter in name for part in self.raw(letter))
        return [part for part in letters if part not in self.control]

    def _broken(self, text: str) -> str:
        """The text with a space inside every control token."""
        for control in sorted(self.control):
            name = str(self.tokenizer.convert_ids_to_tokens(control))
            if len(name) > 1:
                text = text.replace(name, f"{name[0]} {name[1:]}")
        return text
