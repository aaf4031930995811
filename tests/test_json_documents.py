"""`--json` of `proper`: each command's real document is as the committed schema says, and nothing else is on stdout.

The other programs': tests/test_json_programs.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from client.cli import run_cli
from client.commands.documents import DOCUMENTS
from tests.device_cli import CANARY, PASSPHRASE, Person, publish_release, quick_release, write_jsonl
from tests.documents import document, error_document
from tests.releases import small_users

# tests/test_start.py, tests/test_bases.py and tests/test_chat_command.py
ELSEWHERE = {"start", "base add", "base show", "chat"}


def test_a_document_of_another_form_is_found() -> None:
    good = {"schema": 1, "command": "path", "folder": "/x"}
    assert document(json.dumps(good), "path") == good
    for planted in ({"extra": 1}, {"folder": 1}, {"schema": 2}):
        with pytest.raises(ValidationError):
            document(json.dumps(good | planted), "path")
    with pytest.raises(ValueError, match="unpack"):
        document(json.dumps(good) + "\nmore", "path")


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs one command with `--json` and gives its document."""

    def run(me: Person, *words: str | Path, command: str | None = None) -> dict[str, Any]:
        capsys.readouterr()
        code = me.run(*words, "--json")
        shown = capsys.readouterr()
        assert code == 0, shown.err
        assert PASSPHRASE not in shown.out + shown.err
        return document(shown.out, command or str(words[0]))

    return run


def test_a_persons_commands_from_a_release_to_nothing(
    tmp_path: Path,
    told: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    me, seen = Person.make(tmp_path), set()

    def ask(*words: str | Path, command: str | None = None) -> dict[str, Any]:
        seen.add(command or str(words[0]))
        return told(me, *words, command=command)

    items = list(small_users()[1][0].history)
    field = min(items[0].fields)
    marked = type(items[0])(
        items[0].id, {**items[0].fields, field: f"{items[0].fields[field]} {CANARY}"}
    )
    history = write_jsonl(tmp_path / "h.jsonl", (marked, *items[1:-4]))
    whole = write_jsonl(tmp_path / "all.jsonl", (marked, *items[1:]))

    assert ask("path")["folder"] == str(me.home)
    assert ask("status")["content"] == "none"
    assert ask("doctor")["findings"][0]["name"] == "settings"
    published = publish_release(quick_release(), tmp_path / "published")
    assert ask("bundle", "add", published, command="bundle add")["changed"]
    assert len(ask("bundle", "list", command="bundle list")["releases"]) == 1
    assert ask("bundle", "verify", command="bundle verify")["files"] > 0
    assert ask("base", "list", command="base list")["bases"]
    new = ("--name", "m", "--item", "{a} b: {c}", "--answer", "text")
    assert ask("new-task", tmp_path / "moods.toml", *new)["fields"] == ["a", "c"]

    plan = ask("adapt", history, "--plan")["plan"]
    assert [one["name"] for one in plan["phases"]][:1] == ["embedding"]
    assert sum(one["slowest_s"] for one in plan["phases"]) == pytest.approx(plan["slowest_s"])
    adapted = ask("adapt", history)
    assert adapted["items"] == len(items) - 4
    assert adapted["took"]["seconds"] > 0
    updated = ask("update", whole)
    assert updated["new_items"] == 4
    assert ask("inspect")["items"] == len(items)
    listed = ask("inspect", "--items")["listed"]
    assert len(listed) == len(items)
    assert isinstance(ask("generate", "a shy poet")["answer"], str)
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"input": "a shy poet"}\n')
    out = ("--output", tmp_path / "a.jsonl")
    assert ask("generate", "--input", questions, *out)["answers"] == 1
    evaluated = ask("evaluate")
    assert set(evaluated["scores"]) >= {"1", "2"}
    assert not ask("rebase")["changed"]
    exported = ask("export", "--format", "peft", "--approximate", "--out", tmp_path / "lora")
    assert exported["size_bytes"] > 0
    secret = ("--backup-passphrase-file", me.passphrase_file)
    backup = ("export", "--format", "age-backup", "--out", tmp_path / "b.age", *secret)
    assert ask(*backup)["size_bytes"] > 0
    again = ask("import", tmp_path / "b.age", "--replace", "--yes", *secret)
    assert again["items"] == len(items)
    assert ask("rollback")["items"] == len(items)
    assert ask("passwd", "--add-key-file", tmp_path / "key")["changed"] == "key-file"
    assert len(ask("lock")["slots"]) == 2

    def ready(_session: Any, *, ready: Callable[[str], None], **_: Any) -> None:
        ready("http://127.0.0.1:1")

    monkeypatch.setattr("client.serving.server.serve", ready)
    assert ask("serve")["api"] == "http://127.0.0.1:1/v1"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert ask("config", "set", "threads", "1", command="config set")["value"] == 1
    assert ask("config")["settings"][4]["source"] == "file"
    assert ask("config", "path", command="config path")["there"]
    assert ask("config", "unset", "threads", command="config unset")["changed"]
    assert ask("forget", "--yes", "--items", "1")["forgotten"] == 1
    assert ask("forget", "--all", "--yes")["changed"]
    assert seen | ELSEWHERE == set(DOCUMENTS)


def test_text_of_a_person_stands_only_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a mark in every field, no document but that of the list has it."""
    me = Person.make(tmp_path)
    assert me.run("bundle", "add", publish_release(quick_release(), tmp_path / "p")) == 0
    items = [
        type(item)(item.id, {**item.fields, "description": f"{CANARY} words"})
        for item in small_users()[1][0].history[:3]
    ]
    history = write_jsonl(tmp_path / "h.jsonl", tuple(items))
    capsys.readouterr()
    for words in (["adapt", history], ["inspect"], ["status"]):
        assert me.run(*words, "--json") == 0
        shown = capsys.readouterr()
        assert CANARY not in shown.out + shown.err
    assert me.run("inspect", "--items", "--json") == 0
    shown = capsys.readouterr()
    assert CANARY in shown.out
    assert CANARY not in shown.err


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["status", "--json", "--no-such"], 2, "UsageError"),
        (["brew", "--json"], 2, "UsageError"),
        (["bundle", "verify", "--json"], 44, "NotInstalledError"),
        (["forget", "--json"], 11, "ConfigError"),
        (["config", "set", "no_such", "1", "--json"], 11, "ConfigError"),
        (["config", "--json", "path"], 11, "ConfigError"),
        (["--json", "path"], 2, "UsageError"),
        (["bundle", "--json", "list"], 2, "UsageError"),
    ],
)
def test_an_error_is_a_document_too(
    words: list[str], code: int, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["--home", str(tmp_path / "home"), *words]) == code
    shown = capsys.readouterr()
    error = error_document(shown.out)["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    assert f"proper: error: {error['message']}\n" in shown.err
    assert error["next"] in shown.err


@pytest.mark.parametrize(
    ("raised", "code", "kind"),
    [(KeyboardInterrupt(), 130, "InterruptedRunError"), (KeyError("zqsecret"), 1, "InternalError")],
)
def test_so_are_ctrl_c_and_a_bug(
    raised: BaseException,
    code: int,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr("client.home.Home.find", broken)
    assert run_cli(["path", "--json"]) == code
    shown = capsys.readouterr()
    found = error_document(shown.out)
    assert (found["command"], found["error"]["kind"]) == ("path", kind)
    assert "zqsecret" not in shown.out + shown.err


@pytest.mark.parametrize("words", [["--json", "path"], ["config", "--json", "path"]])
def test_json_before_the_last_word_is_told_where_it_goes(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(words) in (2, 11)
    told = error_document(capsys.readouterr().out)["error"]
    assert (
        told["message"] == "--json stands before the last word of the command, expected behind it"
    )


def test_an_error_without_json_prints_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["forget"]) == 11
    assert capsys.readouterr().out == ""
    assert run_cli(["generate", "--", "--json", "more"]) == 2
    assert capsys.readouterr().out == ""
