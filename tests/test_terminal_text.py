"""Nothing that a history or a model says acts on the terminal it is shown on."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unicodedata import category

import pytest

from client.commands.generate import Asked, Questions, answer_all
from client.commands.inspect import list_items
from client.person.state import TaskState
from client.terminal import terminal_text
from client.terminal.terminal_text import for_stdout, harmless, json_line, preview
from proper_model.json_output.document import document
from proper_model.tasks.records import HistoryItem

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b2J\x7f\r\u202egnp.exe\u2066\ufeff"
PLAIN = "é 😀 नमस्ते می\u200cخواهم 👩\u200d🚀 a\tb\nc"


def acting(text: str) -> set[str]:
    kept = "\n\t\u200c\u200d"
    return {sign for sign in text if category(sign) in ("Cc", "Cf") and sign not in kept}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdout is one; rich, which would add colours of its own, still sees a file."""
    stdout = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(terminal_text, "sys", SimpleNamespace(stdout=stdout))


def test_every_control_and_format_character_is_replaced() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert not acting(harmless(every))
    assert len(harmless(every)) == len(every)
    assert harmless(PLAIN) == PLAIN


def test_a_pipe_gets_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert for_stdout(ATTACK) == ATTACK


def test_previews_are_harmless_everywhere() -> None:
    assert preview({"a": "one\n two", "b": "x" * 100}, 12) == "one two | xx"
    assert not acting(preview({"text": ATTACK}, 60))


def test_json_is_the_same_value_and_acts_on_nothing() -> None:
    value = {"id": ATTACK, "output": PLAIN + "\U000e0041", "n": [1, None]}
    line = json_line(value)
    assert json.loads(line) == value
    assert not acting(line)
    assert "😀" in line


def test_the_list_of_items(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    item = HistoryItem(f"id\u202e{ATTACK}", {"text": ATTACK + " words"}, None)
    state = TaskState("", "", (item,), {}, {}, "")
    found = list_items(state)
    told = capsys.readouterr().out
    assert "words" in told
    assert not acting(told)
    assert list_items(state, shown=False) == found
    assert capsys.readouterr().out == ""
    line = document("inspect", found)
    assert not acting(line)
    assert json.loads(line) == {"schema": 1, "command": "inspect", **found}


class Speaker:
    """A model that says what would act."""

    stages = ("1",)

    def generate(self, *_: object, **__: object) -> list[str]:
        return ["first ", ATTACK]

    def unknown_words(self, _: str) -> tuple[int, int]:
        return 0, 1

    def unusable(self, *_: str) -> bool:
        return False


def test_answers_to_many_questions(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Questions(1, iter([Asked("a\x9b", "x")]))
    answer_all(Speaker(), asked, "1", None, None)
    told = capsys.readouterr().out
    assert json.loads(told) == {"id": "a\x9b", "output": "first " + ATTACK}
    assert not acting(told)
