"""One person's history: four forms, one result, against hand-written items and the other reader."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.history import newest
from client.history.forms import recognized
from client.history.item import answer_labels
from client.history.reading import History, ReadOptions, read_history
from proper_model.data.users import user_from_json
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.records import HistoryItem
from proper_model.tasks.task import load_task, shipped_tasks, task_from_toml
from tests.histories import put, reader

TASK = load_task("LaMP_3", template="short")
FORMS = ("json", "jsonl", "csv", "lamp")
SUFFIXES = {"json": ".json", "jsonl": ".jsonl", "csv": ".csv", "lamp": ".json"}
ITEMS = (
    HistoryItem("a", {"text": 'slow, but "good"\nin the end', "score": "4"}, "2023-01-31"),
    HistoryItem("b", {"text": "é 😀; tab\tand [braces}", "score": "1"}, "2023-02-01"),
    HistoryItem("c", {"text": "fine", "score": "5"}, "2024-02-29"),
)


def raw(item):
    date = {} if item.date is None else {"date": item.date}
    return {"id": item.id, **item.fields, **date}


def written(items, form, delimiter=","):
    """The items as a file of the form, by the standard library alone."""
    records = [raw(item) for item in items]
    if form == "json":
        return json.dumps(records, ensure_ascii=False, indent=1)
    if form == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records)
    if form == "lamp":
        query = [{"id": "q", "input": "review: x", "gold": "1"}]
        return json.dumps({"user_id": "me", "profile": records, "query": query})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["id", "date", "text", "score"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    return reader(tmp_path, "history.json", TASK)


# -- forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.json", '[{"id": "x", "text": "one", "score": 2, "date": "2020"}]'),
        (
            "h.json",
            '{"user_id": 7, "profile": [{"id": "x", "text": "one", "score": "2", "date": 2020}]}',
        ),
        (
            "h.json",
            '[{"user_id": "7", "query": [{"id": "q", "input": "i", "gold": "1"}, {}], "profile":'
            ' [{"date": "2020", "score": "2", "text": "one", "id": "x", "extra": [1]}]}]',
        ),
        ("h.jsonl", '{"id": "x", "text": "one", "score": "2", "date": "2020"}'),
        ("h.jsonl", '\r\n{"id": "x", "text": "one", "score": "2", "date": "2020"}\r\n\n'),
        ("h.csv", "id,text,score,date\nx,one,2,2020\n"),
        ("h.csv", "score;date;id;text;other\r\n2;2020;x;one;\r\n"),
        ("h.tsv", 'text\tid\tscore\tdate\n"one"\tx\t2\t2020\n\n'),
        ("h", "id,text,score,date\nx,one,2,2020"),
        ("h", '{"id": "x", "text": "one", "score": "2", "date": "2020"}\n'),
        ("h", '{\n "id": "x", "text": "one", "score": "2", "date": "2020"\n}'),
        ("h", ' \n [ {"id": "x", "text": "one", "score": "2", "date": "2020"} ] \n'),
        ("h.txt", '{\n "profile": [{"id": "x", "text": "one", "score": "2", "date": "2020"}]\n}'),
    ],
)
def test_every_form_gives_the_item_that_stands_there(read, name, content):
    for data in (content.encode(), b"\xef\xbb\xbf" + content.encode()):
        history = read(data, name=name)
        assert history.items == (HistoryItem("x", {"text": "one", "score": "2"}, "2020"),)
        assert (history.read, history.left_out, history.warnings) == (1, {}, ())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("say_form", [True, False])
def test_the_same_items_through_every_form_are_equal(read, form, say_form):
    name = "history" + (".dat" if say_form else SUFFIXES[form])
    history = read(written(ITEMS[::-1], form), name=name, form=form if say_form else None)
    assert history.items == ITEMS
    assert history.warnings == ()


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_the_separator_of_a_table_is_found(read, delimiter):
    assert read(written(ITEMS, "csv", delimiter), name="h.csv").items == ITEMS


def test_columns_may_have_other_names(read):
    table = "Review,Stars,When,text\nfine,5,2024-02-29,ignored\n"
    columns = {"text": "Review", "score": "Stars", "date": "When"}
    item = read(table, name="h.csv", columns=columns).items[0]
    assert (item.fields, item.date) == ({"text": "fine", "score": "5"}, "2024-02-29")
    with pytest.raises(ConfigError, match="columns: stars is no field of task LaMP_3"):
        read(table, name="h.csv", columns={"stars": "Stars"})
    items = [{"Review": "fine", "Stars": 5.0, "When": "2024-02-29", "text": "ignored"}]
    for name, content in (("h.json", json.dumps(items)), ("h.jsonl", json.dumps(items[0]))):
        assert read(content, name=name, columns=columns).items == (item,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text;Stars\nfine;5\n", "no column named score; found text, Stars$"),
        ("text,score,text\nfine,5,x\n", "the header names text twice"),
    ],
)
def test_missing_columns_are_named_with_those_that_are_there(read, content, message):
    with pytest.raises(DataError, match=message):
        read(content, name="h.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "xml"}, "unknown form 'xml'"),
        ({"max_items": 0}, "max_items"),
        ({"date_order": "us"}, "unknown order"),
    ],
)
def test_options_that_cannot_be_are_refused(read, options, message):
    with pytest.raises(ConfigError, match=message):
        read("[]", **options)


def test_standard_input(monkeypatch):
    for source in (None, "-"):
        stream = io.TextIOWrapper(io.BytesIO(written(ITEMS, "jsonl").encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        assert read_history(source and Path(source), TASK).items == ITEMS


def test_recognition_prefers_content_and_falls_back_on_names():
    assert recognized('[{"a": 1}', ".jsonl") == "json"
    assert recognized('{"a": 1}\n{"a": 2}', ".json") == "jsonl"
    assert recognized('{"a": 1}\n', "") == "jsonl"
    assert recognized('{"user_id": 1, "profile": [{"a": 1}', "") == "json"
    assert recognized('{"text": "never ends', "") == "jsonl"
    assert recognized('{"broken": \n{"a": 1}\n', ".txt") == "jsonl"
    assert recognized("{\n", ".jsonl") == "jsonl"
    assert recognized('{"profile": [1}\n', ".jsonl") == "jsonl"
    assert recognized("[text],score\n", ".csv") == "csv"
    assert recognized("<html>", ".json") == "json"
    assert recognized("text,score\n", "") == "csv"


fields = st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(str.strip)
DATES = st.one_of(st.dates().map(lambda d: d.isoformat()), st.integers(1000, 9999).map(str))


@given(
    items=st.lists(st.tuples(fields, st.sampled_from(TASK.labels), DATES), min_size=0, max_size=8),
    dated=st.booleans(),
    form=st.sampled_from(FORMS),
)
def test_what_is_written_is_read_back(tmp_path_factory, items, dated, form):
    expected = [
        HistoryItem(f"i{n}", {"text": text, "score": score}, date if dated else None)
        for n, (text, score, date) in enumerate(items)
    ]
    if not expected and form == "jsonl":
        return  # no lines at all are an empty file, which is refused
    path = tmp_path_factory.getbasetemp() / f"round-trip{SUFFIXES[form]}"
    path.write_bytes(written(expected, form).encode())
    history = read_history(path, TASK, ReadOptions(form=form))
    if dated:
        # A year is its beginning and stands before its days.
        expected.sort(key=lambda item: [int(part) for part in item.date.split("-")])
    assert list(history.items) == expected


SETS = (
    "movie_ratings",
    "news_categories",
    "news_headlines",
    "personality_items",
    "politeness_ratings",
    "scholarly_titles",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SETS)
def test_real_users_are_read_as_the_reader_of_populations_does(
    shared, repository, tmp_path, name, form
):
    task = load_task(str(repository / "profiles" / "tasks" / f"{name}.toml"))
    path = shared / "data" / name / "user_top_100_history.json"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    record = json.loads(path.read_text())[3]
    user = user_from_json(record, task)
    assert len(user.history) > 10
    if form == "lamp":
        text = json.dumps(record)
    elif form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(record["profile"][0]))
        writer.writeheader()
        writer.writerows(record["profile"])
        text = stream.getvalue()
    else:
        text = written(user.history, form)
    history = read_history(put(tmp_path / f"me{SUFFIXES[form]}", text), task)
    assert history.items == user.history
    assert history.read == len(user.history)
    assert history.left_out == {}


# -- one person ---------------------------------------------------------------------------------


def question(number, user, *texts):
    profile = [{"id": f"{number}-{n}", "text": t, "score": "3"} for n, t in enumerate(texts)]
    owner = {} if user is None else {"user_id": user}
    return {"id": str(number), "input": f"review: {number}", "profile": profile, **owner}


def test_questions_of_one_person_share_one_history(read):
    records = [question(1, "me", "x", "y"), question(2, "me", "x", "y", "z")]
    history = read(json.dumps(records))
    assert [item.fields["text"] for item in history.items] == ["x", "y", "z"]
    assert (history.read, history.left_out) == (5, {"duplicate": 2})
    lines = "\n".join(json.dumps(record) for record in records)
    assert read(lines, name="h.jsonl").items == history.items
    assert len(read(json.dumps(question(1, None, "x", "y"))).items) == 2


@pytest.mark.parametrize(
    "records",
    [
        [question(1, "me", "x"), question(2, "you", "x")],
        [question(1, None, "x"), question(2, None, "x")],
        [question(1, "me", "x"), question(2, None, "x")],
        [{"user_id": "me", "profile": []}, {"user_id": "you", "profile": []}],
        # Found before the other's items are: these would be told of otherwise.
        [{"user_id": "me", "profile": []}, {"user_id": "you", "profile": [{"score": "9"}]}],
    ],
)
def test_more_than_one_person_is_refused(read, records):
    for lenient in (False, True):
        with pytest.raises(
            DataError, match="user records 1 and 2 belong to more than one"
        ) as error:
            read(json.dumps(records), lenient=lenient)
        assert "you" not in error.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"user_id": "me"}]', "user record 1, field profile: missing or not a list"),
        ('[{"profile": []}, {"text": "x", "score": "1"}]', "user record 2, field profile: missing"),
        ('{"profile": {}}', "user record 1, field profile: missing or not a list"),
        ('{"profile": [], "profile": []}', "user record 1: an object has the same key twice"),
        ('{"user_id": [], "profile": []}', "user record 1, field user_id: expected a string"),
        ('{"a": NaN, "profile": []}', "user record 1: NaN and Infinity"),
    ],
)
def test_faults_of_user_records(read, content, message):
    with pytest.raises(DataError, match=message):
        read(content, form="lamp")


# -- order, identity, labels --------------------------------------------------------------------


@pytest.mark.parametrize("date", ["2020-2-1", " 2020-02-01", "2020-02-1 "])
def test_a_date_is_kept_in_one_spelling(read, date):
    (item,) = read(json.dumps([{"text": "x", "score": "1", "date": date}])).items
    assert item.date == "2020-02-01"


def rows(*cells):
    return "id,text,score,date\n" + "".join(f"{row}\n" for row in cells)


def test_without_dates_the_order_of_the_file_counts_and_is_said(read):
    history = read(rows("b,x,1,", "a,y,2,"), name="h.csv")
    assert [item.id for item in history.items] == ["b", "a"]
    assert history.warnings == (
        "h.csv: no item has a date, so the file's order counts, oldest first",
    )
    history = read(rows("b,x,1,2024", "a,y,2,", "c,z,3,2001"), name="h.csv")
    assert [item.id for item in history.items] == ["b", "a", "c"]
    assert history.warnings == ("h.csv: only some items have a date, so the file's order counts",)
    history = read(rows("b,x,1,2024-01-01", "a,y,2,2024", "c,z,3,2024-01-01"), name="h.csv")
    assert [item.id for item in history.items] == ["a", "b", "c"]
    assert "mixes years and full dates" in history.warnings[0]


def test_only_the_newest_are_kept(read):
    dated = [f"i{n},t{n},1,2024-01-{30 - n:02d}" for n in range(20)]
    history = read(rows(*dated), name="h.csv", max_items=3)
    assert [item.id for item in history.items] == ["i2", "i1", "i0"]
    assert (history.read, history.left_out, history.warnings) == (20, {"older": 17}, ())
    undated = [f"i{n},t{n},1,{'' if n == 15 else '2024-01-01'}" for n in range(20)]
    history = read(rows(*undated), name="h.csv", max_items=3)
    assert [item.id for item in history.items] == ["i17", "i18", "i19"]
    assert history.left_out == {"older": 17}


def test_the_default_cap_is_told(read, monkeypatch):
    monkeypatch.setattr("client.history.reading.DEFAULT_MAX_ITEMS", 2)
    history = read(written(ITEMS, "json"))
    assert history.items == ITEMS[1:]
    assert history.warnings == ("history.json: 1 item left out, older than the newest 2",)


def test_the_same_item_twice_counts_once(read):
    history = read(
        rows("a,x,1,2024", "b,y,2,2024", "a,x,1,2024", ",y,2,2024", ",y,2,2024"), name="h.csv"
    )
    assert [item.fields["text"] for item in history.items] == ["x", "y", "y"]
    assert (history.read, history.left_out) == (5, {"duplicate": 2})


def test_one_id_with_two_contents_names_both_records(read):
    content = rows("a,x,1,2024", "b,x,1,2024", "a,secret,1,2024")
    with pytest.raises(DataError) as error:
        read(content, name="h.csv")
    assert error.value.message == (
        "h.csv, record 3 (line 4), field id: the same id as record 1, with another content"
    )
    history = read(content, name="h.csv", lenient=True)
    assert [item.id for item in history.items] == ["a", "b"]
    assert history.left_out == {"faulty": 1}
    # The date belongs to the content.
    with pytest.raises(DataError, match="the same id as record 1"):
        read(rows("a,x,1,2024", "a,x,1,2025"), name="h.csv")


def test_repetitions_of_kept_items_are_found_however_far_apart(read, monkeypatch):
    monkeypatch.setattr(newest, "REMEMBERED", 4)
    others = [f"o{n},t,1,2001" for n in range(50)]
    history = read(rows("a,x,1,2024", *others, "a,x,1,2024"), name="h.csv", max_items=2)
    assert [item.id for item in history.items] == ["o49", "a"]
    assert history.left_out == {"duplicate": 1, "older": 49}
    with pytest.raises(DataError, match="the same id as record 1"):
        read(rows("a,x,1,2024", *others, "a,y,1,2024"), name="h.csv", max_items=2)


def test_items_without_an_id_get_one_from_their_content(read):
    # The documented form: JSON of sorted fields and the date as numbers.
    text = '[[["score", "4"], ["text", "caf\\u00e9"]], [2024, 5, 1]]'
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    item = '{"text": "café", "score": 4, "date": "2024-05-01"%s}'
    for content, name in (
        (f"[{item % ''}]", "h.json"),
        (item % ', "id": null, "extra": 1', "h.jsonl"),
        (rows(",café,4,2024-5-1"), "h.csv"),
    ):
        assert [i.id for i in read(content, name=name).items] == [expected]


def test_answers_must_be_labels(read):
    for answer, words in (("6", "above"), ("four", "no rating")):
        content = json.dumps([{"id": "a", "text": "secret", "score": answer}])
        with pytest.raises(DataError, match=f"record 1, field score: the answer is .*{words}") as e:
            read(content)
        assert "secret" not in str(e.value) + e.value.hint
        assert "four" not in str(e.value)
    movies = load_task("LaMP_2M")
    with pytest.raises(DataError, match="not among the 15 labels of task LaMP_2M$"):
        read('[{"description": "d", "tag": "western"}]', task=movies)


@pytest.mark.parametrize("name", ["h.json", "h.csv"])
def test_a_label_in_another_case_is_the_label_and_it_is_said(read, name):
    rows = [
        {"description": d, "tag": t} for d, t in (("a", "Sci-Fi"), ("b", "COMEDY"), ("c", "comedy"))
    ]
    content = json.dumps(rows)
    if name == "h.csv":
        content = "description,tag\n" + "".join(f"{r['description']},{r['tag']}\n" for r in rows)
    history = read(content, name=name, task=load_task("LaMP_2M"))
    assert [item.fields["tag"] for item in history.items] == ["sci-fi", "comedy", "comedy"]
    told = history.warnings[0]
    assert f"{name}, field tag: a label in another case" in told
    assert "(2 times" in told


def test_a_label_that_two_labels_are_like_is_refused(read):
    text = load_task("LaMP_2M").toml_text
    assert text.count('"comedy"') == 1
    task = task_from_toml(text.replace('"comedy"', '"comedy", "Comedy"'), where="a task")
    content = '[{{"description": "d", "tag": "{}"}}]'
    assert read(content.format("Comedy"), task=task).items[0].fields["tag"] == "Comedy"
    with pytest.raises(DataError, match="field tag: .* 2 of them differ from it only in case"):
        read(content.format("COMEDY"), task=task)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.csv", "TEXT,Score,Date\nfine,5,2024-02-29\n"),
        ("h.jsonl", '{"TEXT": "fine", "Score": 5, "Date": "2024-02-29"}'),
    ],
)
def test_names_of_fields_in_another_case_are_taken_and_it_is_said(read, name, content):
    history = read(content, name=name)
    assert [(i.fields, i.date) for i in history.items] == [
        ({"text": "fine", "score": "5"}, "2024-02-29")
    ]
    told = " ".join(history.warnings)
    assert all(f"field {field}: read from a name" in told for field in ("text", "score", "date"))
    named = read(content, name=name, columns={"text": "text", "date": ""})
    assert named.items[0].date is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.csv", "Text,TEXT,score\nsecret,b,5\n", "h.csv, column text: two names differ"),
        (
            "h.json",
            '[{"Text": "secret", "TEXT": "b", "score": 5}]',
            "record 1, field text: two names",
        ),
    ],
)
def test_two_names_that_are_like_a_field_are_refused(read, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(content, name=name)
    assert "--column text=" in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint
    exact = content.replace("TEXT", "text")
    assert read(exact, name=name).items[0].fields["text"] == "b", "the very name is no question"
    assert read(content, name=name, columns={"text": "TEXT"}).items[0].fields["text"] == "b"


def test_which_shipped_tasks_have_histories_of_labels():
    labelled = {name for name in shipped_tasks() if answer_labels(load_task(name))}
    assert labelled == {"LaMP_2M", "LaMP_2N", "LaMP_3", "synth_tag", "synth_rate"}
    assert load_task("LaMP_1").labels is not None  # its histories answer something else


def test_composed_answers_must_hold_something(read):
    task = load_task("LaMP_7")
    assert task.answer_field is None or task.kind == "generation"
    name = next(iter(task.required_fields))
    assert len(read(json.dumps([{name: "two words"}]), task=task).items) == 1
    history = read(json.dumps([{name: "  "}, {name: "x"}, {name: None}]), task=task)
    assert [item.fields for item in history.items] == [{name: "x"}]
    assert history.left_out == {"without text or answer": 2}


def test_a_history_does_not_show_its_text():
    history = History(ITEMS, 3, {}, ())
    assert "fine" not in repr(history)
