"""What a case of a table expects: an error of a kind, or none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from proper_model.errors import BundleError


def outcome(error: type[Exception] | None, match: str | None = None) -> AbstractContextManager[Any]:
    """Around what must raise `error`, or nothing where it is None."""
    return nullcontext() if error is None else pytest.raises(error, match=match)


def verdict_on(action: Callable[[], object]) -> str:
    """`ok`, or the name of the BundleError that `action` raises."""
    try:
        action()
    except BundleError as error:
        return type(error).__name__
    return "ok"
