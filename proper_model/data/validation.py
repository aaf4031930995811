"""What is in a data folder and what is wrong with it, without stopping at the first fault.

The same readers as for a run walk the files with a collecting report. Nothing here quotes user
text: counts, lengths, labels from the task's list, and problems by file, record and field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proper_model.data.description import Collector, GroupSummary
from proper_model.data.file_sets import (
    FileSet,
    find_files,
    iter_users,
    label_file_of,
    read_golds,
    read_profiles,
)
from proper_model.data.lamp import read_lamp
from proper_model.data.splits import MIN_POOLED
from proper_model.errors import DataError
from proper_model.progress import Progress
from proper_model.tasks.records import Place, Problem, ProblemGroup, Report, User
from proper_model.tasks.task import Task, short_id

_PLACED = re.compile(r"(?P<file>[^:]*?)(, record (?P<record>\d+))?: (?P<message>.*)", re.DOTALL)


@dataclass(frozen=True)
class ValidationReport:
    """The result of `validate`. `problems` is cut; `errors` and `warnings` count them all.

    `groups` says each problem once, with the number of its places and the first of them.
    """

    name: str
    task: str
    template: str
    form: str
    pooled: GroupSummary
    test: GroupSummary
    errors: int
    warnings: int
    problems: tuple[Problem, ...]
    groups: tuple[ProblemGroup, ...]

    @property
    def ok(self) -> bool:
        """True if a run would read these data, with a split that the warnings may name."""
        return self.errors == 0


def validate(path: Path, task: Task, *, progress: Progress | None = None) -> ValidationReport:
    """Read everything at `path` and report counts and problems.

    Raises DataError only if `path` holds no recognizable file set.
    """
    files = find_files(path)
    report = Report(strict=False)
    pooled, test = Collector(task), Collector(task)
    if files.form == "lamp":
        try:
            pooled_users, test_users = read_lamp(files, task, report, progress=progress)
        except DataError as error:
            _broken(error, report)
            pooled_users, test_users = (), ()
        for group, users in ((pooled, pooled_users), (test, test_users)):
            for done, user in enumerate(users):
                if progress is not None:
                    progress("checking users", done, len(users))
                group.add(user)
            group.warn(path.name, report)
    else:
        _validate_oppu(files, task, report, pooled, test, progress)
    if not report.errors:
        _check_runnable(files, path.name, report, pooled, test)
    return _reported(files, path.name, task, report, pooled, test)


def validate_users(
    users: Sequence[User], name: str, task: Task, report: Report
) -> ValidationReport:
    """The same of users who have been read, with what reading them reported; all of them are pooled."""
    pooled, test = Collector(task), Collector(task)
    for user in users:
        pooled.add(user)
    pooled.warn(name, report)
    files = FileSet("dataset")
    if not report.errors:
        _check_runnable(files, name, report, pooled, test)
    return _reported(files, name, task, report, pooled, test)


def _reported(
    files: FileSet, name: str, task: Task, report: Report, pooled: Collector, test: Collector
) -> ValidationReport:
    return ValidationReport(
        name=name,
        task=task.name,
        template=task.template,
        form=files.form,
        pooled=pooled.result(),
        test=test.result(),
        errors=report.errors,
        warnings=report.warnings,
        problems=tuple(report.problems),
        groups=report.groups,
    )


def _validate_oppu(
    files: FileSet,
    task: Task,
    report: Report,
    pooled: Collector,
    test: Collector,
    progress: Progress | None,
) -> None:
    ids: dict[str, list[str]] = {}
    for path, group in ((files.pooled, pooled), (files.test, test)):
        if path is None:
            continue
        for user in _until_broken(path, task, report, files, progress):
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


def _check_runnable(
    files: FileSet, name: str, report: Report, pooled: Collector, test: Collector
) -> None:
    """Say which data a run would refuse as they are, and which split makes them usable."""
    place = Place(name)
    scored, users = pooled.with_query + test.with_query, pooled.users + test.users
    if scored < 2:
        who = "no user has a query" if not scored else "only one user has a query"
        report.error(place, f"{who}; a run scores a test user's and judges by a pooled user's")
    elif users <= MIN_POOLED:
        report.error(
            place, f"there are {users} users; a run needs {MIN_POOLED} pooled ones and a test user"
        )
    elif not test.with_query or not pooled.with_query or pooled.users < MIN_POOLED:
        report.warn(place, f"{_lacking(files, pooled, test)}; runs only with --split random:N")


def _lacking(files: FileSet, pooled: Collector, test: Collector) -> str:
    """What the split `given` would find missing."""
    if files.form == "users":
        return "one file names no test users"
    if files.form == "dataset":
        return "a dataset names no test users"
    if not test.with_query:
        return "no test user has a query" if test.users else "there is no test user"
    if pooled.users < MIN_POOLED:
        return f"there are {pooled.users} pooled users, fewer than {MIN_POOLED}"
    return "no pooled user has a query"


def _until_broken(
    path: Path, task: Task, report: Report, files: FileSet, progress: Progress | None
) -> Iterator[User]:
    """Users of a file up to where it stops being JSON, which becomes a problem."""
    labels = label_file_of(files) if path == files.test else None
    try:
        yield from iter_users(path, task, report, labels=labels, progress=progress)
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
