"""Metrics under names that a person who is no researcher can read."""

from __future__ import annotations

NAMES = {
    "accuracy": "right answers",
    "f1_macro": "F1, all labels alike",
    "mae": "mean error",
    "mae_expected": "mean error of the expected score",
    "rmse": "root mean square error",
    "rouge1": "shared words (ROUGE-1)",
    "rougeL": "shared word order (ROUGE-L)",
    "nll": "loss a token",
    "parse_failure_rate": "unreadable answers",
}


def metric_name(metric: str) -> str:
    """The plain name, or the metric's own."""
    return NAMES.get(metric, metric)
