"""Settings of how much one pooled user may move what all share, against users who mean harm.

The table `[robust]` of a profile; without it every sample counts alike and nothing of this is read
(docs/method.md 1.4).
"""

from __future__ import annotations

from dataclasses import dataclass

from proper_model.settings.presets import check

MOST_MEDIANS = 1e3


@dataclass(frozen=True)
class RobustSettings:
    """A step of stages 1, 2 and 3b takes a mean over users, each counted once and bounded.

    Attributes:
        clip: a user's whole gradient is at most so many times as long as the median of the step's
            users; 0: as long as it is.
        trim: of every trained number the share of users that is left out at either end.
    """

    clip: float = 0.0
    trim: float = 0.0

    def __post_init__(self) -> None:
        check(
            0 <= self.clip <= MOST_MEDIANS,
            f"robust.clip must be 0 to {MOST_MEDIANS:g}, got {self.clip}",
        )
        check(
            0 <= self.trim < 0.5, f"robust.trim must be at least 0 and below 0.5, got {self.trim}"
        )
