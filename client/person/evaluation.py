"""What personalization brought one person, on items that the training did not see.

The adapter in the vault was trained on all items, so it cannot judge itself. A second one is trained
on the older items only and asked about the newest ones, beside the population's and the group's
model. Nothing of it is stored. The embedding belongs to all tasks, so the other tasks' items are cut
at the same time. Items are the unit of the test: one person is asked many questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.person import adapting
from client.person.answering import Personal
from client.person.arms import prediction_of
from client.person.learner import Learner
from client.person.state import PersonalState
from proper_model.data import date_key
from proper_model.errors import DataError
from proper_model.evaluation import (
    LOWER_IS_BETTER,
    Scored,
    is_unusable,
    score,
    summarize,
    swap_probability,
)
from proper_model.tasks import Example, HistoryItem, Query, Task, User, counted

TESTED_SHARE = 0.2  # of the items, the newest ones
LEAST_TESTED = 2
# Fewer than six items can show nothing, so that of a short history up to a third is tested.
WORTH_TESTING, MOST_TESTED_SHARE = 8, 1 / 3
LIKELY_CHANCE = 0.05
LOSS = "nll"
TELLING = 32  # characters of a field that two items do not share by accident


@dataclass(frozen=True)
class Gain:
    """The highest stage minus stage 1, and how likely chance alone gives as much (`proper_model.evaluation.swap_test`)."""

    delta: float
    p: float


@dataclass(frozen=True)
class Evaluation:
    """Scores by stage on the newest items, and the highest stage minus stage 1.

    Attributes:
        trained, tested: numbers of items.
        scores: by stage, then by metric.
        gains: by metric, the task's own first.
        unusable: by stage, the share of answers that are empty, or none of the labels.
    """

    trained: int
    tested: int
    scores: Mapping[str, Mapping[str, float]]
    gains: Mapping[str, Gain]
    unusable: Mapping[str, float] = field(default_factory=dict)

    def verdict(self) -> str:
        """What a person may conclude, in plain words."""
        told = f"your {counted(self.tested, 'newest item')}"
        least = 2 / 2**self.tested  # the smallest probability that so few items can have
        if least > LIKELY_CHANCE:
            return (
                f"Too little to say whether personalization helps: {told} cannot show it either "
                "way. Six or more can."
            )
        first = next(iter(self.gains))
        sign = self._sign(first)
        if sign and first == LOSS:
            return f"It expects what you wrote in {told} {'more' if sign > 0 else 'less'}."
        if sign > 0:
            return f"Personalization helps: its answers to {told} are better."
        if sign < 0:
            return (
                f"Personalization hurts: its answers to {told} are worse. "
                "Use --stage 2, or adapt again when there are more items."
            )
        likely = self._sign(LOSS) if LOSS in self.gains and first != LOSS else 0
        words = {1: "; it does expect what you wrote more", -1: "; it expects what you wrote less"}
        return (
            f"No difference in the answers to {told} can be shown: what was measured may be chance"
            f"{words.get(likely, '')}."
        )

    def _sign(self, metric: str) -> int:
        """1 where the highest stage is better, -1 where it is worse, 0 where that may be chance."""
        gain = self.gains[metric]
        if not gain.p < LIKELY_CHANCE:
            return 0
        better = gain.delta < 0 if metric in LOWER_IS_BETTER else gain.delta > 0
        return 1 if better else -1


@dataclass(frozen=True)
class Cut:
    """What is trained on, and the newest items of the task, which are asked about."""

    histories: adapting.Histories
    newest: tuple[HistoryItem, ...]


def cut(learner: Learner, state: PersonalState, name: str) -> Cut:
    """All histories without the newest items of a task.

    Raises DataError if there are too few items to hold some back.
    """
    task_state = state.tasks[name]
    task, items = task_state.task(), task_state.items
    least = learner.settings.user.min_items_to_train
    tested = count_tested(len(items))
    if len(items) - tested < least:
        raise DataError(
            f"{len(items)} items are too few to hold some back: training needs {least}, judging "
            f"{LEAST_TESTED}",
            hint="come back with more items; proper generate --stage 1|2 compares by eye",
        )
    older, newest = items[: len(items) - tested], items[len(items) - tested :]
    histories = {
        other: (task_of, before(own, newest))
        for other, (task_of, own) in adapting.histories_of(state).items()
        if other != name
    }
    return Cut({**histories, name: (task, older)}, newest)


def evaluate(
    learner: Learner, state: PersonalState, name: str, parts: Cut | None = None
) -> Evaluation:
    """Train without the newest items of a task and ask about them, at every stage.

    Args:
        parts: as `cut` gives them, where they are known already.

    Raises as `cut`.
    """
    parts = parts or cut(learner, state, name)
    task, older = parts.histories[name]
    newest = parts.newest
    trained = adapting.adapt(learner, state, parts.histories)
    mine = Personal.of(learner.release, trained, name)
    scored, unusable = {}, {}
    for stage in mine.stages:
        learner.begin(f"stage {stage}")
        scored[stage], unusable[stage] = _score(task, newest, mine, stage)
    return Evaluation(
        trained=len(older),
        tested=len(newest),
        scores={
            stage: {metric: summarize(one, metric).mean for metric in one.metrics}
            for stage, one in scored.items()
        },
        gains={metric: _gain(scored, metric) for metric in scored["1"].metrics},
        unusable=unusable,
    )


def count_tested(items: int) -> int:
    """How many of so many items are asked about: a fifth, of a short history up to a third."""
    few = min(WORTH_TESTING, int(MOST_TESTED_SHARE * items))
    return max(LEAST_TESTED, round(TESTED_SHARE * items), few)


def before(items: Sequence[HistoryItem], tested: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
    """Another task's items as they were before the tested ones were written.

    By date where all have one, else without the newest fifth; never an item that stands for a
    tested one under the other task: of the same id, or with a long field in common.
    """
    dates = [date_key(item.date or "") for item in (*items, *tested)]
    if all(dates):
        first = min(key for key in dates[len(items) :] if key is not None)
        earlier = [
            i for i, key in zip(items, dates, strict=False) if key is not None and key < first
        ]
    else:
        earlier = list(items[: len(items) - round(TESTED_SHARE * len(items))])
    ids = {item.id for item in tested}
    texts = {text for item in tested for text in item.fields.values() if len(text) >= TELLING}
    return tuple(i for i in earlier if i.id not in ids and texts.isdisjoint(i.fields.values()))


def _gain(scored: Mapping[str, Scored], metric: str) -> Gain:
    highest, first = scored[max(scored)], scored["1"]
    return Gain(
        delta=summarize(highest, metric).mean - summarize(first, metric).mean,
        p=swap_probability(highest, first, metric, seed=0),
    )


def _score(
    task: Task, items: tuple[HistoryItem, ...], mine: Personal, stage: str
) -> tuple[Scored, float]:
    """Answers to the items as a table with one made-up user an item, so that items are resampled.

    And the share of them that is unusable.
    """
    examples = [task.history_example(item) for item in items]
    task = scorable(task, examples)
    users = [
        User(str(place), (), (Query(example.id, "", example.answer),))
        for place, example in enumerate(examples)
    ]
    answers = mine.judge(items, stage=stage)
    predictions = [
        prediction_of(user.user_id, user.queries[0].id, answer)
        for user, answer in zip(users, answers, strict=True)
    ]
    unusable = sum(is_unusable(one.output, task.labels or ()) for one in predictions)
    return score(task, users, predictions), unusable / len(predictions)


def scorable(task: Task, examples: Sequence[Example]) -> Task:
    """The task under which history items can be scored as questions: by loss alone where answers
    are no labels, because the history asks something else, or because prompts list the labels.
    """
    labels = set(task.labels or ())
    if task.kind == "generation" or all(e.answer.strip() in labels for e in examples):
        return task
    return dataclasses.replace(task, kind="generation", labels=None, metrics=(LOSS,))
