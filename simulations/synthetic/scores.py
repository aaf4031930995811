"""Scores that need a synthetic population's truth: which level of the answers came out right.

Stage 1 can only be right on `pop`, stage 2 on `pop` and `group`, stage 3 on all. Source: docs/method.md 5.1
and 5.4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from proper_model.errors import MetricError
from proper_model.evaluation import Prediction


def level_accuracy(
    predictions: Sequence[Prediction],
    truth: Mapping[str, Any],
    *,
    users: Collection[str] | None = None,
) -> dict[str, float]:
    """Share of right answers by level, and `all`; `users` restricts whose predictions count.

    Raises:
        MetricError: a query the truth does not know, one answered twice, or no prediction at all.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, users):
        right = prediction.output.strip() == truth["gold"][prediction.query_id]
        outcomes[truth["level"][prediction.query_id]].append(right)
        outcomes["all"].append(right)
    return {level: sum(hits) / len(hits) for level, hits in sorted(outcomes.items())}


def user_accuracy(
    predictions: Sequence[Prediction], truth: Mapping[str, Any], level: str
) -> dict[str, float]:
    """User id to the share of right answers on the user's queries of one level.

    Raises MetricError as `level_accuracy` does.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, None):
        if truth["level"][prediction.query_id] == level:
            right = prediction.output.strip() == truth["gold"][prediction.query_id]
            outcomes[prediction.user_id].append(right)
    return {user: sum(hits) / len(hits) for user, hits in sorted(outcomes.items())}


def slot_accuracy(predictions: Sequence[Prediction], truth: Mapping[str, Any]) -> dict[str, float]:
    """For synth_text: share of the group's and of the user's own words that an answer contains.

    Raises MetricError as `level_accuracy` does, and if the truth has no slots.
    """
    found: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, None):
        slots = truth["detail"][prediction.query_id].get("slots")
        if slots is None:
            raise MetricError(f"slot accuracy does not apply to {truth['kind']}, only synth_text")
        words = set(prediction.output.split())
        for word, level in slots.items():
            found[level].append(word in words)
    return {level: sum(hits) / len(hits) for level, hits in sorted(found.items())}


def _known(
    predictions: Sequence[Prediction], truth: Mapping[str, Any], users: Collection[str] | None
) -> Iterator[Prediction]:
    chosen = [p for p in predictions if users is None or p.user_id in users]
    if not chosen:
        raise MetricError("no predictions to score against the truth")
    if len({p.query_id for p in chosen}) < len(chosen):
        raise MetricError("a query of the synthetic population was answered twice")
    for prediction in chosen:
        if prediction.query_id not in truth["level"]:
            raise MetricError("a predicted query is not part of this synthetic population")
        yield prediction
