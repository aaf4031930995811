"""A conversation: who said what, in the order in which a base is asked.

Chat templates differ in where they take a system message and in whether one role may speak twice; what
all of them take is at most one system message, first, and then user and assistant in turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from proper_model.errors import ConfigError

Role = Literal["system", "user", "assistant"]
PARAGRAPH = "\n\n"
# How a base without a chat template is asked; an answer ends where it goes on as the user.
SPEAKERS: dict[Role, str] = {"user": "User:", "assistant": "Assistant:"}
NEXT_TURN = f"\n{SPEAKERS['user']}"
_LIKE_A_TURN = re.compile(rf"(?:\A|(?<=[\n\r]))(?={'|'.join(SPEAKERS.values())})")


@dataclass(frozen=True)
class ChatMessage:
    """What one of them said."""

    role: Role
    text: str


def in_order(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The conversation as every template takes it.

    System messages before the first user's are joined to one; a later one is put before the text of
    the user's message that follows. Neighbours of one role are joined. A blank line stands between.
    A system message without text is none.

    Raises ConfigError unless the first message that is not the system's, and the last one, are the user's.
    """
    spoken = [message.role for message in messages if message.role != "system"]
    if not spoken or spoken[0] != "user" or messages[-1].role != "user":
        raise ConfigError(
            "messages: expected the user's message first, after any system message, and last"
        )
    found: list[ChatMessage] = []
    said = False  # whether the user has
    for message in messages:
        if message.role == "system" and not message.text.strip():
            continue
        said = said or message.role == "user"
        role = "user" if message.role == "system" and said else message.role
        if found and found[-1].role == role:
            found[-1] = ChatMessage(role, found[-1].text + PARAGRAPH + message.text)
        else:
            found.append(ChatMessage(role, message.text))
    return tuple(found)


def without_system(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The same for a template that takes no system message: it begins the user's first one."""
    first, *rest = messages
    if first.role != "system":
        return tuple(messages)
    return (ChatMessage("user", first.text + PARAGRAPH + rest[0].text), *rest[1:])


def plain_form(messages: Sequence[ChatMessage]) -> str:
    """The conversation for a base without a chat template, up to where the answer begins.

    The system's text and a blank line; then a line `User: ...` or `Assistant: ...` a message. A line
    within a message that begins like one of these is indented: no text can pretend to be a turn.
    """
    lines = []
    for message in messages:
        text = _LIKE_A_TURN.sub(" ", message.text)
        spoken = f"{SPEAKERS[message.role]} {text}" if message.role in SPEAKERS else text + "\n"
        lines.append(spoken)
    return "\n".join([*lines, SPEAKERS["assistant"]])
