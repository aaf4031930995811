"""Download LaMP from its own server, and know when what came is not LaMP (docs/method.md 4.1).

A broken download leaves a `.part` file and goes on from there. Everything is checked before a file
gets its name, and `manifest.json` records sizes, counts and SHA-256. LaMP is CC BY-NC-SA 4.0;
fetching is not redistributing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.releases.download import Patience, download
from proper_model.errors import DataError, FetchError
from proper_model.progress import Progress, silent
from proper_model.storage.files import storage_errors, write_atomic
from proper_model.storage.json_stream import iter_array, read_object

BASE_URL = "https://ciir.cs.umass.edu/downloads/LaMP"
MANIFEST = "manifest.json"
# LaMP_2M is movie tagging, LaMP_2N news categorization. LaMP_6 ships ids of licensed mail only.
TASK_FOLDERS = {
    "LaMP_1": "LaMP_1",
    "LaMP_2M": "LaMP_2/new",
    "LaMP_2N": "LaMP_2",
    "LaMP_3": "LaMP_3",
    "LaMP_4": "LaMP_4",
    "LaMP_5": "LaMP_5",
    "LaMP_7": "LaMP_7",
}
PARTS, KINDS = ("train", "dev"), ("questions", "outputs")
# LaMP's smallest file is far larger, its HTML error page far smaller.
MIN_BYTES = 2048
# Its largest has a few gigabytes: a server that sends without end is given up at this.
MAX_BYTES = 32 << 30
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """One file as it is recorded in the manifest. `records` counts questions or answers."""

    name: str
    url: str
    bytes: int
    sha256: str
    records: int


def lamp_url(task: str, split: str, part: str, kind: str, *, base_url: str = BASE_URL) -> str:
    """Address of one LaMP file: `part` is one of PARTS, `kind` one of KINDS.

    Raises FetchError for an unknown task or split.
    """
    if task not in TASK_FOLDERS:
        licensed = "LaMP-6 ships ids of licensed mail only"
        known = "tasks are " + ", ".join(TASK_FOLDERS)
        hint = licensed if task == "LaMP_6" else known
        raise FetchError(f"task '{task}' cannot be fetched", hint=hint)
    if split not in ("user", "time"):
        raise FetchError(f"unknown split '{split}'", hint="splits are user and time")
    prefix = "time/" if split == "time" else ""
    return f"{base_url.rstrip('/')}/{prefix}{TASK_FOLDERS[task]}/{part}/{part}_{kind}.json"


def fetch(
    task: str,
    split: str,
    folder: Path,
    *,
    base_url: str = BASE_URL,
    progress: Progress = silent,
    patience: Patience = PATIENCE,
) -> tuple[Fetched, ...]:
    """Download questions and answers of PARTS into `folder` and write its manifest.

    Files that the manifest lists and that are unchanged are not fetched again. `progress` is called
    with file name, bytes so far and bytes in all (0 if the server does not say).

    Raises FetchError if a transfer fails as often as `patience` says, if what came is not LaMP JSON,
    or if `folder` holds another task or split, StorageError if it cannot be written. Complete files
    and unfinished ones stay for the next call.
    """
    wanted = {
        f"{part}_{kind}.json": lamp_url(task, split, part, kind, base_url=base_url)
        for part in PARTS
        for kind in KINDS
    }
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done = _read_manifest(folder, task, split)
        for name, url in wanted.items():
            target = folder / name
            known = done.get(name)
            if known is not None and known.url == url and _unchanged(target, known):
                continue
            part = download(
                url,
                target,
                max_bytes=MAX_BYTES,
                what="data",
                progress=progress,
                patience=patience,
            )
            records = _check(part, name)
            done[name] = Fetched(name, url, part.stat().st_size, sha256_of(part), records)
            part.replace(target)
            _write_manifest(folder, task, split, done)
        for part_name in PARTS:
            _check_counts(done, part_name)
    return tuple(done[name] for name in wanted)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check(part: Path, name: str) -> int:
    """Count the records of a finished transfer. A file that is not LaMP JSON is removed."""
    size = part.stat().st_size
    with part.open("rb") as handle:
        first = handle.read(64).lstrip()[:1]
    try:
        if first not in (b"[", b"{"):
            what = "an HTML page" if first == b"<" else "something that is not JSON"
            raise FetchError(
                f"{name}: the server sent {what} of {size} bytes instead of the file",
                hint="LaMP answers a wrong path that way; check task, split and base URL",
            )
        if size < MIN_BYTES:
            raise FetchError(f"{name}: only {size} bytes, less than any LaMP file")
        return _count_questions(part) if first == b"[" else _count_answers(part)
    except DataError as error:
        part.unlink()
        raise FetchError(
            f"{name}: what came is not complete LaMP JSON ({error.message})",
            hint="fetch it again",
        ) from error
    except FetchError:
        part.unlink()
        raise


def _count_questions(part: Path) -> int:
    count = 0
    for count, record in enumerate(iter_array(part), start=1):
        if not isinstance(record, dict) or not {"id", "input", "profile"} <= record.keys():
            raise DataError(f"record {count - 1} is not a LaMP question")
    return count


def _count_answers(part: Path) -> int:
    golds = read_object(part).get("golds")
    if not isinstance(golds, list):
        raise DataError("there is no list of golds")
    return len(golds)


def _check_counts(done: dict[str, Fetched], part: str) -> None:
    questions, outputs = done.get(f"{part}_questions.json"), done.get(f"{part}_outputs.json")
    if questions and outputs and questions.records != outputs.records:
        raise FetchError(
            f"{part}: {questions.records} questions but {outputs.records} answers",
            hint="the two files are of different releases; remove them and fetch again",
        )


def _unchanged(path: Path, known: Fetched) -> bool:
    return path.is_file() and path.stat().st_size == known.bytes and sha256_of(path) == known.sha256


def _read_manifest(folder: Path, task: str, split: str) -> dict[str, Fetched]:
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    hint = f"fetch into another folder, or remove {MANIFEST}"
    try:
        content: dict[str, Any] = read_object(path)
        files = {name: Fetched(name=name, **entry) for name, entry in content["files"].items()}
    except (DataError, AttributeError, KeyError, TypeError) as error:
        raise FetchError(f"{path.name} in {folder.name} is damaged", hint=hint) from error
    if (content.get("task"), content.get("split")) != (task, split):
        raise FetchError(f"{folder.name} holds another task or split", hint=hint)
    return files


def _write_manifest(folder: Path, task: str, split: str, done: dict[str, Fetched]) -> None:
    files = {
        name: {"url": f.url, "bytes": f.bytes, "sha256": f.sha256, "records": f.records}
        for name, f in sorted(done.items())
    }
    content = {"schema": 1, "task": task, "split": split, "files": files}
    write_atomic(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())
