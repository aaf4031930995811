"""One style sheet out of the values (`tokens.css`) and what is made of them (`base.css`).

A page that is one file puts it into its `style` element; a server sends it as it is.
"""

from __future__ import annotations

from importlib.resources import files

PARTS = ("tokens.css", "base.css")


def stylesheet() -> str:
    """CSS in light and dark, by the reader's system; system fonts, no address in it."""
    folder = files("client.look")
    return "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in PARTS)
