"""Users from disk and back.

`read_population` recognizes OPPU's file set, raw LaMP files and a single OPPU-form file, and reads
them record by record; what it tolerates is listed in `parsing`. Source: docs/method.md 2.1 and 4.1.
"""

from __future__ import annotations

import json
from pathlib import Path

from proper_model.data.file_sets import POOLED_FILE, find_files, iter_users, label_file_of
from proper_model.data.lamp import read_lamp
from proper_model.data.parsing import parse_user
from proper_model.errors import DataError
from proper_model.progress import Progress
from proper_model.storage.files import write_atomic
from proper_model.tasks.records import Place, Population, Report, User, users_to_json
from proper_model.tasks.task import Task, short_id

TEST_FILE = "user_top_100_history.json"


def read_population(
    path: Path, task: Task, *, report: Report | None = None, progress: Progress | None = None
) -> Population:
    """Pooled and test users at `path`.

    A folder holds OPPU's file set or raw LaMP's; a single OPPU-form file gives pooled users only.
    `report` takes warnings, and errors as well if it is not strict.

    Raises DataError with file, record and field at the first error of a strict report.
    """
    report = report if report is not None else Report()
    files = find_files(path)
    if files.form == "lamp":
        pooled, test = read_lamp(files, task, report, progress=progress)
        return Population(path.name, pooled, test)
    tests: tuple[User, ...] = ()
    others: tuple[User, ...] = ()
    if files.test is not None:
        labels = label_file_of(files)
        tests = tuple(iter_users(files.test, task, report, labels=labels, progress=progress))
    if files.pooled is not None:
        others = tuple(iter_users(files.pooled, task, report, progress=progress))
        _check_overlap(others, tests, files.pooled.name, report)
    return Population(path.name, others, tests)


def _check_overlap(
    pooled: tuple[User, ...], tests: tuple[User, ...], name: str, report: Report
) -> None:
    """A test user who is pooled as well has been seen by stages 1 and 2."""
    test_ids = {user.user_id for user in tests}
    for index, user in enumerate(pooled):
        if user.user_id in test_ids:
            report.error(
                Place(name, index, "user_id"), f"{short_id(user.user_id)} is a test user as well"
            )


def read_users(path: Path, task: Task, *, report: Report | None = None) -> tuple[User, ...]:
    """The users of one OPPU-form file. Raises DataError as `read_population` does."""
    return tuple(iter_users(path, task, report if report is not None else Report()))


def user_from_json(record: object, task: Task, *, where: str = "user") -> User:
    """One user from decoded JSON in OPPU's form. Raises DataError with place and field."""
    user = parse_user(record, task, Place(where), Report())
    if user is None:
        raise DataError(f"{where}: not a user record")
    return user


def write_oppu(population: Population, folder: Path) -> None:
    """Write a population as OPPU's two files into `folder`, which is created if needed.

    Each is written whole or not at all, and readable by the owner only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, users in ((POOLED_FILE, population.pooled), (TEST_FILE, population.test)):
        text = json.dumps(users_to_json(users), ensure_ascii=False)
        write_atomic(folder / name, (text + "\n").encode())
