"""One user's query answered by population, group and user level, for the report.

This is the only place where text of a person can enter a report. Synthetic people have none to
hide; for real data the caller asks the reader first (`--show-examples`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proper_model.evaluation import Prediction
    from proper_model.tasks import Task, User

LEVELS = {"stage1": "population", "stage2": "group", "stage3": "user"}


@dataclass(frozen=True)
class Step:
    level: str
    arm: str
    output: str
    right: bool


@dataclass(frozen=True)
class Example:
    prompt: str
    gold: str
    steps: tuple[Step, ...]
    note: str = ""


def choose_example(
    task: Task, users: Sequence[User], predictions: Mapping[str, Sequence[Prediction]], *, note: str
) -> Example | None:
    """The query that shows the levels best: right only for the user, different on the way.

    Ties go to the first query in the users' order, so the choice is the same every time.
    Returns None unless both the first and the last level were run.
    """
    arms = [arm for arm in LEVELS if arm in predictions]
    if "stage1" not in arms or "stage3" not in arms:
        return None
    by_id = {arm: {(p.user_id, p.query_id): p for p in predictions[arm]} for arm in arms}
    best: tuple[tuple[int, int, float], Example] | None = None
    for user in users:
        for query in user.queries:
            answers = [by_id[arm].get((user.user_id, query.id)) for arm in arms]
            found = [answer for answer in answers if answer is not None]
            if len(found) < len(arms):
                continue
            steps = tuple(
                Step(LEVELS[arm], arm, p.output.strip(), p.output.strip() == query.gold.strip())
                for arm, p in zip(arms, found, strict=True)
            )
            gained = int(steps[-1].right) - int(steps[0].right)
            distinct = len({step.output for step in steps})
            rank = (gained, distinct, found[0].nll - found[-1].nll)
            if best is None or rank > best[0]:
                prompt = task.query_example(query).prompt
                best = (rank, Example(prompt, query.gold, steps, note))
    return None if best is None else best[1]
