"""What users' models are asked: their queries, and history items that nobody has trained on.

Every row is answered under its own user's state, all users in shared passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.person.arms import ArmModel, predict, prediction_of, private_of, trained_items
from client.person.evaluation import scorable
from client.person.state import PersonalState
from proper_model.evaluation import Scored, score
from proper_model.release.contents import Release
from proper_model.tasks import Example, HistoryItem, Query, User

States = Mapping[str, PersonalState]
Items = Sequence[Sequence[HistoryItem]]


def score_queries(
    release: Release,
    users: Sequence[User],
    arm: str,
    states: States,
    *,
    memory_bytes: int | None = None,
) -> Scored:
    """The users' queries under an arm, by the task's metrics; `memory_bytes` as in `predict`."""
    answers = predict(release, users, arm, states, memory_bytes=memory_bytes)
    return score(release.task, users, answers)


def score_items(
    release: Release,
    users: Sequence[User],
    items: Items,
    arm: str,
    states: States,
    *,
    memory_bytes: int | None = None,
) -> Scored:
    """History items as questions, `items[u]` to user u, by the metrics that apply to them."""
    asked, rows = _as_queries(release, users, items)
    task = scorable(release.task, [example for _, example in rows])
    answers = ArmModel(release, task).answers(
        [(slot, example, Query(example.id, "", example.answer)) for slot, example in rows],
        arm,
        private_of(users, states, release.task),
        items=trained_items(users, states, release.task),
        memory_bytes=memory_bytes,
    )
    predictions = [
        prediction_of(users[slot].user_id, example.id, answer)
        for (slot, example), answer in zip(rows, answers, strict=True)
    ]
    return score(task, asked, predictions)


def _as_queries(
    release: Release, users: Sequence[User], items: Items
) -> tuple[list[User], list[tuple[int, Example]]]:
    """The users with items in place of their queries, and (slot, example) of every item."""
    asked, rows = [], []
    for slot, (user, own) in enumerate(zip(users, items, strict=True)):
        examples = [release.task.history_example(item) for item in own]
        queries = tuple(Query(example.id, "", example.answer) for example in examples)
        asked.append(User(user.user_id, (), queries))
        rows += [(slot, example) for example in examples]
    return asked, rows
