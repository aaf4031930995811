"""A person's text, or a conversation, in a tokenizer's chat template, within bounds.

A template is a small program that came with the base. One that loops without end, fails on some
texts or leaves a text out is refused by a message, wherever it is met.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from proper_model.errors import BaseModelError
from proper_model.text.conversation import Message

# Lines of the template's code; the longest public ones take some hundreds for a turn.
MOST_STEPS = 100_000  # a message
# Of what a template writes beside a message's text, in characters.
MOST_ADDED = 1 << 17
_COMPILED = "<template>"  # what jinja calls the code that it makes of one
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
_HARMLESS = {"trim", "upper", "lower", "length", "string", "tojson", "safe", None}
_HINT = "repair or remove the chat template; of a release ask the publisher for another"


class _TooLongError(Exception):
    """The template took too many steps."""


def asked(tokenizer: Any, text: str) -> str:
    """The text as a user's turn, up to where the answer begins. Raises BaseModelError."""
    return rendered(tokenizer, [Message("user", text)])


def rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    """A conversation up to where the answer begins. Raises BaseModelError."""
    turns = [{"role": message.role, "content": message.text} for message in messages]
    found = _bounded(
        lambda: tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
        MOST_STEPS * len(turns),
    )
    most = 2 * sum(len(message.text) for message in messages) + MOST_ADDED * len(turns)
    if not isinstance(found, str) or len(found) > most:
        raise BaseModelError("the chat template writes too much for one turn", hint=_HINT)
    return found


def _bounded(render: Any, most_steps: int) -> Any:
    """What `render` returns, if its Python code takes at most so many lines."""
    steps = 0

    def count(frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != _COMPILED:
            return None  # jinja's own code
        steps += 1
        if steps > most_steps:
            raise _TooLongError
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        return render()
    except Exception as error:  # noqa: BLE001 - whatever the template's code comes to; it may hold text
        why = "takes too long" if isinstance(error, _TooLongError) else type(error).__name__
        raise BaseModelError(f"the chat template fails on a text ({why})", hint=_HINT) from None
    finally:
        sys.settrace(before)


def check_template(template: str) -> None:
    """Refuse what jinja would compute while it compiles, before any step is counted.

    Raises BaseModelError.
    """
    from jinja2 import Environment, nodes

    try:
        # As transformers' own; its block for generated text changes nothing here.
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(  # noqa: S701 - no page
            _GENERATION.sub("", template)
        )
        found = list(parsed.find_all((nodes.Pow, nodes.Mul, nodes.Mod, nodes.Filter)))
        folded = any(
            isinstance(node, nodes.Pow)
            or (
                node.find(nodes.Name) is None
                and not (isinstance(node, nodes.Filter) and node.name in _HARMLESS)
            )
            for node in found
        )
    except Exception as error:  # noqa: BLE001 - jinja's own, and depth
        raise BaseModelError(
            f"the chat template cannot be read ({type(error).__name__})", hint=_HINT
        ) from None
    if folded:
        raise BaseModelError("the chat template multiplies or pads constants", hint=_HINT)
