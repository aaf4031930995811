"""Why something was not measured, in one line: an exception's name and what it says."""

from __future__ import annotations

LONGEST = 200  # characters; a library's text may fill a page


def cause_of(error: BaseException) -> str:
    """`RuntimeError: out of memory`, or the name alone where the exception says nothing."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if not text:
        return name
    return f"{name}: {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"


def name_of(cause: str) -> str:
    """The exception's name in a cause, where there is room for no more."""
    return cause.partition(":")[0]
