"""Task files of one's own: what works, and faults named by file and key."""

from __future__ import annotations

import pytest

from proper_model.errors import DataError, TaskError
from proper_model.tasks.records import HistoryItem, Query
from proper_model.tasks.task import task_from_toml
from proper_model.tasks.templates import compile_template

MINIMAL = """
name = "mine"
kind = "classification"
template = "plain"
fields = ["text", "mood"]
metrics = ["accuracy"]
[labels]
values = ["calm", "angry"]
[history.plain]
prompt = "text: {text} mood:"
answer = "{mood}"
[templates.plain]
query = "text: {text} mood:"
history = "plain"
line = "{text}: {mood}\\n"
"""


def test_a_task_without_its_own_list_needs_one_in_every_prompt():
    text = MINIMAL.replace('values = ["calm", "angry"]', "pattern = 'of (?P<labels>.+):'")
    task = task_from_toml(text)
    assert task.labels is None
    assert task.labels_for(Query("q", "of calm, angry: x", "calm")) == ("calm", "angry")
    with pytest.raises(DataError, match="lists no labels"):
        task.labels_for(Query("q", "x", "calm"))


def test_inserted_text_is_never_parsed_as_a_template():
    example = task_from_toml(MINIMAL).query_example(Query("q", "{mood} {} {{", "calm"))
    assert example.prompt == "text: {mood} {} {{ mood:"


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="history item 'h': missing fields mood"):
        task_from_toml(MINIMAL).history_example(HistoryItem("h", {"text": "x"}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("text: {text} mood:", "text: {} mood:", "empty placeholder"),
        ("text: {text} mood:", "text: {author} mood:", "unknown placeholder {author}"),
        ("text: {text} mood:", "text: {text!r} mood:", "only names work"),
        ("text: {text} mood:", "text: {text mood:", "braces do not match"),
        ('query = "text: {text} mood:"', 'query = "mood:"', r"leaves out \['text'\]"),
        ('query = "text: {text}', 'drops = ["text"]\nquery = "text: {text}', "drops says"),
        ('answer = "{mood}"', 'answer = "calm"', "holds no field"),
        ('prompt = "text: {text} mood:"', 'prompt = "{text} {mood}"', "which is the answer"),
        ('values = ["calm", "angry"]', "", "labels need values"),
        ('values = ["calm", "angry"]', 'values = ["calm", "calm"]', "distinct"),
        ('values = ["calm", "angry"]', "pattern = '(x)'", "needs a group"),
        ('values = ["calm", "angry"]', "pattern = '(?P<labels>'", "not a regular expression"),
        ('kind = "classification"', 'kind = "ordinal"', "labels of an ordinal task"),
        ('kind = "classification"', 'kind = "ranking"', "kind must be one of"),
        ('metrics = ["accuracy"]', 'metrics = ["bleu"]', "are chosen from accuracy"),
        ('metrics = ["accuracy"]', 'metrics = ["rouge1"]', "are chosen from accuracy"),
        ('template = "plain"', 'template = "other"', r"names no \[templates"),
        ('history = "plain"', 'history = "other"', r"names no \[history"),
        ('name = "mine"', 'name = "mine"\ncolour = "red"', "unknown setting 'colour'"),
        ('name = "mine"', 'name = "../mine"', "may hold letters"),
        ('name = "mine"', "name = mine", "not TOML"),
        ("[templates.plain]", "[templates.plain]\nline_words = 0", "line_words must be 1 to"),
        ("[templates.plain]", "[templates.plain]\nquery_words = -1", "query_words must be 1 to"),
        (
            "[templates.plain]",
            f"[templates.plain]\nhistory_words = {'9' * 30}",
            "history_words must be 1 to",
        ),
        ('"mood"]', '"mood", "id"]', "reserved"),
        ("[labels]", '[query]\nmarkers = ["x"]\npattern = "(?P<t>x)"\n[labels]', "choose one"),
        ('answer = "{mood}"', 'answer = "{mood}"\nsplit = "text"', "unknown placeholder {text}"),
        ('line = "', 'line_words = 0\nline = "', "line_words must be 1 to"),
        ('line = "', 'query_words = 9\ntraining_query_words = 9\nline = "', "choose one"),
        ('line = "', 'collapse = ["query"]\nline = "', "collapse: unknown query"),
    ],
)
def test_faulty_task_files_are_refused_with_their_place(old, new, message):
    assert old in MINIMAL
    with pytest.raises(TaskError, match=message.replace("{", r"\{")) as caught:
        task_from_toml(MINIMAL.replace(old, new), where="mine.toml")
    assert caught.value.message.startswith("mine.toml")


def test_doubled_braces_are_literal():
    template = compile_template("{{{name}}}", {"name"}, where="here")
    assert template.render({"name": "x"}) == "{x}"


def test_the_documented_task_file_works(repository):
    page = (repository / "docs" / "tasks.md").read_text(encoding="utf-8")
    task = task_from_toml(page.split("```toml\n")[1].split("```")[0])
    query = Query("q", "moods: [calm, angry] note: All quiet.", "calm")
    assert task.query_example(query).prompt == "note: All quiet. mood:"
    assert task.labels_for(query) == ("calm", "angry")
