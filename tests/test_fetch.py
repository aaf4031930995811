"""Fetching LaMP from a local server with its habits; bad servers are those of `test_download`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from client.releases import download as download_module
from client.releases.download import Patience, download
from proper_model.errors import ConfigError, FetchError, StorageError
from simulations.cli import run_cli
from simulations.setup import fetch as fetch_module
from simulations.setup.fetch import fetch, lamp_url, sha256_of
from tests.documents import document
from tests.lamp_server import outputs, questions, running, serve

TRAIN = "/LaMP/LaMP_3/train/train_questions.json"
ONCE = Patience(attempts=1)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download_module, "sleep", lambda _: None)
    with running() as httpd:
        yield httpd


@pytest.mark.parametrize(
    ("task", "split", "path"),
    [
        ("LaMP_1", "user", "LaMP_1/dev/dev_questions.json"),
        ("LaMP_2M", "user", "LaMP_2/new/dev/dev_questions.json"),
        ("LaMP_2N", "user", "LaMP_2/dev/dev_questions.json"),
        ("LaMP_2M", "time", "time/LaMP_2/new/dev/dev_questions.json"),
        ("LaMP_7", "time", "time/LaMP_7/dev/dev_questions.json"),
    ],
)
def test_addresses(task, split, path):
    base = "https://ciir.cs.umass.edu/downloads/LaMP/"
    assert lamp_url(task, split, "dev", "questions") == base + path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LaMP_6", "user", "dev", "questions"), "LaMP_6"),
        (("LaMP_2", "user", "dev", "questions"), "'LaMP_2' cannot be fetched"),
        (("LaMP_3", "days", "dev", "questions"), "unknown split"),
    ],
)
def test_what_lamp_does_not_have(arguments, message):
    with pytest.raises(FetchError, match=message):
        lamp_url(*arguments)


def test_a_whole_task_with_manifest_and_progress(server, tmp_path):
    serve(server, "time/LaMP_2/new", count=30)
    steps = []
    fetched = fetch(
        "LaMP_2M", "time", tmp_path / "d", base_url=server.url, progress=lambda *s: steps.append(s)
    )
    assert [f.name for f in fetched] == [
        "train_questions.json",
        "train_outputs.json",
        "dev_questions.json",
        "dev_outputs.json",
    ]
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert (manifest["task"], manifest["split"]) == ("LaMP_2M", "time")
    for name, entry in manifest["files"].items():
        path = tmp_path / "d" / name
        assert entry["bytes"] == path.stat().st_size
        assert entry["sha256"] == sha256_of(path)
        assert entry["records"] == 30
    size = manifest["files"]["dev_outputs.json"]["bytes"]
    assert steps[-1] == ("dev_outputs.json", size, size)
    assert {p.name for p in (tmp_path / "d").iterdir()} == {*manifest["files"], "manifest.json"}


def test_the_command_tells_what_it_fetched(server, tmp_path, monkeypatch, capsys):
    serve(server, "time/LaMP_2/new", count=30)
    here = partial(fetch, base_url=server.url)
    monkeypatch.setattr(fetch_module, "fetch", here)
    assert run_cli(["fetch", "LaMP_2M", "--out", str(tmp_path / "d"), "--json"]) == 0
    shown = capsys.readouterr()
    files = document(shown.out, "fetch", "proper-sim")["files"]
    assert [Path(one["file"]).name for one in files] == [
        "train_questions.json",
        "train_outputs.json",
        "dev_questions.json",
        "dev_outputs.json",
    ]
    for one in files:
        assert one["sha256"] == sha256_of(Path(one["file"]))
        assert one["records"] == 30
        assert one["sha256"] in shown.err


def test_complete_files_are_not_fetched_again_but_changed_ones_are(server, tmp_path):
    serve(server)
    first = fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    server.seen.clear()
    assert fetch("LaMP_3", "user", tmp_path, base_url=server.url) == first
    assert server.seen == []
    path = tmp_path / "train_questions.json"
    path.write_bytes(path.read_bytes().replace(b"x", b"z", 1))
    assert fetch("LaMP_3", "user", tmp_path, base_url=server.url) == first
    assert [seen for seen, _ in server.seen] == [TRAIN]


def test_html_with_status_200_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(FetchError, match=r"train_questions.json: .* an HTML page of 4\d bytes"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_later_html_page_keeps_what_came_before(server, tmp_path):
    serve(server)
    del server.files["/LaMP/LaMP_3/dev/dev_outputs.json"]
    with pytest.raises(FetchError, match="dev_outputs.json"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["files"]) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" + b" " * 3000, "not complete LaMP JSON"),
        (questions(50)[:-40], "train_questions.json: .*record 49.*truncated"),
        (json.dumps([{"id": "1", "input": "x" * 3000}]).encode(), "not a LaMP question"),
        (b"[]", "only 2 bytes"),
        (b"\x1f\x8b" + b"x" * 4000, "something that is not JSON"),
        (b"", "something that is not JSON of 0 bytes"),
    ],
)
def test_what_is_not_lamp_json_is_refused_and_removed(server, tmp_path, body, message):
    serve(server)
    server.files[TRAIN] = body
    with pytest.raises(FetchError, match=message):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_questions_and_answers_must_be_as_many(server, tmp_path):
    serve(server)
    server.files["/LaMP/LaMP_3/dev/dev_outputs.json"] = outputs(49)
    with pytest.raises(FetchError, match="dev: 50 questions but 49 answers"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)


def test_a_broken_transfer_goes_on_where_it_ended(server, tmp_path):
    serve(server)
    server.breaks[TRAIN] = [3000, 2000]
    fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert (tmp_path / "train_questions.json").read_bytes() == server.files[TRAIN]
    asked = [headers for path, headers in server.seen if path == TRAIN]
    assert [h.get("Range") for h in asked] == [None, "bytes=3000-", "bytes=5000-"]
    assert [h.get("If-Range") for h in asked] == [None, '"v1"', '"v1"']


def test_a_later_call_goes_on_as_well(server, tmp_path):
    serve(server)
    server.breaks[TRAIN] = [3000]
    with pytest.raises(FetchError, match="1 attempts failed") as caught:
        fetch("LaMP_3", "user", tmp_path, base_url=server.url, patience=ONCE)
    assert "goes on where" in (caught.value.hint or "")
    assert (tmp_path / "train_questions.json.part").stat().st_size == 3000
    assert not (tmp_path / "train_questions.json").exists()
    fetch("LaMP_3", "user", tmp_path, base_url=server.url, patience=ONCE)
    assert (tmp_path / "train_questions.json").read_bytes() == server.files[TRAIN]
    assert server.seen[1][1]["Range"] == "bytes=3000-"


@pytest.mark.parametrize("note", ['{"key": 1, "validator": "a", "total": null}', None])
def test_an_unfinished_file_of_unknown_origin_is_not_continued(server, tmp_path, note):
    serve(server)
    part = tmp_path / "train_questions.json.part"
    part.write_bytes(b"garbage")
    if note is not None:
        part.with_name(part.name + ".json").write_text(note)
    fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert (tmp_path / "train_questions.json").read_bytes() == server.files[TRAIN]
    assert "Range" not in server.seen[0][1]


def test_without_a_length_truncation_shows_in_the_json(server, tmp_path):
    serve(server)
    server.lengths = False
    server.breaks[TRAIN] = [3000]
    with pytest.raises(FetchError, match="not complete LaMP JSON"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert (tmp_path / "train_questions.json").read_bytes() == server.files[TRAIN]


def test_other_schemes_and_mixed_folders_are_refused(server, tmp_path):
    for address in ("file:///etc/hostname", "http://data.example/x"):
        with pytest.raises(ConfigError, match="address of the data"):
            quiet(address, tmp_path / "x")
    serve(server)
    fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    with pytest.raises(FetchError, match="another task or split"):
        fetch("LaMP_3", "time", tmp_path, base_url=server.url)
    (tmp_path / "manifest.json").write_text('{"task": "LaMP_3", "split": "user", "files": [1]}')
    with pytest.raises(FetchError, match="is damaged"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)


def quiet(address, target, *, max_bytes=1 << 20):
    return download(
        address, target, max_bytes=max_bytes, what="data", progress=lambda *_: None, patience=ONCE
    )


def test_a_disk_that_refuses_is_no_lost_connection(server, tmp_path):
    server.files[TRAIN] = questions(30)
    (tmp_path / "q.json.part").mkdir()
    with pytest.raises(StorageError, match=r"q\.json\.part: "):
        quiet(server.url.removesuffix("/LaMP") + TRAIN, tmp_path / "q.json")
    assert server.seen == []


def test_a_server_that_sends_without_end_is_given_up(server, tmp_path, monkeypatch):
    serve(server)
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 5000)
    with pytest.raises(FetchError, match=r"train_questions.json: .* sends more than 5000 bytes"):
        fetch("LaMP_3", "user", tmp_path, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_file(server, tmp_path):
    server.files["/LaMP/empty"] = b""
    part = quiet(f"{server.url}/empty", tmp_path / "empty")
    assert part.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["empty.part"]
