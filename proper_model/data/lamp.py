"""Raw LaMP files to users (docs/method.md 4.1): one record is a question that carries a whole profile.

A user may have several questions, each with the profile that was legal at its time. The user's
history is what all of these profiles share, so that no question finds its own future, or another
question's answer, in the history. Item ids are made from question ids in LaMP, so items are
compared by content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proper_model.data.file_sets import FileSet, read_golds, read_records
from proper_model.data.parsing import identifier, parse_history, parse_query
from proper_model.progress import Progress
from proper_model.tasks.records import HistoryItem, Place, Query, Report, User
from proper_model.tasks.task import Task, short_id

# Where the files themselves do not say who is a test user: OPPU's rule, the most active ones.
MOST_ACTIVE = 100
MOST_ACTIVE_SHARE = 0.2


@dataclass
class _Growing:
    """A user while questions are being read."""

    history: tuple[HistoryItem, ...]
    queries: list[Query] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)


def read_lamp(
    files: FileSet, task: Task, report: Report, *, progress: Progress | None = None
) -> tuple[tuple[User, ...], tuple[User, ...]]:
    """Pooled and test users of a raw LaMP folder.

    Users whose questions are all outside `train` are test users (LaMP's user split). Where there
    are none (time split: the same users everywhere) the most active users are, at most
    `MOST_ACTIVE` and a fifth of all, as in OPPU. A split without outputs file is left out with a
    warning. Raises DataError as `iter_users` does.
    """
    assert files.folder is not None
    growing: dict[str, _Growing] = {}
    ids: set[str] = set()
    for split in files.splits:
        questions = files.folder / f"{split}_questions.json"
        outputs = files.folder / f"{split}_outputs.json"
        if not outputs.is_file():
            report.warn(Place(questions.name), f"left out: there is no {outputs.name}")
            continue
        golds = read_golds(outputs, task, report)
        records = read_records(questions, progress)
        _read_split(questions, records, golds, split, task, report, growing, ids)
        for query_id in sorted(golds.keys() - ids)[:1]:
            report.warn(Place(outputs.name), f"answers query {short_id(query_id)}, never asked")
    users = {
        user_id: User(user_id, grown.history, tuple(grown.queries))
        for user_id, grown in growing.items()
    }
    test_ids = {user_id for user_id, grown in growing.items() if "train" not in grown.splits}
    if not test_ids or len(test_ids) == len(users):
        test_ids = _most_active(tuple(users.values()))
        report.warn(
            Place(files.folder.name),
            f"these files name no test users; the {len(test_ids)} most active are taken",
        )
    pooled = tuple(user for user in users.values() if user.user_id not in test_ids)
    return pooled, tuple(user for user in users.values() if user.user_id in test_ids)


def _read_split(
    path: Path,
    records: Iterable[Any],
    golds: dict[str, str],
    split: str,
    task: Task,
    report: Report,
    growing: dict[str, _Growing],
    ids: set[str],
) -> None:
    warned = False
    index = -1
    for index, record in enumerate(records):
        place = Place(path.name, index)
        query = parse_query(record, task, place, report, golds=golds)
        if query is None:
            continue
        if query.id in ids:
            report.error(place.at("id"), f"query id {short_id(query.id)} occurs twice")
            continue
        ids.add(query.id)
        profile = record.get("profile")
        if not isinstance(profile, list):
            report.error(place.at("profile"), "expected a list")
            continue
        if "user_id" not in record and not warned:
            warned = True
            report.warn(place.at("user_id"), "missing: every question counts as its own user")
        user_id = identifier(record, "user_id", place, report) if "user_id" in record else query.id
        if user_id is None:
            continue
        history = parse_history(profile, task, place.at("profile"), report)
        known = growing.get(user_id)
        if known is None:
            growing[user_id] = _Growing(history, [query], {split})
        else:
            known.history = _shared(known.history, history)
            known.queries.append(query)
            known.splits.add(split)
    if index < 0:
        report.error(Place(path.name), "holds no questions")


def _shared(
    ours: tuple[HistoryItem, ...], theirs: tuple[HistoryItem, ...]
) -> tuple[HistoryItem, ...]:
    """Items of `ours` that `theirs` holds as well, each as often as both do."""
    left = Counter(_content(item) for item in theirs)
    kept = []
    for item in ours:
        key = _content(item)
        if left[key] > 0:
            left[key] -= 1
            kept.append(item)
    return tuple(kept)


def _content(item: HistoryItem) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    return item.date, tuple(sorted(item.fields.items()))


def _most_active(users: tuple[User, ...]) -> set[str]:
    count = min(MOST_ACTIVE, max(1, int(len(users) * MOST_ACTIVE_SHARE)))
    ranked = sorted(users, key=lambda user: (-len(user.history), user.user_id))
    return {user.user_id for user in ranked[:count]}
