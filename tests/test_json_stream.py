"""Streaming a JSON array: any chunk size, one record in memory, faults by record."""

from __future__ import annotations

import json

import pytest

from proper_model.errors import DataError
from proper_model.storage import json_stream
from proper_model.storage.json_stream import iter_array, read_object


def put(path, content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1 << 18])
def test_records_stream_alike_whatever_the_chunk_size(tmp_path, chunk_bytes):
    values = [
        {"text": 'a "quoted" \\ brace } ] é 😀 \n', "n": [1, -2.5e3, True, None]},
        {},
        12345,
        "x" * 300,
        [[["deep"]]],
        -6.5e1,
    ]
    path = put(tmp_path / "a.json", b"\xef\xbb\xbf \n" + json.dumps(values, indent=1).encode())
    assert list(iter_array(path, chunk_bytes=chunk_bytes)) == values
    raw = put(tmp_path / "b.json", json.dumps(values, ensure_ascii=False).encode())
    assert list(iter_array(raw, chunk_bytes=chunk_bytes)) == values
    assert list(iter_array(put(tmp_path / "c.json", b" [ ] "), chunk_bytes=chunk_bytes)) == []


def test_streaming_holds_one_record_not_the_file(tmp_path):
    path = put(tmp_path / "a.json", [{"text": "x" * 1000} for _ in range(2000)])
    stream = iter_array(path, chunk_bytes=4096)
    next(stream)
    buffer = stream.gi_yieldfrom.gi_frame.f_locals["buffer"]
    assert all(len(buffer.text) < 20_000 for _ in stream)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.json: the file is empty"),
        (b"  \n", "a.json: the file is empty"),
        (b"<html>", "a.json: not a JSON array"),
        (b'{"a": 1}', "a.json: not a JSON array"),
        (b"[1, 2", "a.json, record 2: .*truncated"),
        (b'[{"a": 1}, {"b": "c', "a.json, record 1: .*truncated"),
        (b"[1, 2] 3", "a.json: something follows"),
        (b"[1 2]", "a.json, record 1: .*expected ','"),
        (b"[1,]", "a.json, record 1: "),
        (b"[1, NaN]", "a.json, record 1: .*NaN"),
        (b'["a", "\xff"]', "a.json: not UTF-8 near byte 7"),
        (b'["\xc3', "a.json: not UTF-8"),
        (b"[" * 100_000, "a.json, record 0: .*nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "a.json, record 0: .*too many digits"),
    ],
)
def test_broken_json_is_named_by_file_and_record(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(iter_array(put(tmp_path / "a.json", content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"golds": ' + b"1" * 5000 + b"}", "a.json: a number has too many digits"),
        (b'{"golds": ' + b"[" * 100_000, "a.json: nested too deeply"),
        (b'{"golds": Infinity}', "a.json: NaN and Infinity"),
        (b'{"golds": 1, "golds": 2}', "a.json: an object names the same key twice"),
    ],
)
def test_an_object_that_cannot_be_read_is_named_by_its_file(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_object(put(tmp_path / "a.json", content))


def test_a_malformed_record_does_not_make_the_reader_swallow_the_rest(tmp_path, monkeypatch):
    path = put(tmp_path / "a.json", b'[{"a" 1}' + b', {"text": "x"}' * 10_000 + b"]")
    filled = []
    fill = json_stream.TextBuffer.fill
    monkeypatch.setattr(
        json_stream.TextBuffer, "fill", lambda self, n: (filled.append(n), fill(self, n))
    )
    with pytest.raises(DataError, match="record 0"):
        list(iter_array(path, chunk_bytes=256))
    assert max(filled) < 1000


def test_an_endless_record_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_RECORD_CHARS", 1000)
    path = put(tmp_path / "a.json", ["x" * 5000])
    with pytest.raises(DataError, match="record 0: .*longer than 1000"):
        list(iter_array(path, chunk_bytes=64))
