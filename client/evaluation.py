"""What personalization brought one person, on items that the training did not see.

The adapter in the vault was trained on all items, so it cannot judge itself. A second one is trained
on the older items only and asked about the newest ones, beside the population's and the group's
model. Nothing of it is stored. Items are the unit of the intervals: one person is asked many
questions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client import personal
from client.answering import Personal
from client.learning import Learner
from client.personal_state import PersonalState
from proper_model.errors import DataError
from proper_model.metrics import LOWER_IS_BETTER, Prediction, Scored, score
from proper_model.records import HistoryItem, Query, User
from proper_model.statistics import Difference, paired_bootstrap, summarize
from proper_model.tasks import Example, Task

TESTED_SHARE = 0.2  # of the items, the newest ones
LEAST_TESTED = 2
RESAMPLES = 2000
LOSS = "nll"


@dataclass(frozen=True)
class Evaluation:
    """Scores by stage on the newest items, and the highest stage minus stage 1.

    Attributes:
        trained, tested: numbers of items.
        scores: by stage, then by metric.
        gains: by metric; intervals over items.
    """

    trained: int
    tested: int
    scores: Mapping[str, Mapping[str, float]]
    gains: Mapping[str, Difference]

    def verdict(self) -> str:
        """What a person may conclude, in plain words."""
        if not self.gains:
            return (
                "There are too few items to train anything private, so there is nothing to judge."
            )
        told = f"your {self.tested} newest items"
        answers = self._sign(next(iter(self.gains)))
        if answers is None:
            return f"Too little to say whether personalization helps: {told} are all there is."
        if answers > 0:
            return f"Personalization helps: its answers to {told} are better."
        if answers < 0:
            return (
                f"Personalization hurts: its answers to {told} are worse. "
                "Use --stage 2, or adapt again when there are more items."
            )
        likely = self._sign(LOSS) if LOSS in self.gains else 0
        words = {1: "; it does expect what you wrote more", -1: "; it expects what you wrote less"}
        return (
            f"No difference in the answers to {told} can be shown: what was measured may be chance"
            f"{words.get(likely or 0, '')}."
        )

    def _sign(self, metric: str) -> int | None:
        """1 or -1 where the interval lies on the better or worse side of zero, 0 where on neither."""
        gain = self.gains[metric]
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        low, high = sorted((sign * gain.low, sign * gain.high))
        if not math.isfinite(low):
            return None
        return 1 if low > 0 else -1 if high < 0 else 0


def evaluate(learner: Learner, state: PersonalState, name: str) -> Evaluation:
    """Train without the newest fifth of a task's items and ask about them, at every stage.

    Raises DataError if there are too few items to hold some back.
    """
    task_state = state.tasks[name]
    task, items = task_state.task(), task_state.items
    least = learner.settings.user.min_items_to_train
    tested = max(LEAST_TESTED, round(TESTED_SHARE * len(items)))
    if len(items) - tested < least:
        raise DataError(
            f"{len(items)} items are too few to hold some back: training needs {least}, judging "
            f"{LEAST_TESTED}",
            hint="come back with more items; proper generate --stage 1|2 compares by eye",
        )
    older, newest = items[: len(items) - tested], items[len(items) - tested :]
    histories = personal.histories_of(state)
    trained = personal.adapt(learner, state, {**histories, name: (task, older)})
    mine = Personal.of(learner.release, trained, name)
    scored = {}
    for stage in mine.stages:
        learner.begin(f"stage {stage}")
        scored[stage] = _score(task, newest, mine, stage)
    return Evaluation(
        trained=len(older),
        tested=len(newest),
        scores={
            stage: {metric: summarize(one, metric).mean for metric in one.metrics}
            for stage, one in scored.items()
        },
        gains={
            metric: paired_bootstrap(
                scored[max(scored)],
                scored["1"],
                metric,
                level="query",
                seed=0,
                resamples=RESAMPLES,
            )
            for metric in scored["1"].metrics
        }
        if max(scored) != "1"
        else {},
    )


def _score(task: Task, items: tuple[HistoryItem, ...], mine: Personal, stage: str) -> Scored:
    """Answers to the items as a table with one made-up user an item, so that items are resampled."""
    examples = [task.history_example(item) for item in items]
    task = scorable(task, examples)
    users = [
        User(str(place), (), (Query(example.id, "", example.answer),))
        for place, example in enumerate(examples)
    ]
    answers = mine.judge(items, stage=stage)
    predictions = [
        Prediction(
            user_id=user.user_id,
            query_id=user.queries[0].id,
            output=answer.output,
            nll=answer.nll,
            answer_tokens=answer.answer_tokens,
            expected=answer.expected,
        )
        for user, answer in zip(users, answers, strict=True)
    ]
    return score(task, users, predictions)


def scorable(task: Task, examples: Sequence[Example]) -> Task:
    """The task under which history items can be scored as questions: by loss alone where answers
    are no labels, because the history asks something else, or because prompts list the labels.
    """
    labels = set(task.labels or ())
    if task.kind == "generation" or all(e.answer.strip() in labels for e in examples):
        return task
    return dataclasses.replace(task, kind="generation", labels=None, metrics=(LOSS,))
