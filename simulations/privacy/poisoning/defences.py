"""What is done against users who mean harm: other settings of the pooled stages, by name.

    items   nobody gives more than the median user does
    clip    no user's gradient is longer than the median of a step's users
    trim    the fifth of users at either end is left out, number by number
    both    clip and trim

`clip` and `trim` count everybody once a step (`proper_model.engine.robust_mean`). A defence that is another
setting of the pooled stages, such as clipping to a fixed norm with noise, is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from proper_model.settings import RobustSettings, StageSettings
from proper_model.tasks import User

NONE = "none"
CLIP, TRIM = 1.0, 0.2
Defence = Callable[[StageSettings, Sequence[User]], StageSettings]


def _as_it_is(settings: StageSettings, users: Sequence[User]) -> StageSettings:
    del users
    return settings


def _limited(settings: StageSettings, users: Sequence[User]) -> StageSettings:
    """Queries count, too: they come first where the cap binds."""
    given = [len(user.history) + len(user.queries) for user in users]
    cap = min(settings.group.max_items_per_user, int(np.median(given)))
    if cap >= max(given):
        return settings  # nobody is cut, so what is trained is the same
    return replace(settings, group=replace(settings.group, max_items_per_user=cap))


def _robust(clip: float, trim: float) -> Defence:
    def defence(settings: StageSettings, users: Sequence[User]) -> StageSettings:
        del users
        return replace(settings, robust=RobustSettings(clip, trim))

    return defence


DEFENCES: Mapping[str, Defence] = {
    NONE: _as_it_is,
    "items": _limited,
    "clip": _robust(CLIP, 0.0),
    "trim": _robust(0.0, TRIM),
    "both": _robust(CLIP, TRIM),
}
