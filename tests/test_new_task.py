"""`proper new-task`: a task file out of four questions, or of the options that answer them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest

from client.commands import new_task as command
from proper_model.errors import TaskError
from proper_model.tasks.new_task import make_task, read_answers, read_line
from proper_model.tasks.records import HistoryItem
from proper_model.tasks.task import load_task
from tests.device_cli import Person
from tests.releases import small_users

MOODS = ("moods", "note: {text} mood: {mood}", "calm, angry")
REFUSED = {"config": 11, "task": 12, "storage": 20}


def test_a_metric_of_no_task_is_refused_before_anything_is_asked(tmp_path: Path, capsys) -> None:
    person = Person.make(tmp_path)
    for more in ([], ["--answer", "calm, angry"]):
        assert (
            person.run("new-task", tmp_path / "m.toml", "--metric", "rouge9", *more)
            == REFUSED["task"]
        )
        assert "metric: not one of" in capsys.readouterr().err


def options(name: str, item: str, answer: str, metric: str | None = None) -> list[str]:
    more = [] if metric is None else ["--metric", metric]
    return ["--name", name, "--item", item, "--answer", answer, *more]


def test_a_task_of_options_asks_as_its_line_says(tmp_path: Path, capsys) -> None:
    person, out = Person.make(tmp_path), tmp_path / "moods.toml"
    assert person.run("new-task", out, *options(*MOODS, "f1_macro")) == 0
    assert capsys.readouterr().out == f"{out}\n"
    task = load_task(str(out))
    example = task.history_example(HistoryItem("1", {"text": "a {b}\n", "mood": "calm"}))
    assert (example.prompt, example.answer) == ("note: a {b}\n mood:", "calm")
    assert task.ask("so much rain") == "note: so much rain mood:"
    assert (task.kind, task.labels) == ("classification", ("calm", "angry"))
    assert task.metrics[0] == "f1_macro"
    assert (
        task.retrieval_line(HistoryItem("1", {"text": "t", "mood": "calm"}))
        == "note: t mood: calm\n"
    )
    before = out.read_bytes()
    assert person.run("new-task", out, *options(*MOODS)) == REFUSED["storage"]
    assert out.read_bytes() == before


def test_a_task_of_several_fields_takes_a_question_apart() -> None:
    task = make_task("titles", 'by {name}? "{body}" {{x}} => {title}', "text")
    fields = {"name": "Ada", "body": "a \\ b", "title": "T"}
    item = task.history_example(HistoryItem("1", fields))
    assert item.prompt == 'by Ada? "a \\ b" {x} =>'
    assert task.ask(item.prompt) == item.prompt
    assert task.query_text(dataclasses.replace(small_users()[1][0].queries[0], input=item.prompt)) == {
        "name": "Ada", "body": "a \\ b",
    }  # fmt: skip
    assert task.kind == "generation"
    assert make_task("r", "{a} {b}", "1-5").labels == ("1", "2", "3", "4", "5")
    assert read_answers("0.5, 1, 1.5").kind == "ordinal"


def test_literal_braces_and_control_characters_stay_as_they_are() -> None:
    task = make_task("notes", '{{note}} \x7f\t"{note}" => {mood}', "text")
    item = task.history_example(HistoryItem("1", {"note": "rain", "mood": "calm"}))
    assert item.prompt == '{note} \x7f\t"rain" =>'
    assert task.ask("rain") == item.prompt


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"name": "two words"}, "name may hold"),
        ({"item": "note: {text} mood:"}, "item: ends with other text"),
        ({"item": "{mood}"}, "0 fields before the answer"),
        ({"item": "{mood} {mood}"}, "fields before the answer"),
        ({"item": "{text {mood}"}, "item: "),
        ({"item": "{text!r} {mood}"}, "has a format"),
        ({"item": "{Text} {mood}"}, "lower case"),
        ({"item": "{date} {mood}"}, "reserved"),
        ({"answer": "calm"}, "1 labels, expected at least two"),
        ({"answer": "calm, calm"}, "2 labels, expected at least two different"),
        ({"answer": "5-1"}, "scores from 5 to 1"),
        ({"answer": "1-9999"}, "scores from 1 to 9999"),
        ({"answer": "text", "metric": "mae"}, "not one of a generation task"),
    ],
)
def test_bad_answers_are_refused_and_nothing_is_written(
    changed: dict[str, str], expected: str, tmp_path: Path, capsys
) -> None:
    given = dict(zip(("name", "item", "answer"), MOODS, strict=True)) | changed
    person, out = Person.make(tmp_path), tmp_path / "new.toml"
    assert person.run("new-task", out, *options(**given)) == REFUSED["task"]
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_answers_are_typed_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    person, out = Person.make(tmp_path), tmp_path / "moods.toml"
    typed = ["my moods", "moods", "note: {text}: ok", MOODS[1], "calm", MOODS[2], "mae", ""]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed) + "\n"))
    monkeypatch.setattr(command, "asks", lambda: True)
    assert person.run("new-task", out) == 0
    said = capsys.readouterr().err
    assert said.count("error: ") == 4
    assert load_task(str(out)) == make_task(*MOODS)


def test_without_a_terminal_all_is_given_or_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    person, out = Person.make(tmp_path), tmp_path / "moods.toml"
    monkeypatch.setattr("sys.stdin", io.StringIO("moods\n"))
    assert person.run("new-task", out, "--name", "moods") == REFUSED["config"]
    assert "--item, --answer" in capsys.readouterr().err
    assert person.run("new-task", tmp_path / "moods.txt", *options(*MOODS)) == REFUSED["config"]
    monkeypatch.setattr("sys.stdin", io.StringIO("moods\n"))
    monkeypatch.setattr(command, "asks", lambda: True)
    assert person.run("new-task", out) == 130, "the input ended"
    assert [path.name for path in tmp_path.iterdir()] == ["passphrase"]


def test_a_line_is_read_whole() -> None:
    line = read_line("a {x} b {y}  c   {z}")
    assert (line.asked, line.answer) == (("x", "y"), "z")
    assert line.prompt.render({"x": "1", "y": "2"}) == "a 1 b 2  c"
    with pytest.raises(TaskError):
        read_line("")
