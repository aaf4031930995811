"""Questions from a file of JSON lines, one at a time: bounded memory, however many there are."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from client.history.text_input import shown_name
from proper_model.data import whole_text
from proper_model.errors import DataError
from proper_model.storage.documents import DocumentError, parse_json

MAX_LINE_BYTES = 4 << 20
HINT = 'one JSON object a line, such as {"id": "1", "input": "..."}'


@dataclass(frozen=True)
class Asked:
    """One line: `id` is the line's number where it has none."""

    id: str
    input: str


@dataclass(frozen=True)
class Questions:
    """`rows` can be read once; `total` is 0 if it is not known before the end."""

    total: int
    rows: Iterator[Asked]


@contextmanager
def open_questions(path: Path) -> Iterator[Questions]:
    """Every line of a regular file is checked before the first is handed on; a pipe's, as it comes.

    Raises DataError, here or while `rows` is read, with the line that is not as expected.
    """
    name = shown_name(path)
    try:
        handle = path.open("rb")
    except OSError as error:
        raise DataError(
            f"{name}: {error.strerror}; expected a file of questions",
            hint="check the path given to --input",
        ) from None
    with handle:
        total = 0
        if stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            total = sum(1 for _ in _rows(handle, name))
            handle.seek(0)
        yield Questions(total, _rows(handle, name))


def _rows(handle: IO[bytes], name: str) -> Iterator[Asked]:
    for number, line in enumerate(_lines(handle, name), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(
                line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, surrogates=True
            )
        except DocumentError as error:
            raise DataError(f"{name}, line {number}: {error}", hint=HINT) from None
        if not isinstance(row, dict) or not isinstance(row.get("input"), str):
            raise DataError(f"{name}, line {number}: no text in field input", hint=HINT)
        yield Asked(whole_text(str(row.get("id", number))), whole_text(row["input"]))


def _lines(handle: IO[bytes], name: str) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        try:
            line = handle.readline(MAX_LINE_BYTES + 1)
        except OSError as error:
            raise DataError(
                f"{name}, line {number}: cannot be read ({error.strerror})",
                hint="check the disk, then repeat the command",
            ) from None
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{name}, line {number}: more than {MAX_LINE_BYTES} bytes", hint=HINT)
        yield line
