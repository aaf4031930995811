"""Prompt templates: text with `{placeholder}` fields, checked when they are read.

A template string is compiled once. Unknown, empty and formatted placeholders are refused, so that
no slot is dropped in silence (a released citation prompt of OPPU lost its candidates that way,
docs/method.md 2.2); `{{` and `}}` are literal braces. Inserted text is never parsed again.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from proper_model.errors import TaskError


@dataclass(frozen=True)
class Template:
    """A compiled template: literals and placeholder names in order."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def placeholders(self) -> frozenset[str]:
        """Names of all fields the template uses."""
        return frozenset(name for _, name in self.parts if name is not None)

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the placeholders."""
        return "".join(
            literal + (values[name] if name is not None else "") for literal, name in self.parts
        )


def compile_template(text: str, known: Collection[str], *, where: str) -> Template:
    """Compile `text`. Raises TaskError naming `where` for a placeholder outside `known`."""
    parts: list[tuple[str, str | None]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError:
        raise TaskError(
            f"{where}: the braces do not match", hint="write a literal brace as {{ or }}"
        ) from None
    for literal, name, spec, conversion in parsed:
        if name is not None:
            if not name:
                raise TaskError(f"{where}: empty placeholder {{}}", hint="name the field")
            if spec or conversion:
                raise TaskError(f"{where}: placeholder {{{name}}} has a format; only names work")
            if name not in known:
                raise TaskError(
                    f"{where}: unknown placeholder {{{name}}}",
                    hint="known here: " + ", ".join(sorted(known)),
                )
        parts.append((literal, name))
    return Template(tuple(parts))


def first_words(text: str, words: int | None, *, collapse: bool = False) -> str:
    """The first `words` whitespace words; a text that is short enough stays byte for byte.

    With `collapse` there is a single blank between any two words, however short the text is.
    """
    if collapse:
        return " ".join(text.split()[:words])
    if words is None:
        return text
    split = text.split(maxsplit=words)
    return text if len(split) <= words else " ".join(split[:words])
