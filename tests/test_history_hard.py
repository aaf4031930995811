"""Histories that are no histories: each refused with place and hint, without a word of the text."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import socket
import subprocess
import sys

import pytest

from client.history import newest, text_input
from client.history.item import MEND_HINT
from client.history.reading import ReadOptions, read_history
from client.history.text_input import MAX_RECORD_CHARS
from proper_model.bundle.limits import MIB
from proper_model.errors import DataError
from proper_model.progress import silent
from proper_model.tasks.task import load_task
from tests.histories import SECRET, put

TASK = load_task("LaMP_3", template="short")
GOOD = json.dumps({"id": "g", "text": f"{SECRET} fine", "score": "4"})
LONG = "x" * (10 << 20)


def refused(path, message, **options):
    """The error of reading `path`: its message, a hint, and no text of the file."""
    progress = options.pop("progress", silent)
    with pytest.raises(DataError, match=message) as error:
        read_history(path, TASK, ReadOptions(**options), progress=progress)
    assert error.value.exit_code == 13
    assert error.value.hint
    assert SECRET not in error.value.message + error.value.hint
    assert str(path.parent) not in error.value.message
    return error.value


WHOLE = [  # nothing of these can be read, lenient or not
    ("h.json", b"", "h.json: the file is empty"),
    ("h.csv", b" \n\n", "h.csv: the file is empty"),
    ("h.jsonl", b"\xef\xbb\xbf", "h.jsonl: the file is empty"),
    (
        "h.jsonl",
        f"{GOOD}\n".encode() + b'{"text": "\xff"}',
        rf"h.jsonl: not UTF-8 at byte {len(GOOD) + 11} \(line 2\)",
    ),
    ("h.csv", b"\xef\xbb\xbftext,score\na\xe9b,1\n", r"not UTF-8 at byte 15 \(line 2\)"),
    ("h.json", f"[{GOOD}]".encode() + b"\xc3", rf"not UTF-8 at byte {len(GOOD) + 2} "),
    ("h.json", b"\xff\xfe" + f"[{GOOD}]".encode("utf-16-le") + b"x", "not UTF-16 at byte .*line 1"),
    ("h.csv", b"\xfe\xff\0t", "h.csv: no column named text, score; found 1 cells"),
    ("h.csv", b"\xff\xfet\0\0\0", r"h.csv: a NUL character \(line 1\)"),
    ("h.json", f"[{GOOD}]".encode("utf-32"), "UTF-32 text"),
    ("h.json", f"[{GOOD}]".encode("utf-16-le"), r"a NUL character at byte 1 \(line 1\)"),
    ("h.jsonl", f"{GOOD}\n\0".encode(), rf"a NUL character at byte {len(GOOD) + 1} \(line 2\)"),
    ("h.json.gz", gzip.compress(GOOD.encode()), "h.json.gz: compressed by gzip"),
    ("h.xlsx", b"PK\x03\x04....", "a zip archive or an office document"),
    ("h.json", f"[{GOOD}] x".encode(), "something follows the JSON array"),
    ("h.json", f"[{GOOD}".encode(), "record 2: malformed JSON, .*truncated"),
    ("h.json", f"[{GOOD}, {GOOD[:-9]}".encode(), "record 2: malformed JSON, .*truncated"),
    ("h.json", f"[{GOOD} {GOOD}]".encode(), "record 2: malformed JSON, expected ','"),
    ("h.json", f"[{GOOD}, {{'text': 1}}]".encode(), "record 2: malformed JSON"),
    ("h.json", b'[{"text" 1}]', "record 1: malformed JSON, expected ':'"),
    ("h.json", b'[{"text": 1 "score": 2}]', "record 1: malformed JSON, expected ',' or '}'"),
    ("h.json", b"[{text: 1}]", "record 1: malformed JSON, expected a key"),
    ("h.json", b"<html>", "h.json: an HTML page, expected JSON"),
    ("h.json", b"text", "h.json: not a JSON array or object"),
    ("h.json", f"[{GOOD}, {'[' * 100_000}".encode(), "record 2: .*nested too deeply"),
    ("h.json", b'{"profile": ' + b"[" * 100_000, "nested too deeply"),
    ("h.json", b'{"a": ' * 100_000, "nested too deeply"),
    ("h.json", f'[{GOOD}, {{"text": "{LONG}"}}]'.encode(), "record 2: .*longer than 4194304"),
    ("h.json", f'{{"profile": [{{"text": "{LONG}"}}]}}'.encode(), "record 1: .*longer than"),
    ("h.json", ("{\n" + ",".join(f'"{n}":1' for n in range(999)) + "}").encode(), "256 keys"),
    ("h.json", b" " * (5 << 20) + b"[]", "begins with more than 4194304 blanks"),
    (
        "h.csv",
        f'text,score\nfine,1\n"{SECRET}\n,1\nmore,2\n'.encode(),
        "h.csv, line 3: a quote that does not end, in a row that begins here",
    ),
    ("h.csv", f'text,score\n"{SECRET}" x,1\n'.encode(), "h.csv, line 2: malformed CSV: a closing"),
    ("h.csv", f"text,score\n{SECRET}\rx,1\n".encode(), "h.csv, line 2: malformed CSV"),
    ("h.csv", f'text,score\na,1\n"{LONG}",1\n'.encode(), "h.csv, line 3: a row .*longer than"),
    (
        "h.csv",
        ('text,score\n"' + ("x" * 99 + "\n") * (50 << 10)).encode(),
        "line 2: a row .*longer than",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), WHOLE, ids=range(len(WHOLE)))
@pytest.mark.parametrize("lenient", [False, True])
def test_what_cannot_be_followed_is_refused(tmp_path, name, content, message, lenient):
    refused(put(tmp_path / name, content), message, lenient=lenient)


SINGLE = [  # one faulty record, which `lenient` leaves out
    ('{"id": "f", "text": "x", "score": NaN}', "NaN and Infinity are not JSON"),
    ('{"id": "f", "text": "x", "score": "1", "n": -Infinity}', "NaN and Infinity are not JSON"),
    ('{"id": "f", "text": "x", "score": "1", "text": "y"}', "an object has the same key twice"),
    ('{"text": "x", "score": "1", "n": {"a": 1, "a": 1}}', "an object has the same key twice"),
    ('{"text": "x", "score": %s}' % ("1" * 5000), "a number of more than 100 digits"),
    ('{"text": "canary-7f3a"}', "field score: missing"),
    ('{"text": {"a": "canary-7f3a"}, "score": "1"}', "field text: expected a string, got an obj"),
    ('{"text": "x", "score": 4.5}', "field score: the answer is a rating with a half, the labels"),
    ('{"text": "canary-7f3a\\u0000", "score": "1"}', "field text: a NUL character"),
    ('{"text": "x", "score": "canary-7f3a"}', "field score: the answer is no rating"),
    ('["canary-7f3a"]', "expected an object, got a list"),
    ("null", "expected an object, got null"),
]


OPTIONAL = [  # a faulty field without which the record still is an item
    ('{"text": "x", "score": "1", "date": "canary-7f3a"}', "field date: not a date"),
    ('{"id": "", "text": "x", "score": "1"}', "field id: an empty id"),
    ('{"id": "a\\nb", "text": "x", "score": "1"}', "field id: an id with control characters"),
    (
        json.dumps({"id": "canary-7f3a" * 100, "text": "x", "score": "1"}),
        "field id: an id of 1100 characters, expected at most 1024",
    ),
]
FAULTY = [(*case, False) for case in SINGLE] + [(*case, True) for case in OPTIONAL]


@pytest.mark.parametrize(("record", "message", "kept"), FAULTY, ids=range(len(FAULTY)))
@pytest.mark.parametrize("form", ["json", "jsonl", "lamp"])
def test_a_faulty_record_is_named_or_left_out(tmp_path, form, record, message, kept):
    """Lenient reading leaves out a record only for what an item must have."""
    other = GOOD.replace('"g"', '"h"')
    if form == "jsonl":
        content, name, line = f"{GOOD}\n\n{record}\n{other}\n", "h.jsonl", r" \(line 3\)"
    else:
        content, name, line = f"[{GOOD}, {record}, {other}]", "h.json", ""
        content = f'{{"profile": {content}}}' if form == "lamp" else content
    path = put(tmp_path / name, content)
    refused(path, f"^{name}, record 2{line}[,:] {message}")
    history = read_history(path, TASK, ReadOptions(lenient=True))
    assert [item.id for item in history.items if item.fields["text"] != "x"] == ["g", "h"]
    assert (history.read, history.left_out) == (3, {} if kept else {"faulty": 1})
    assert [item.date for item in history.items if item.fields["text"] == "x"] == [None] * kept
    assert f"record 2{line}".replace("\\", "") in history.warnings[0]
    assert not any(SECRET in warning for warning in history.warnings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "canary-7f3a', "malformed JSON, .* at its character"),
        ('{"text": "canary-7f3a"} x', "malformed JSON, Extra data"),
        ('{"text": "tab\there"}', "malformed JSON, Invalid control character"),
        ("[" * 100_000, "malformed JSON, nested too deeply"),
        (f'{{"text": "{LONG}", "score": "1"}}', "longer than 4194304 characters"),
        (json.dumps({"user_id": "u", "profile": []}), "a user record, expected an item"),
    ],
    ids=["cut", "extra", "tab", "deep", "long", "user"],
)
def test_a_faulty_line_is_named_or_left_out(tmp_path, line, message):
    path = put(tmp_path / "h.jsonl", f"{GOOD}\n{line}\n{GOOD}")
    refused(path, rf"^h.jsonl, record 2 \(line 2\): {message}")
    history = read_history(path, TASK, ReadOptions(lenient=True))
    assert (history.read, len(history.items)) == (3, 1)
    assert history.left_out == {"faulty": 1, "duplicate": 1}


def test_a_row_of_another_length_is_named_or_left_out(tmp_path):
    path = put(tmp_path / "h.csv", f'text,score\n"a\nb",1\n\n{SECRET}\nc,2,3\nd,4\n')
    error = refused(path, r"^h.csv, record 2 \(line 5\): has 1 cells, the header has 2")
    assert error.hint == MEND_HINT
    history = read_history(path, TASK, ReadOptions(lenient=True))
    assert [item.fields["text"] for item in history.items] == ["a\nb", "d"]
    assert history.left_out == {"faulty": 2}


def test_warnings_of_a_lenient_reading_stay_few(tmp_path):
    lines = [json.dumps({"text": f"{SECRET} {n}", "score": "nine"}) for n in range(3000)]
    lines += [json.dumps({"text": f"{SECRET} {n}"}) for n in range(3000)]
    history = read_history(
        put(tmp_path / "h.jsonl", "\n".join(lines)), TASK, ReadOptions(lenient=True)
    )
    assert history.left_out == {"faulty": 6000}
    assert history.items == ()
    assert len(history.warnings) == 3
    assert "3000 times, first in record 1 (line 1), field score; record 2" in history.warnings[0]
    assert (
        history.warnings[-1] == "h.jsonl: holds no usable item; you get what an average user gets"
    )
    assert len("".join(history.warnings)) < 1000


@pytest.mark.parametrize(
    ("name", "content"),
    [("h.json", "[]"), ("h.csv", "text,score\n"), ("h.json", '{"user_id": "u", "profile": []}')],
)
def test_a_history_of_nothing_is_allowed_and_said(tmp_path, name, content):
    history = read_history(put(tmp_path / name, content), TASK)
    assert (history.items, history.read, history.left_out) == ((), 0, {})
    assert history.warnings == (f"{name}: holds no usable item; you get what an average user gets",)


def test_a_record_just_within_the_limit_is_read(tmp_path):
    text = "x" * (MAX_RECORD_CHARS - 100)
    item = {"id": "a", "text": text, "score": "1"}
    for name, content in (
        ("h.json", json.dumps([item])),
        ("h.jsonl", json.dumps(item)),
        ("h.csv", f"id,text,score\na,{text},1\n"),
    ):
        before = 1 << 17  # the default of the module
        csv.field_size_limit(before)
        assert read_history(put(tmp_path / name, content), TASK).items[0].fields["text"] == text
        assert csv.field_size_limit() == before
    refused(put(tmp_path / "bad.csv", 'text,score\n"x" y,1'), "malformed CSV")
    assert csv.field_size_limit() == before


def test_half_a_surrogate_pair_is_replaced_and_told(tmp_path):
    content = '[{"text": "x\\ud800", "score": "1"}]'
    history = read_history(put(tmp_path / "h.json", content), TASK)
    assert history.items[0].fields["text"] == "x\ufffd"
    assert history.warnings == (
        "h.json, record 1, field text: half of a surrogate pair was replaced",
    )


def test_more_text_than_memory_should_hold_is_refused(tmp_path, monkeypatch):
    """Ids count as well."""
    monkeypatch.setattr(newest, "MAX_KEPT_CHARS", 1000)
    for row in (
        {"text": "{} " + "x" * 100, "date": "2024"},
        {"text": "{} " + "x" * 100},
        {"id": "{} " + "x" * 200, "text": "x"},
    ):
        line = json.dumps({"score": "1", **row})
        path = put(tmp_path / "h.jsonl", "\n".join(line.replace("{}", str(n)) for n in range(50)))
        refused(path, "the newest 20000 items hold more than 1000 characters")
        assert len(read_history(path, TASK, ReadOptions(max_items=4)).items) == 4


def test_only_what_is_read_whole_has_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(text_input, "MAX_WHOLE_BYTES", MIB)
    item = json.dumps({"text": "x" * 2000, "score": "1"})
    array = f"[{', '.join([item] * 600)}]"
    error = refused(put(tmp_path / "h.json", array), "h.json: more than 1 MiB in one piece")
    assert "JSON lines or CSV" in error.hint
    refused(put(tmp_path / "h.csv", array.encode("utf-16")), "more than 1 MiB in one piece")
    for name, content in (
        ("h.jsonl", f"{item}\n" * 600),
        ("h.csv", "text,score\n" + f"{'x' * 2000},1\n" * 600),
    ):
        path = put(tmp_path / name, content)
        assert path.stat().st_size > MIB
        assert read_history(path, TASK).read == 600


# -- files --------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    refused(folder, "folder.json: expected a regular file, found a folder")
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    refused(pipe, "pipe.json: expected a regular file, found a pipe")
    link = tmp_path / "link.json"
    link.symlink_to("/dev/zero")
    refused(link, "link.json: expected a regular file, found a device")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.json"))
        refused(tmp_path / "socket.json", "expected a regular file, found a socket")


def test_missing_files_and_links(tmp_path):
    refused(tmp_path / "absent.json", "^absent.json: no such file$")
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "absent.json")
    refused(dangling, "^dangling.json: no such file$")
    refused(put(tmp_path / "file", "x") / "h.json", r"^h.json: cannot be read \(Not a directory\)")
    refused(tmp_path / ("n" * 300), r": cannot be read \(File name too long\)")
    refused(tmp_path / "a\0b", "the path holds a NUL character")
    refused(tmp_path / "a\nb.json", r"^a\?b.json: no such file")
    good = tmp_path / "good.json"
    good.symlink_to(put(tmp_path / "real.json", f"[{GOOD}]"))
    assert len(read_history(good, TASK).items) == 1


def test_no_permission(tmp_path, monkeypatch):
    path = put(tmp_path / "h.json", f"[{GOOD}]")
    path.chmod(0)
    if os.geteuid() == 0:  # who may read everything

        def deny(*_args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(text_input.os, "open", deny)
    refused(path, "^h.json: no permission to read it$")


def test_a_file_that_changes_or_vanishes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_input, "CHUNK_BYTES", 64)
    lines = "".join(GOOD.replace('"g"', f'"{n}"') + "\n" for n in range(20))

    def while_reading(act):
        done = []

        def progress(_phase, _read, _size):
            if not done:
                done.append(act())

        return progress

    path = put(tmp_path / "h.jsonl", lines)
    grow = while_reading(lambda: path.open("a").write(GOOD))
    refused(path, "h.jsonl: changed while it was read", progress=grow)
    path = put(tmp_path / "h.jsonl", lines)
    refused(path, "was removed or replaced", progress=while_reading(path.unlink))
    path = put(tmp_path / "h.jsonl", lines)
    other = put(tmp_path / "other", lines)
    replaced = while_reading(lambda: other.replace(path))
    refused(path, "was removed or replaced", progress=replaced)
    assert len(read_history(path, TASK).items) == 20  # the control: nothing happens


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Failing()))
    with pytest.raises(DataError, match=r"^standard input: cannot be read \(Input/output error\)"):
        read_history(None, TASK)
    half = iter([GOOD.encode() + b"\n", None])  # of a pipe that does not block: nothing there yet
    monkeypatch.setattr(Failing, "read", lambda *_: next(half))
    with pytest.raises(DataError, match="cannot be read .*unavailable"):
        read_history(None, TASK)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="^standard input: closed"):
        read_history(None, TASK)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7])
def test_chunks_may_cut_characters_lines_and_marks_anywhere(tmp_path, monkeypatch, chunk_bytes):
    item = json.dumps({"id": "é😀", "text": "é😀\u2028x", "score": "1"}, ensure_ascii=False)
    table = 'id,text,score\r\n"é😀","é😀\u2028x",1\r\n'
    whole = chunk_bytes >= 3  # a mark is looked for in the first chunk, which is large
    for name, content in (
        ("h.json", f" [{item}]"),
        ("h.jsonl", f"{item}\r\n\r\n"),
        ("h.csv", table),
        ("l.json", f'{{"profile" : [{item}], "user_id": 1}}'),
    ):
        path = put(tmp_path / name, ("\ufeff" if whole else "") + content)
        expected = read_history(path, TASK).items
        assert [i.fields["text"] for i in expected] == ["é😀\u2028x"]
        monkeypatch.setattr(text_input, "CHUNK_BYTES", chunk_bytes)
        form = ReadOptions(form="lamp" if name[0] == "l" else None)
        assert read_history(path, TASK, form).items == expected
        monkeypatch.undo()


@pytest.mark.parametrize("chunk_bytes", [3, 5, 1 << 18])
def test_the_byte_of_bad_utf8_is_exact_in_every_chunking(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(text_input, "CHUNK_BYTES", chunk_bytes)
    head = "\ufefftext,score\né😀é,1\nabcdefg".encode()
    for bad in (b"\xff", b"\xe2\x82x", b"\xf0\x9f\x98"):
        refused(put(tmp_path / "h.csv", head + bad), rf"not UTF-8 at byte {len(head)} \(line 3\)")


# -- plaintext ----------------------------------------------------------------------------------

READER = """
import sys
from pathlib import Path
from client.history.reading import ReadOptions, read_history
from proper_model.errors import ProperError
from proper_model.tasks.task import load_task
task = load_task("LaMP_3")
for path in sys.argv[1:]:
    for lenient in (True, False):
        try:
            print(read_history(Path(path), task, ReadOptions(lenient=lenient)))
        except ProperError as error:
            print(error.message, error.hint)
"""


def test_plaintext_is_copied_nowhere(tmp_path, repository):
    """Nothing appears in the folders a program may write to, nor on its outputs."""
    data = tmp_path / "data"
    data.mkdir()
    faulty = json.dumps({"text": SECRET, "score": SECRET, "date": SECRET})
    paths = [
        put(data / "h.json", f"[{GOOD}]"),
        put(data / "h.jsonl", f"{GOOD}\n{faulty}\n{GOOD[:-2]}\n"),
        put(data / "h.csv", f'text,score\n{SECRET},1\n"{SECRET},2\n'),
        put(data / "l.json", f'{{"user_id": "{SECRET}", "profile": [{GOOD}, {faulty}]}}'),
    ]
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "HF_HOME", "PROPER_HOME")
    places = {name: str(tmp_path / "places" / name) for name in names}
    for name in names:
        (tmp_path / "places" / name).mkdir(parents=True)
    work = tmp_path / "work"
    work.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths)],
        cwd=work,
        env={**os.environ, **places, "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout.count("read=") == 4  # the control: it did read them
    assert SECRET not in result.stdout + result.stderr
    left = [path for root in (work, tmp_path / "places") for path in root.rglob("*")]
    assert [path for path in left if path.is_file()] == []
    assert sorted(path.name for path in data.iterdir()) == ["h.csv", "h.json", "h.jsonl", "l.json"]
