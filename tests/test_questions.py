"""Questions of a file: one at a time, bounded, and a fault is named by its line."""

from __future__ import annotations

import io
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.commands import generate
from client.commands.generate import Asked, Questions, answer_all, open_questions
from proper_model.errors import DataError


def put(folder: Path, content: bytes) -> Path:
    path = folder / "q.jsonl"
    path.write_bytes(content)
    return path


def read(path: Path) -> list[Asked]:
    with open_questions(path) as found:
        return list(found.rows)


def test_lines_are_read_in_order(tmp_path: Path) -> None:
    path = put(tmp_path, b'\xef\xbb\xbf{"id": 7, "input": "a"}\r\n\n{"input": "\xc3\xa9"}')
    with open_questions(path) as found:
        assert found.total == 2
        assert list(found.rows) == [Asked("7", "a"), Asked("3", "é")]
    assert read(put(tmp_path, b"")) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"canary", "not JSON at character 0"),
        (b'{"input": "\xff"}', "not UTF-8 at byte 11"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["canary"]', "no text in field input"),
        (b'{"id": "canary"}', "no text in field input"),
        (b'{"input": 7}', "no text in field input"),
        (b'{"input": "' + b"canary" * 200 + b'"}', "more than 1000 bytes"),
    ],
)
def test_a_faulty_line_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str
) -> None:
    if len(line) < 10_000:
        monkeypatch.setattr(generate, "MAX_LINE_BYTES", 1000)
    path = put(tmp_path, b'{"input": "a"}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"q.jsonl, line 2: {message}") as caught:
        open_questions(path).__enter__()
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    """JSON can write one; no tokenizer takes it, and no stream can print it."""
    path = put(tmp_path, rb'{"input": "\ud800x", "id": "\udfff"}')
    assert read(path) == [Asked("\ufffd", "\ufffdx")]


def test_memory_is_that_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    row = json.dumps({"input": "x" * 100_000}) + "\n"
    path.write_text(row * 200)
    tracemalloc.start()
    with open_questions(path) as found:
        assert sum(1 for _ in found.rows) == found.total == 200
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(row)


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(DataError, match="zero, line 1: more than"):
        read(Path("/dev/zero"))


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_text('{"input": "a"}\n{"input": "b"}\n'))
    thread.start()
    with open_questions(path) as found:
        assert found.total == 0
        assert [asked.input for asked in found.rows] == ["a", "b"]
    thread.join()


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b'{"input": "a"}\n{"id": "x", "input": "b"}\nno\n'))
    monkeypatch.setattr("sys.stdin", stream)
    with open_questions(Path("-")) as found:
        assert found.total == 0
        assert [next(found.rows), next(found.rows)] == [Asked("1", "a"), Asked("x", "b")]
        with pytest.raises(DataError, match="stdin, line 3"):
            next(found.rows)


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=path.name) as caught:
            read(path)
        assert "--input" in str(caught.value.hint)


class Model:
    """Answers until it fails."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at

    def generate(self, text: str, **_: object) -> Iterator[str]:
        self.left -= 1
        if self.left < 0:
            raise DataError("stopped")
        yield text

    def unknown_words(self, text: str) -> tuple[int, int]:
        return text.count("?"), len(text.split())

    def unusable(self, _: str, answer: str) -> bool:
        return answer == "none"


def test_a_file_is_told_what_was_not_understood_and_not_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted by hand: of 4 + 2 + 1 words 3 + 1 are unknown; half of two words is not most of them."""
    rows = [Asked("1", "? ? ? a"), Asked("2", "? b"), Asked("3", "none")]
    answer_all(Model(9), Questions(3, iter(rows)), "1", None, tmp_path / "out.jsonl")
    told = capsys.readouterr().err
    assert "1 of 3 questions are mostly of words that the base does not know (57% of all" in told
    assert "1 of 3 answers (33%) are empty, or none of the task's labels" in told
    answer_all(Model(9), Questions(1, iter(rows[1:2])), "1", None, None)
    assert "warning" not in capsys.readouterr().err


def test_the_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def ask(out: Path, fail_at: int) -> None:
        rows = iter([Asked(str(n), "x") for n in range(5)])
        answer_all(Model(fail_at), Questions(5, rows), "1", None, out)

    with pytest.raises(DataError, match="stopped"):
        ask(tmp_path / "out.jsonl", 3)
    assert list(tmp_path.iterdir()) == []
    ask(tmp_path / "out.jsonl", 5)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
