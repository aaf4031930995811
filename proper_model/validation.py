"""What is in a data folder and what is wrong with it, without stopping at the first fault.

The same readers as for a run walk the files with a collecting report. Nothing here quotes user
text: counts, lengths, labels from the task's list, and problems by file, record and field.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proper_model.errors import DataError
from proper_model.lamp_raw import read_lamp
from proper_model.readers import (
    FileSet,
    find_files,
    iter_users,
    label_file_of,
    read_golds,
    read_profiles,
)
from proper_model.records import Place, Problem, Query, Report, User
from proper_model.tasks import Task, short_id

_PLACED = re.compile(r"(?P<file>[^:]*?)(, record (?P<record>\d+))?: (?P<message>.*)", re.DOTALL)


@dataclass(frozen=True)
class Lengths:
    """Smallest, median and largest of a list of counts; all 0 if it is empty."""

    low: int
    median: int
    high: int


@dataclass(frozen=True)
class GroupSummary:
    """The pooled or the test users.

    Attributes:
        items, queries: totals over users.
        items_a_user, queries_a_user: their spread over users.
        question_words, answer_words: whitespace words of a prompt under the task's template, and
            of a gold answer.
        gold_labels, history_labels: how often each of the task's labels is the answer.
    """

    users: int
    items: int
    queries: int
    items_a_user: Lengths
    queries_a_user: Lengths
    question_words: Lengths
    answer_words: Lengths
    gold_labels: Mapping[str, int]
    history_labels: Mapping[str, int]


@dataclass(frozen=True)
class ValidationReport:
    """The result of `validate`. `problems` is cut; `errors` and `warnings` count them all."""

    name: str
    task: str
    template: str
    form: str
    pooled: GroupSummary
    test: GroupSummary
    errors: int
    warnings: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """True if a run would read these data."""
        return self.errors == 0


class _Summary:
    """Collects one group of users as they stream by; keeps numbers and ids, no text."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.items: list[int] = []
        self.queries: list[int] = []
        self.question_words: list[int] = []
        self.answer_words: list[int] = []
        self.gold_labels: Counter[str] = Counter()
        self.history_labels: Counter[str] = Counter()
        self.foreign_history_labels = 0
        self.unmarked = 0
        self.leaked = 0
        self.without_history = 0
        self.user_ids: set[str] = set()
        self.query_ids: Counter[str] = Counter()

    def add(self, user: User) -> None:
        self.user_ids.add(user.user_id)
        self.items.append(len(user.history))
        self.queries.append(len(user.queries))
        self.without_history += not user.history
        texts = {text for item in user.history for text in item.fields.values()}
        for query in user.queries:
            self._add_query(query, texts)
        field = self.task.answer_field
        if field is not None and self.task.labels is not None:
            for item in user.history:
                label = item.fields[field].strip()
                if label in self.task.labels:
                    self.history_labels[label] += 1
                else:
                    self.foreign_history_labels += 1

    def _add_query(self, query: Query, texts: set[str]) -> None:
        self.query_ids[query.id] += 1
        parts = self.task.query_text(query)
        self.unmarked += parts is None
        self.leaked += parts is not None and any(t.strip() and t in texts for t in parts.values())
        example = self.task.query_example(query)
        self.question_words.append(len(example.prompt.split()))
        self.answer_words.append(len(example.answer.split()))
        gold = query.gold.strip()
        if self.task.labels is not None and gold in self.task.labels:
            self.gold_labels[gold] += 1

    def warn(self, name: str, report: Report) -> None:
        """Report what is odd about the group as a whole."""
        place = Place(name)
        total = sum(self.queries)
        repeated = sum(count > 1 for count in self.query_ids.values())
        for count, message in (
            (self.without_history, "users have no history; they get the population model"),
            (self.queries.count(0), "users have no query; they cannot be scored"),
            (self.foreign_history_labels, "history answers are not among the task's labels"),
            (repeated, "query ids occur with more than one user"),
            (self.leaked, f"of {total} queries ask about a text of the user's own history"),
            (
                self.unmarked,
                f"of {total} queries are not worded as the task file says; asked as they stand",
            ),
        ):
            if count:
                report.warn(place, f"{count} {message}")

    def result(self) -> GroupSummary:
        labels = self.task.labels or ()
        return GroupSummary(
            users=len(self.items),
            items=sum(self.items),
            queries=sum(self.queries),
            items_a_user=_lengths(self.items),
            queries_a_user=_lengths(self.queries),
            question_words=_lengths(self.question_words),
            answer_words=_lengths(self.answer_words),
            gold_labels={label: self.gold_labels[label] for label in labels},
            history_labels={label: self.history_labels[label] for label in labels},
        )


def validate(path: Path, task: Task) -> ValidationReport:
    """Read everything at `path` and report counts and problems.

    Raises DataError only if `path` holds no recognizable file set.
    """
    files = find_files(path)
    report = Report(strict=False)
    pooled, test = _Summary(task), _Summary(task)
    if files.form == "lamp":
        try:
            pooled_users, test_users = read_lamp(files, task, report)
        except DataError as error:
            _broken(error, report)
            pooled_users, test_users = (), ()
        for group, users in ((pooled, pooled_users), (test, test_users)):
            for user in users:
                group.add(user)
            group.warn(path.name, report)
    else:
        _validate_oppu(files, task, report, pooled, test)
    return ValidationReport(
        name=path.name,
        task=task.name,
        template=task.template,
        form=files.form,
        pooled=pooled.result(),
        test=test.result(),
        errors=report.errors,
        warnings=report.warnings,
        problems=tuple(report.problems),
    )


def _validate_oppu(
    files: FileSet, task: Task, report: Report, pooled: _Summary, test: _Summary
) -> None:
    ids: dict[str, list[str]] = {}
    for path, group, kind in ((files.pooled, pooled, "pooled"), (files.test, test, "test")):
        if path is None:
            if files.folder is not None:
                report.warn(Place(files.folder.name), f"there is no file of {kind} users")
            continue
        for user in _until_broken(path, task, report, files):
            if group is test and user.user_id in pooled.user_ids:
                report.error(Place(path.name), f"{short_id(user.user_id)} is a pooled user as well")
            group.add(user)
            ids.setdefault(path.name, []).append(user.user_id)
        group.warn(path.name, report)
    for label_file in files.labels:
        if label_file != label_file_of(files):  # that one was read with its users
            _guarded(partial(read_golds, label_file, task, report), report)
    for profile in files.profiles:
        owner = files.pooled if profile.name == "profile_user_others.json" else files.test
        if owner is not None:
            _guarded(partial(read_profiles, profile, ids.get(owner.name, []), report), report)


def _until_broken(path: Path, task: Task, report: Report, files: FileSet) -> Iterator[User]:
    """Users of a file up to where it stops being JSON, which becomes a problem."""
    labels = label_file_of(files) if path == files.test else None
    try:
        yield from iter_users(path, task, report, labels=labels)
    except DataError as error:
        _broken(error, report)


def _guarded(read: Callable[[], object], report: Report) -> None:
    try:
        read()
    except DataError as error:
        _broken(error, report)


def _broken(error: DataError, report: Report) -> None:
    match = _PLACED.fullmatch(error.message)
    assert match is not None, "readers put the file first"
    record = int(match["record"]) if match["record"] else None
    report.error(Place(match["file"], record), match["message"])


def _lengths(counts: Sequence[int]) -> Lengths:
    ordered = sorted(counts)
    if not ordered:
        return Lengths(0, 0, 0)
    return Lengths(ordered[0], ordered[len(ordered) // 2], ordered[-1])
