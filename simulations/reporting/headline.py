"""The first thing a report says: what personalization brought, for how many people, or that it cannot be told.

One sentence of the personalized arm against the model that everybody gets, by the metric that people of the
task would ask for, with people weighing the same (docs/method.md 2.3). Nothing is called a gain or a harm
whose interval includes zero, nor with so few people that chance alone would serve all of them better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proper_model.evaluation import LOWER_IS_BETTER
from proper_model.settings import Stage2People
from proper_model.tasks import counted
from simulations.outcome.details import Details
from simulations.outcome.results import Contrast, MetricSummary, Results
from simulations.reporting.charts import Mark, People, Row, intervals
from simulations.reporting.figures import Figure, charted

Verdict = Literal["gain", "harm", "open", "same", "few"]

# By metric, the first that a run has: its name in words, what is better about a person's answers, what worse.
ASKED: Mapping[str, tuple[str, str, str]] = {
    "mae_expected": (
        "error of the expected rating, in steps of the scale",
        "closer to their own",
        "further from their own",
    ),
    "accuracy": ("the share of right answers", "more often right", "less often right"),
    "mae": ("error of the rating, in steps of the scale", "closer to their own", "further off"),
    "rougeL": (
        "the overlap with their own words",
        "closer to their own",
        "further from their own",
    ),
    "nll": (
        "loss of their own answers, nats a token",
        "nearer to what they would say",
        "further from what they would say",
    ),
}
ARMS: Mapping[str, str] = {
    "stage1": "the model everybody gets",
    "stage2-mean": "the experts for the average person",
    "stage2": "PROPER without a private adapter",
    "stage3": "PROPER",
    "oppu-mlp": "a private adapter alone",
    "stage3-shuffled": "PROPER with somebody else's private state",
}
PERSONAL, COMMON = ("stage3", "stage2", "oppu-mlp"), "stage1"
# All of n people gain or all lose by chance alone in 2 of 2**n trials: of five in one of 16, of six in one of
# 32, the first that a 95% interval may call found.
FEWEST_PEOPLE = 6


@dataclass(frozen=True)
class Headline:
    """What stands on the first screen of a run."""

    verdict: Verdict
    sentence: str
    terms: str
    further: tuple[str, ...]
    figure: Figure
    people: People | None


def asked_metric(results: Results) -> str | None:
    """The metric that people of this task would ask for; None where a run has none of them."""
    present = results.metric_names()
    return next((metric for metric in ASKED if metric in present), None)


def personal_gains(details: Details | None, a: str, b: str, metric: str) -> tuple[float, ...]:
    """What arm a is better than arm b for every person that both have, the greatest first."""
    if details is None or a not in details.arms or b not in details.arms:
        return ()
    left, right = (details.arms[arm].devices.get(metric, {}) for arm in (a, b))
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gains = (sign * (left[who] - right[who]) + 0.0 for who in left if who in right)
    return tuple(sorted(filter(math.isfinite, gains), reverse=True))


def headline(results: Results, details: Details | None, *, key: str) -> Headline | None:
    """The sentence with its terms and figure; None without a personalized arm beside the common one."""
    metric = asked_metric(results)
    if metric is None:
        return None
    arm = next((one for one in PERSONAL if _contrast(results, one, COMMON, metric)), None)
    row = None if arm is None else _contrast(results, arm, COMMON, metric)
    if arm is None or row is None:
        return None
    gains = personal_gains(details, arm, COMMON, metric)
    people = len(gains) or results.arms[arm].n_users  # gains: of those who have the metric
    verdict = _verdict(row, people)
    return Headline(
        verdict=verdict,
        sentence=_sentence(results, row, verdict, gains),
        terms=_terms(results, row, details),
        further=tuple(_further(results, arm, metric)),
        figure=_figure(results, row, key),
        people=People(gains, f"gain in {metric}") if gains else None,
    )


def _contrast(results: Results, a: str, b: str, metric: str) -> Contrast | None:
    """The comparison in which all people weigh the same."""
    for row in results.contrasts:
        if (row.a, row.b, row.metric, row.level) == (a, b, metric, "user"):
            return row if math.isfinite(row.delta) else None
    return None


def _verdict(row: Contrast, people: int) -> Verdict:
    if row.delta == row.low == row.high == 0:
        return "same"
    if people < FEWEST_PEOPLE:
        return "few"
    return {True: "gain", False: "harm", None: "open"}[row.improvement]  # type: ignore[return-value]


def _sentence(results: Results, row: Contrast, verdict: Verdict, gains: tuple[float, ...]) -> str:
    n = results.arms[row.a].n_users
    numbers = _numbers(results, row)
    if verdict == "same":
        # Other answers may be as good, so nothing is said of the answers themselves.
        everybody = "the one person" if n == 1 else f"these {n} people"
        return f"By this measure personalization changed nothing for {everybody}: {numbers}."
    claim = f"{_claim(row, verdict, gains, n)}: {numbers}"
    if verdict == "gain":
        return f"{claim[0].upper()}{claim[1:]}."
    if verdict == "harm":
        return f"Personalization did harm: {claim}."
    if verdict == "open":
        return (
            f"It cannot be told whether personalization brought anything: {claim}; "
            "the interval of the difference includes zero."
        )
    return f"Too few people to tell: {claim}; with fewer than {FEWEST_PEOPLE}, chance alone may do that."


def _claim(row: Contrast, verdict: Verdict, gains: tuple[float, ...], n: int) -> str:
    """For how many answers became better, or worse where that is found; without single people, the mean."""
    _, better, worse = ASKED[row.metric]
    answers, others = f"{ARMS[row.a]}'s answers were", f"those of {ARMS[row.b]}"
    if not gains:
        if row.delta == 0:
            return (
                f"over {counted(n, 'person', 'people')} {answers} in the mean as good as {others}"
            )
        gained = (row.delta > 0) != (row.metric in LOWER_IS_BETTER)
        word = better if gained else worse
        return f"over {counted(n, 'person', 'people')} {answers} in the mean {word} than {others}"
    won, lost = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
    (count, word), (rest, contrary) = ((won, better), (lost, worse))
    if verdict == "harm":
        (count, word), (rest, contrary) = ((lost, worse), (won, better))
    # A mean may go one way and most people the other: then both are told.
    more = f", for {rest} {contrary}" if rest >= count else ""
    return f"for {count} of {counted(len(gains), 'person', 'people')} {answers} {word}{more} than {others}"


def _numbers(results: Results, row: Contrast) -> str:
    before, after = (_mean(results, arm, row.metric) for arm in (row.b, row.a))
    name = {"rougeL": "ROUGE-L", "nll": "loss"}.get(row.metric, "error")
    name = "accuracy" if row.metric == "accuracy" else name
    return (
        f"{name} {before.user_mean:.3f} → {after.user_mean:.3f}, "
        f"{row.delta:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    )


def _mean(results: Results, arm: str, metric: str) -> MetricSummary:
    return results.arms[arm].metrics[metric]


def _terms(results: Results, row: Contrast, details: Details | None) -> str:
    arm, synthetic = results.arms[row.a], details is not None and details.levels is not None
    lower = "lower" if row.metric in LOWER_IS_BETTER else "higher"
    meant = ASKED[row.metric][0]
    # The label of the split says so (`Stage2People.said`).
    shown = str(Stage2People.EVERYBODY.said) in results.split
    seen = "whose histories stage 2 has seen" if shown else "whom no pooled stage has seen"
    return (
        f"Measured: {meant} ({row.metric}), {lower} is better. Set {results.task}, split "
        f"{results.split}, {arm.n_users} {'synthetic ' if synthetic else ''}people with {arm.n_queries} "
        f"questions in all, {seen}; arms {row.a} and {row.b}; means over people, in "
        f"brackets {results.confidence:.0%} intervals from a bootstrap that resamples people."
    )


def _further(results: Results, arm: str, metric: str) -> list[str]:
    """Whether a gain is personal, and what a private adapter alone would bring."""
    said = []
    row = _contrast(results, arm, "stage3-shuffled", metric)
    if row is not None and _verdict(row, results.arms[arm].n_users) != "few":
        other = _mean(results, row.b, metric).user_mean
        said.append(
            f"With somebody else's private state it comes to {other:.3f}, "
            + {
                True: "so what was learned fits its own person.",
                False: "better than with people's own.",
                None: "which cannot be told apart from people's own.",
            }[row.improvement]
        )
    row = _contrast(results, arm, "oppu-mlp", metric)
    if row is not None and _verdict(row, results.arms[arm].n_users) != "few":
        found = {True: "better", False: "worse", None: "not to be told apart"}[row.improvement]
        said.append(
            f"Against a private adapter alone, without what others taught: {row.delta:+.3f} "
            f"[{row.low:+.3f}, {row.high:+.3f}], {found}."
        )
    return said


def mean_rows(results: Results, metric: str, arms: list[str], marked: str | None) -> list[Row]:
    """A row an arm: its mean over people with the interval; `marked` stands out."""
    rows = []
    for arm in arms:
        found = results.arms[arm].metrics.get(metric)
        if found is None:
            continue
        by_person = math.isfinite(found.user_mean)
        value, low, high = (
            (found.user_mean, found.user_low, found.user_high)
            if by_person
            else (found.mean, found.low, found.high)
        )
        if not math.isfinite(value):
            continue
        said = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        name = f"{ARMS[arm]} ({arm})" if arm in ARMS else arm
        rows.append(Row(name, (Mark(value, low, high, said, "one" if arm == marked else "rest"),)))
    return rows


def _figure(results: Results, row: Contrast, key: str) -> Figure:
    rows = mean_rows(results, row.metric, [row.b, row.a], row.a)
    lower = "lower" if row.metric in LOWER_IS_BETTER else "higher"
    said = "; ".join(f"{one.label}: {one.marks[0].said}" for one in rows)
    n = results.arms[row.a].n_users
    note = f"Mean over {n} people with its {results.confidence:.0%} interval; unit: {row.metric}."
    chart = intervals(rows, f"{row.metric} ({lower} is better)")
    return charted(key, "What everybody gets, and what is one's own", said, chart, note)
