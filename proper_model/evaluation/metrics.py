"""Scores per query, exactly as LaMP computes them (docs/method.md 4.3).

Strict reading, the default, strips the output and does nothing else: `[1].` or `5 stars` is wrong.
Lenient reading takes the first label or number in the first line. A label outside the query's
list has index -1: wrong in accuracy, a miss for its true class in F1, a false hit in none.

Per query: accuracy and parse_failure_rate are 0 or 1; mae and mae_expected absolute errors; rmse
the squared error; rouge1 and rougeL F-measures of Google's rouge-score with its defaults (no stemmer,
lower case, everything but a-z and 0-9 separates tokens); nll the summed loss of the answer (end of
sequence included) divided by its tokens, in nats, so that the query-level mean gives every query
the same weight whatever its length. f1_macro exists for a set of queries only; `intervals` computes
it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proper_model.errors import MetricError
from proper_model.tasks.records import Query, User
from proper_model.tasks.task import Task, short_id

LOWER_IS_BETTER = frozenset({"mae", "mae_expected", "rmse", "nll", "parse_failure_rate"})
CORPUS_METRICS = frozenset({"f1_macro"})
UNKNOWN = -1
LARGEST_RATING = math.sqrt((2 - 2**-23) * 2**127)  # its square is the largest 32-bit float
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Prediction:
    """One answer of a model.

    Attributes:
        nll: summed loss over the gold answer's tokens and the end of sequence, nats.
        answer_tokens: how many tokens that sum runs over.
        expected: expected score over the label distribution, ordinal tasks only.
    """

    user_id: str
    query_id: str
    output: str
    nll: float
    answer_tokens: int
    expected: float | None = None


@dataclass(frozen=True)
class Scored:
    """A table with one row a query, in the order of users and their queries.

    Attributes:
        values: metric name to one value a row; f1_macro has none, it needs the two index columns.
        classes: all labels that any query lists; empty for generation.
        gold, predicted: class index a row, `UNKNOWN` for an output that names no listed label.
        non_finite_outputs: rows whose rating is nan, infinite, or has no finite square in the 32-bit
            numbers of LaMP's evaluator (1e39 is infinite there); they poison mae and rmse.
    """

    task: str
    metrics: tuple[str, ...]
    user_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    classes: tuple[str, ...]
    gold: tuple[int, ...]
    predicted: tuple[int, ...]
    non_finite_outputs: int
    lenient: bool


def score(
    task: Task,
    users: Sequence[User],
    predictions: Sequence[Prediction],
    *,
    lenient: bool = False,
) -> Scored:
    """Score one prediction for every query of `users`.

    mae_expected is left out where no prediction has an expected score.

    Raises MetricError unless every query is predicted exactly once and nothing else is, or if a
    loss is not finite.
    """
    rows = _match(users, predictions)
    metrics = tuple(m for m in task.metrics if m != "mae_expected" or _has_expected(rows))
    classes: dict[str, int] = {}
    gold, predicted, ratings = [], [], []
    for _, query, prediction in rows:
        labels = task.labels_for(query)
        for label in labels:
            classes.setdefault(label, len(classes))
        if labels:
            if query.gold.strip() not in labels:
                raise MetricError(f"query {short_id(query.id)}: the gold answer is not a label")
            gold.append(classes[query.gold.strip()])
            named = read_label(prediction.output, labels, task.kind, lenient=lenient)
            predicted.append(UNKNOWN if named is None else classes[named])
        if task.kind == "ordinal":
            ratings.append(read_rating(prediction.output, query.gold, labels, lenient=lenient))
    table = _Table(rows, gold, predicted, ratings)
    return Scored(
        task=task.name,
        metrics=metrics,
        user_ids=tuple(user.user_id for user, _, _ in rows),
        query_ids=tuple(query.id for _, query, _ in rows),
        values={m: tuple(_COLUMNS[m](table)) for m in metrics if m not in CORPUS_METRICS},
        classes=tuple(classes),
        gold=tuple(gold),
        predicted=tuple(predicted),
        non_finite_outputs=sum(not abs(rating) <= LARGEST_RATING for rating in ratings),
        lenient=lenient,
    )


def is_unusable(output: str, labels: Sequence[str]) -> bool:
    """Whether an answer says nothing: it is empty, or none of the labels where there are some."""
    return not output.strip() or (bool(labels) and read_label(output, labels) is None)


def read_label(
    output: str, labels: Sequence[str], kind: str = "classification", *, lenient: bool = False
) -> str | None:
    """The label an output names, None if it names none of `labels`."""
    text = output.strip()
    if not lenient:
        return text if text in labels else None
    line = _first_line(text)
    if kind == "ordinal":
        number = _NUMBER.search(line)
        value = float(number[0]) if number else math.nan
        return next((label for label in labels if float(label) == value), None)
    match = _label_pattern(tuple(labels)).search(line)
    return next((x for x in labels if match and x.lower() == match[0].lower()), None)


def read_rating(output: str, gold: str, labels: Sequence[str], *, lenient: bool = False) -> float:
    """The rating an output gives; unreadable ones count as the extreme farther from gold.

    LaMP's rule, strict: whatever Python's float() accepts, so `45` is 45 and `nan` is nan. A gold
    in the middle of the scale is farther from the upper end.
    """
    scale = [float(label) for label in labels]
    low, high = min(scale), max(scale)
    text = output.strip()
    if lenient:
        number = _NUMBER.search(_first_line(text))
        text = number[0] if number else ""
    try:
        return float(text)
    except ValueError:
        return low if float(gold) > (low + high) / 2 else high


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


def rouge(kind: str, gold: str, output: str) -> float:
    """F-measure of `rouge1` (unigrams) or `rougeL` (longest common subsequence).

    0 if either text has no token.
    """
    return float(_rouge_scorer().score(gold, output)[kind].fmeasure)


def share_changed(a: Sequence[Prediction], b: Sequence[Prediction]) -> float:
    """Share of queries that two arms answer differently, after stripping.

    Raises MetricError unless both answer the same queries, each exactly once.
    """
    left, right = ({(p.user_id, p.query_id): p.output.strip() for p in side} for side in (a, b))
    if left.keys() != right.keys() or not len(left) == len(a) == len(b) or not left:
        raise MetricError("the two arms do not answer the same queries exactly once")
    return sum(left[key] != right[key] for key in left) / len(left)


_Row = tuple[User, Query, Prediction]


@dataclass(frozen=True)
class _Table:
    rows: Sequence[_Row]
    gold: Sequence[int]
    predicted: Sequence[int]
    ratings: Sequence[float]

    def errors(self) -> list[float]:
        return [
            abs(rating - float(query.gold))
            for rating, (_, query, _) in zip(self.ratings, self.rows, strict=True)
        ]


def _expected_errors(table: _Table) -> list[float]:
    errors = []
    for _, query, prediction in table.rows:
        if prediction.expected is None or not math.isfinite(prediction.expected):
            raise MetricError(f"query {short_id(query.id)}: no finite expected score")
        errors.append(abs(prediction.expected - float(query.gold)))
    return errors


def _losses(table: _Table) -> list[float]:
    losses = []
    for _, query, prediction in table.rows:
        if prediction.answer_tokens < 1 or not math.isfinite(prediction.nll):
            raise MetricError(
                f"query {short_id(query.id)}: the loss is not finite or covers no token",
                hint="training diverged, or the prediction file is damaged",
            )
        losses.append(prediction.nll / prediction.answer_tokens)
    return losses


_COLUMNS: Mapping[str, Callable[[_Table], list[float]]] = {
    "accuracy": lambda t: [float(g == p) for g, p in zip(t.gold, t.predicted, strict=True)],
    "parse_failure_rate": lambda t: [float(p == UNKNOWN) for p in t.predicted],
    "mae": _Table.errors,
    "rmse": lambda t: [error * error for error in t.errors()],  # ** raises where this is inf
    "mae_expected": _expected_errors,
    "rouge1": lambda t: [rouge("rouge1", q.gold, p.output) for _, q, p in t.rows],
    "rougeL": lambda t: [rouge("rougeL", q.gold, p.output) for _, q, p in t.rows],
    "nll": _losses,
}


def _match(users: Sequence[User], predictions: Sequence[Prediction]) -> list[_Row]:
    """Pair queries with predictions. Raises MetricError unless the id sets are equal."""
    by_id: dict[tuple[str, str], Prediction] = {}
    for prediction in predictions:
        key = (prediction.user_id, prediction.query_id)
        if key in by_id:
            raise MetricError(f"query {short_id(prediction.query_id)} is predicted twice")
        by_id[key] = prediction
    rows: list[_Row] = []
    missing = []
    for user in users:
        for query in user.queries:
            found = by_id.pop((user.user_id, query.id), None)
            if found is None:
                missing.append(query.id)
            else:
                rows.append((user, query, found))
    if missing or by_id:
        first = missing[0] if missing else next(iter(by_id))[1]
        raise MetricError(
            f"{len(missing)} queries have no prediction and {len(by_id)} predictions have no "
            f"query or repeat one, the first is {short_id(first)}",
            hint="score the users that were predicted, all of them",
        )
    if not rows:
        raise MetricError("there is no query to score")
    return rows


def _has_expected(rows: Sequence[_Row]) -> bool:
    return any(prediction.expected is not None for _, _, prediction in rows)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


@functools.lru_cache(maxsize=64)
def _label_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first: of labels that start at one place, `sci-fi` must not hide `sci-fi comedy`.
    longest = sorted(labels, key=len, reverse=True)
    joined = "|".join(re.escape(label) for label in longest)
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)
