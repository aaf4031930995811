"""What a release says of its people's privacy, as a sentence (docs/method.md 1.12).

The publisher wrote it and signed it: a device can read it, not check it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def privacy_sentence(notes: Mapping[str, Any]) -> str | None:
    """Of a release's notes; None where they claim nothing that can be read."""
    said = notes.get("privacy")
    if not isinstance(said, Mapping):
        return None
    epsilon, delta = said.get("epsilon"), said.get("delta")
    if epsilon == "infinite":
        return (
            "the pooled stages were trained with noise that can be drawn again from the seed, a test: "
            "this protects nobody (epsilon is infinite)"
        )
    if not all(_is_positive(value) for value in (epsilon, delta)):
        return None
    return (
        "the publisher says that the pooled stages are differentially private for every pooled user: "
        f"epsilon {epsilon:.3g}, delta {delta:.2g}"
    )


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
