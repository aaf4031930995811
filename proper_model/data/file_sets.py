"""File sets on disk: OPPU's processed release and raw LaMP, read one record at a time.

OPPU (docs/method.md 2.1): `user_others.json` for pooled users and `user_*_history.json` for test
users; answers may stand in a label file beside them. Raw LaMP (docs/method.md 4.1):
`{split}_questions.json` with a profile for every question, and `{split}_outputs.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proper_model.data.parsing import identifier, parse_user, text_of
from proper_model.errors import DataError
from proper_model.progress import Progress
from proper_model.storage.json_stream import iter_array, read_object
from proper_model.tasks.records import Place, Report, User
from proper_model.tasks.task import Task, short_id

POOLED_FILE = "user_others.json"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class FileSet:
    """The files of one data folder. `form` is `oppu`, `lamp` or `users` (one OPPU-form file)."""

    form: str
    pooled: Path | None = None
    test: Path | None = None
    labels: tuple[Path, ...] = ()
    profiles: tuple[Path, ...] = ()
    splits: tuple[str, ...] = ()
    folder: Path | None = None


def find_files(path: Path) -> FileSet:
    """Recognize the file set at `path`. Raises DataError if it is none or ambiguous."""
    if path.is_file():
        return FileSet("users", pooled=path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder", hint="check the path")
    splits = tuple(s for s in SPLITS if (path / f"{s}_questions.json").is_file())
    pooled = path / POOLED_FILE
    tests = sorted(path.glob("user_*_history.json"))
    for found in (pooled, *tests, *(path / f"{s}_questions.json" for s in SPLITS)):
        if (found.exists() or found.is_symlink()) and not found.is_file():
            what = "a folder" if found.is_dir() else "no regular file, or a link to nothing"
            raise DataError(
                f"{found.name}: expected a file, found {what}",
                hint="put the file itself there, or remove what stands in its place",
            )
    if splits and (pooled.is_file() or tests):
        raise DataError(f"{path.name}: holds OPPU files and raw LaMP files; keep them apart")
    if splits:
        return FileSet("lamp", splits=splits, folder=path)
    if not pooled.is_file() and not tests:
        raise DataError(
            f"{path.name}: no data files found",
            hint=f"expected OPPU's {POOLED_FILE} and user_*_history.json, or raw LaMP's "
            "train_questions.json and train_outputs.json",
        )
    if len(tests) > 1:
        raise DataError(
            f"{path.name}: {len(tests)} files match user_*_history.json", hint="keep one of them"
        )
    return FileSet(
        "oppu",
        pooled=pooled if pooled.is_file() else None,
        test=tests[0] if tests else None,
        labels=tuple(sorted(path.glob("user_*_label.json"))),
        profiles=tuple(sorted(path.glob("profile_user_*.json"))),
        folder=path,
    )


def read_records(path: Path, progress: Progress | None) -> Iterator[Any]:
    """Records of a file's JSON array, with progress in mebibytes, of 0 where the size is unknown.

    Raises as `iter_array` does.
    """
    if progress is None:
        yield from iter_array(path)
        return
    phase = f"reading {path.name} (MiB)"
    total = path.stat().st_size >> 20 if path.is_file() else 0
    yield from iter_array(path, on_read=lambda count: progress(phase, count >> 20, total))


def iter_users(
    path: Path,
    task: Task,
    report: Report,
    *,
    labels: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[User]:
    """Yield the users of one OPPU-form file, one record in memory at a time.

    Raises DataError for a file that is not a JSON array, and for the first faulty record if
    `report` is strict; otherwise faulty records are reported and left out.
    """
    golds = read_golds(labels, task, report) if labels is not None else None
    seen: set[str] = set()
    empty = True
    for index, record in enumerate(read_records(path, progress)):
        empty = False
        place = Place(path.name, index)
        user = parse_user(record, task, place, report, golds=golds)
        if user is None:
            continue
        if user.user_id in seen:
            report.error(place.at("user_id"), f"user id {short_id(user.user_id)} occurs twice")
            continue
        seen.add(user.user_id)
        yield user
    if empty:
        report.error(Place(path.name), "holds no users")


def read_golds(path: Path, task: Task, report: Report) -> dict[str, str]:
    """Answers by query id from a label or outputs file.

    Its task id may be one of the task's aliases: OPPU's label files name the movie task LaMP_8 and
    the news task LaMP_2.
    """
    place = Place(path.name)
    content = read_object(path)
    declared = content.get("task")
    if declared not in (task.name, *task.aliases):
        report.warn(place.at("task"), f"is not {task.name} or one of its aliases")
    entries = content.get("golds")
    if not isinstance(entries, list):
        report.error(place.at("golds"), "expected a list")
        return {}
    golds: dict[str, str] = {}
    for index, entry in enumerate(entries):
        at = Place(path.name, index, "golds")
        if not isinstance(entry, dict):
            report.error(at, "expected an object")
            continue
        query_id = identifier(entry, "id", at, report)
        output = text_of(entry.get("output"), at.at("output"), report)
        if query_id is None or output is None:
            continue
        if query_id in golds:
            report.error(at.at("id"), f"query id {short_id(query_id)} occurs twice")
        golds[query_id] = output
    return golds


def label_file_of(files: FileSet) -> Path | None:
    """The label file that belongs to the test file, None if there is none."""
    if files.test is None:
        return None
    name = f"{files.test.stem}_label.json"
    return next((path for path in files.labels if path.name == name), None)


def read_profiles(path: Path, user_ids: Sequence[str], report: Report) -> dict[str, str]:
    """Profile texts (PAG) by user id, from a file whose entries stand in the order of `user_ids`.

    OPPU matches by position; an entry whose id is another user's is reported as a warning. Raises
    DataError if there are fewer or more entries than users.
    """
    texts: dict[str, str] = {}
    count = 0
    for count, entry in enumerate(iter_array(path), start=1):
        place = Place(path.name, count - 1)
        if count > len(user_ids):
            continue
        if not isinstance(entry, dict):
            report.error(place, "expected an object")
            continue
        user_id = user_ids[count - 1]
        if identifier(entry, "id", place, report) != user_id:
            report.warn(place.at("id"), "is not the id of the user at this position")
        text = text_of(entry.get("output"), place.at("output"), report)
        if text is not None:
            texts[user_id] = text
    if count != len(user_ids):
        report.error(Place(path.name), f"holds {count} profiles for {len(user_ids)} users")
    return texts
