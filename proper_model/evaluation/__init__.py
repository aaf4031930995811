"""LaMP's metrics, intervals over users, and an exact test for few items."""

from proper_model.evaluation.intervals import (
    Difference, Level, RESAMPLES, bootstrap, holm, paired_bootstrap, summarize, user_values,
)
from proper_model.evaluation.metrics import (
    CORPUS_METRICS, LOWER_IS_BETTER, Prediction, Scored, is_unusable, score, share_changed,
)
from proper_model.evaluation.randomization import swap_probability

__all__ = [
    "CORPUS_METRICS", "Difference", "LOWER_IS_BETTER", "Level", "Prediction", "RESAMPLES", "Scored",
    "bootstrap", "holm", "is_unusable", "paired_bootstrap", "score", "share_changed", "summarize",
    "swap_probability", "user_values",
]
