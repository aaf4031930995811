"""Exports as sites write them: what is read of each, and what is left out and why."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random

import pytest

from client.commands.reading import agree, described
from client.history import text_input
from client.history.layouts import LAYOUTS, layout_of_form, layout_of_head, layout_of_header
from client.history.plain_text import from_html
from client.history.reading import ReadOptions, read_history
from client.history.text_forms import is_chat, is_clippings
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.task import load_task
from tests.histories import (
    ANDROID,
    EMPTY,
    GOODREADS,
    IMDB,
    IPHONE,
    KINDLE,
    READ,
    SECRET,
    TELEGRAM,
    reader,
    refused,
    tweets,
)


@pytest.fixture
def read(tmp_path):
    return reader(tmp_path)


@pytest.mark.parametrize("export", READ)
def test_an_export_is_read_as_its_items(read, export):
    (name, task, options), content, expected, left_out = READ[export]
    history = read(content, name=name, task=task, **options)
    assert [(item.date, dict(item.fields)) for item in history.items] == expected
    assert history.left_out == left_out
    assert history.read == len(expected) + sum(left_out.values())
    assert history.warnings == ()
    assert history.layout is not None
    told = described(history)
    assert told.startswith(f"{name}: recognized as {history.layout.name}; ")
    assert f"text from {history.places['text'][0]}" in told
    assert f"{len(expected)} item" in told


def test_a_ten_point_scale_is_never_taken_for_stars(read):
    """Ratings of 1 to 5 out of ten are labels of the task too."""
    refused(read, "h.csv: IMDb ratings go from 1-10, the task's from 1-5", "--scale 1-10:1-5",
            IMDB + "tt1,4,2024-01-05,One,One,u,Movie,9.2,1972\n")  # fmt: skip


@pytest.mark.parametrize("scale", ["half-stars:nearest", "1-5:1-5", "0-10:1-5"])
@pytest.mark.parametrize(
    "header", ["Your Rating,Date Rated,Const,Title", "You rated,created,const,Title"]
)
def test_no_other_scale_reads_an_export_of_ten_points(read, scale, header):
    refused(read, "IMDb ratings.* go from 1-10, the task's from 1-5", "--scale 1-10:1-5",
            f"{header}\n4,2024-01-05,tt1,One\n", scale=scale)  # fmt: skip


def test_in_a_file_of_another_scale_no_rating_is_taken_for_its_label(read):
    """Leaving out what lies above would keep 4 of ten as 4 of five."""
    rows = "text,score\n" + "".join(f"t{n},{n % 10 + 1}\n" for n in range(20))
    for scale, above in ((None, 10), ("half-stars:nearest", 10), ("1-5:1-5", 10), ("1-9:1-5", 2)):
        message = f"h.csv: {above} of 20 ratings lie above the scale"
        refused(read, message, "--scale", rows, lenient=True, scale=scale)
    slip = "text,score\n" + "".join(f"t{n},4\n" for n in range(10)) + "slip,6\n"
    assert read(slip, lenient=True).left_out == {"faulty": 1}


def test_every_layout_has_a_sample():
    names = {read_layout(name, content) for (name, *_), content, *_ in READ.values()}
    assert names == {layout.name for layout in LAYOUTS}


def read_layout(name, content):
    """The name of the layout that the beginning of a sample shows."""
    if name.endswith(".csv"):
        header = next(iter(content.splitlines())).replace('"', "").split(",")
        return layout_of_header(set(header)).name
    if is_chat(content) or is_clippings(content):
        return layout_of_form("whatsapp" if is_chat(content) else "clippings").name
    return layout_of_head(content).name


@pytest.mark.parametrize("export", ["letterboxd ratings", "imdb", "kindle"])
def test_a_guess_is_taken_only_when_somebody_says_so(read, export):
    (name, task, options), content, *_ = READ[export]
    history = read(content, name=name, task=task, **options)
    with pytest.raises(DataError, match=f"^{name}: ") as error:
        agree(history, interactive=False)
    assert "--yes" in error.value.hint
    assert f'--column "text={history.places["text"][0]}"' in error.value.hint
    # What the hint says needs no further word: every field is named.
    columns = {field: at[0] for field, at in history.places.items() if field != "date"}
    named = read(content, name=name, task=task, columns=columns, **options)
    assert (named.asked, named.items) == (True, history.items)
    assert history.asked is False
    sure = read(READ["twitter"][1], name="tweets.js", task="LaMP_7")
    agree(sure, interactive=False)


def test_a_task_that_an_export_cannot_serve_is_told_with_one_that_it_can(read):
    refused(
        read,
        r"tweets.js: Twitter/X archive, which has text \(tweet.full_text .*needs score, text: no score",
        "tasks that fit: LaMP_7 (--task)",
        tweets(SECRET),
        name="tweets.js",
    )
    refused(read, "no title$", "LaMP_3, LaMP_7", GOODREADS, task="LaMP_4")


def test_nobody_else_s_messages_are_taken_before_the_file_says_who_the_person_is(read):
    later = {"chats": TELEGRAM["chats"], "personal_information": TELEGRAM["personal_information"]}
    refused(read, "result.json: a chat with messages of 2 people", "--sender NAME",
            json.dumps(later), name="result.json", task="LaMP_7")  # fmt: skip
    named = read(json.dumps(later), name="result.json", task="LaMP_7", sender="user42")
    assert [item.fields["text"] for item in named.items] == ["see x.org now", "mine"]


def test_a_telegram_export_may_begin_with_many_contacts(read):
    contacts = {"list": [{"first_name": "B", "phone": "1" * 80}] * 1000}
    content = json.dumps(TELEGRAM | {"contacts": contacts})
    assert content.index('"chats"') > 1 << 16
    assert len(read(content, name="result.json", task="LaMP_7").items) == 2


def test_a_sender_is_named_for_chats_alone(read):
    for content, name in (
        (GOODREADS, "h.csv"),
        ('[{"text": "x"}]', "h.json"),
        (tweets("x"), "t.js"),
    ):
        refused(read, "--sender is for chats", "leave it out", content, name=name, task="LaMP_7",
                sender=SECRET)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "day"),
    [
        ("[15/01/2024 à 14:31:22] Bob: ", "2024-01-15"),
        ("15/01/2024 à 14:31 - Bob: ", "2024-01-15"),
        ("[15.01.24, 14:31:22] Bob: ", "2024-01-15"),
        ("15. 1. 2024 14:31 - Bob: ", "2024-01-15"),
        ("2024. 01. 15. 14:31 - Bob: ", "2024-01-15"),
        ("2024.01.15., 14:31 - Bob: ", "2024-01-15"),
        ("[2024. 1. 15. 오후 2:31:22] Bob: ", "2024-01-15"),
        ("2024/1/15 下午2:31 - Bob: ", "2024-01-15"),
        ("\u200f15\u200f/1\u200f/2024، 2:31 م - Bob: ", "2024-01-15"),
        ("15/1/24, 2:31 p.\u00a0m. - Bob: ", "2024-01-15"),
        ("15/1/24 2:31 xy - Bob: ", "2024-01-15"),
    ],
)
def test_another_person_s_message_is_never_a_further_line_of_one_s_own(read, line, day):
    own = line.replace("Bob", "Ada")
    earlier = own.replace("2:31", "2:30", 1).replace("14:31", "14:30", 1)
    history = read(
        f"{earlier}a\n{line}theirs\n{own}b\nand c\n", name="h.txt", task="LaMP_7", sender="Ada"
    )
    assert [(i.date, i.fields["text"]) for i in history.items] == [(day, "a"), (day, "b\nand c")]
    assert history.left_out == {"of other people": 1}


def test_a_text_that_is_too_long_is_told_wherever_it_stands(read):
    long = "x" * (text_input.MAX_RECORD_CHARS + 1)
    for content, options in (
        (f"{KINDLE}A Book\n- Your Note on page 1\n\n{long}\n==========\n", {}),
        (f"{KINDLE}{long}", {}),  # cut, and all of what is left is too long
        (f"1.2.24, 09:00 - Ada: x\n1.2.24, 09:01 - Ada: y\n{long}\n", {"sender": "Ada"}),
    ):
        history = read(content, name="h.txt", task="LaMP_7", lenient=True, **options)
        assert history.left_out["faulty"] == 1
        refused(read, "an entry|a message longer than", "", content, name="h.txt", task="LaMP_7",
                **options)  # fmt: skip


@pytest.mark.parametrize("half", [("AM", "PM"), ("오전", "오후"), ("ص", "م"), ("a. m.", "p. m.")])
def test_the_halves_of_a_day_are_in_order(read, half):
    lines = [f"15/1/24, 1:0{n} {half[n % 2]} - Ada: {half[n % 2]}{n}\n" for n in (1, 0, 3, 2)]
    history = read("".join(lines), name="h.txt", task="LaMP_7", sender="Ada")
    assert [i.fields["text"][-1] for i in history.items] == ["0", "2", "1", "3"]


@pytest.mark.parametrize(
    "text",
    ["Mensagem apagada", "Eliminaste este mensaje.", "Du hast diese Nachricht gelöscht.",
     "Ce message a été supprimé", "Missed video call", "<Médias omis>", "IMG-1.jpg (arquivo anexado)",
     "location: https://maps.google.com/?q=1.5,2", "doc.pdf • \u200e3 pages \u200edocument omitted",
     "\u200ePOLL:", "Waiting for this message. This may take a while."],
)  # fmt: skip
def test_what_the_program_wrote_is_not_the_person_s_text(read, text):
    history = read(f"15/01/2024, 14:30 - Ada: {text}\n", name="h.txt", task="LaMP_7", sender="Ada")
    assert (history.items, history.left_out) == ((), {"media and notices": 1})


def test_a_number_as_a_sender_is_typed_with_plain_blanks(read):
    line = "15/01/2024, 14:30 - \u202a+49\u00a0(170)\u00a0123\u20114567\u202c: hi\n"
    history = read(line, name="h.txt", task="LaMP_7", sender="+49 (170) 123-4567")
    assert len(history.items) == 1


def test_a_chat_needs_to_be_told_who_the_person_is(read):
    for content, people in ((ANDROID, 2), (IPHONE, 2), ("1.2.24, 09:00 - Ada: x\n", 1)):
        message = f"h.txt: a chat with messages of {people} p"
        refused(read, message, "--sender NAME", content, name="h.txt", task="LaMP_7")
        with pytest.raises(DataError, match="no message of the sender that --sender names"):
            read(content, name="h.txt", task="LaMP_7", sender=SECRET)
    # Marks around a name, and the tilde of somebody unknown, are no part of it.
    assert (
        read(IPHONE, name="h.txt", task="LaMP_7", sender="Bob").items[0].fields["text"] == "theirs"
    )


@pytest.mark.parametrize(
    ("line", "date", "order"),
    [
        ("15.01.24, 14:30 - Ada: x", "2024-01-15", None),
        ("[15.01.24, 14:30:59] Ada: x", "2024-01-15", None),
        ("1/15/24, 2:30\u202fPM - Ada: x", "2024-01-15", None),
        ("1/2/24, 2:30 p.\u00a0m. - Ada: x", "2024-01-02", "mdy"),
        ("1/2/24, 2:30 PM - Ada: x", "2024-02-01", "dmy"),
        ("[2024-01-15, 2:30:22 PM] Ada: x", "2024-01-15", None),
        ("2024/01/15, 14:30 - Ada: x", "2024-01-15", None),
        ("[12.3.2022 klo 14.08.18] Ada: x", "2022-03-12", None),
    ],
)
def test_dates_of_chats_in_several_countries(read, line, date, order):
    options = {"name": "h.txt", "task": "LaMP_7", "sender": "Ada", "date_order": order}
    assert [item.date for item in read(line + "\n", **options).items] == [date]


# -- other places, other forms -------------------------------------------------------------------


def test_a_path_reaches_into_json(read):
    inner = [{"a": {"b": "one"}, "at": "2020-01-02"}, {"a": {"b": "two"}, "at": 1577836800}]
    expected = [("2020-01-01", {"text": "two"}), ("2020-01-02", {"text": "one"})]
    lines = "".join(json.dumps(item) + "\n" for item in inner)
    for content, prefix in (
        (json.dumps(inner), ""),
        (lines, ""),
        (json.dumps({"x": [1], "data": {"list": inner}}), "data.list[]."),
        (json.dumps([{"list": inner}], indent=1), "[].list[]."),
    ):
        columns = {"text": f"{prefix}a.b", "date": f"{prefix}at"}
        history = read(content, name="h.json", task="LaMP_7", columns=columns)
        assert [(item.date, dict(item.fields)) for item in history.items] == expected
    refused(read, "record 1, field text: missing", "--column text=KEY", json.dumps(inner),
            name="h.json", task="LaMP_7", columns={"text": "a.c"})  # fmt: skip
    refused(read, "record 1, field text: missing; the record has at$", "--column text=KEY",
            json.dumps([{"at": 1}]), name="h.json", task="LaMP_7")  # fmt: skip


def test_a_date_can_be_ignored_and_fields_left_out(read):
    table = "text,score,date\nb,1,2024\na,2,soon\n"
    for options in ({"use_date": False}, {"columns": {"date": ""}}):
        history = read(table, **options)
        assert [(i.fields["text"], i.date) for i in history.items] == [("b", None), ("a", None)]
    refused(read, "line 3.*field date: not a date, found text", "--no-date", table)
    refused(read, "needs this field", "--column text=NAME", table, columns={"text": ""},
            error=ConfigError)  # fmt: skip
    refused(read, "contradict", "", table, columns={"date": "date"}, use_date=False,
            error=ConfigError)  # fmt: skip
    for nowhere in ({"use_date": False}, {"columns": {"date": ""}}):
        refused(read, "--date-order is for dates", "", table, date_order="dmy", error=ConfigError,
                **nowhere)  # fmt: skip


def test_an_optional_field_never_costs_an_item(read):
    record = {"text": "x", "category": "sports", "title": SECRET, "date": "2024-01-01", "id": "a"}
    for name, faulty in (
        ("title", 4.5), ("title", [SECRET]), ("title", "\0"), ("title", True), ("date", SECRET),
        ("date", "2024-02-30"), ("date", {}), ("id", ""), ("id", f"{SECRET}\n"), ("id", 1.5),
    ):  # fmt: skip
        content = json.dumps([record | {name: faulty}])
        history = read(content, name="h.json", task="LaMP_2N", lenient=True)
        (item,) = history.items
        assert history.left_out == {}
        assert f"h.json, record 1, field {name}: " in history.warnings[0]
        assert SECRET not in "".join(history.warnings)
        kept = {"title": item.fields.get("title"), "date": item.date, "id": item.id}
        assert kept[name] != record[name]
        assert all(kept[other] == record[other] for other in kept if other != name)
        refused(read, f"field {name}: ", "", content, name="h.json", task="LaMP_2N")


def test_an_empty_answer_is_no_item_in_any_form(read):
    for name, content in (
        ("h.csv", "text,score\nx,\n ,4\nok,3\n,,x\n,\n"),
        ("h.jsonl", '{"text":"x","score":""}\n{"text":" ","score":4}\n{"text":"ok","score":3}\n'
                    '{"text":null,"score":1}\n["x"]\n'),
    ):  # fmt: skip
        history = read(content, name=name, lenient=True)
        assert [dict(item.fields) for item in history.items] == [{"text": "ok", "score": "3"}]
        assert history.left_out == {EMPTY: 3, "faulty": 1}
    assert read("text,score\nx,\nok,3\n").left_out == {EMPTY: 1}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a</p>b", "a\n\nb"),
        ("<blockquote>theirs</blockquote>mine", "theirs\nmine"),
        ("<p>x</p><pre>y</pre>z", "x\n\ny\nz"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<ul><li>1</li><li>2</li></ul>x", "1\n2\nx"),
        ("<tr><td>a</td><td>b</td></tr>", "a b"),
        ("a<br/><br/>b<i>c</i>", "a\n\nbc"),
        ("I <3 this & 5 < 6 > 2 &lt;b&gt;", "I <3 this & 5 < 6 > 2 <b>"),
    ],
)
def test_html_never_joins_the_words_of_two_lines(html, text):
    assert from_html(html) == text


# -- whatever stands in a file ---------------------------------------------------------------------

PIECES = ('"', ",", "\n", "\r", "]", "}", "{", "[", "\0", "\ufeff", "<", "&#0;", "NaN", "1e999", "9" * 50,
          "\\ud800", "null", "==========", "- ", "½", "sep=;", " - ", ": ", "é", "\u2028")  # fmt: skip


MUTATIONS = 10  # of every sample; more of them found nothing else


@pytest.mark.parametrize("export", READ)
def test_mutated_exports_end_in_items_or_in_an_error_of_ours(read, export):
    """Never an exception of another kind, and never a record that is not accounted for."""
    (name, task, options), content, *_ = READ[export]
    random = Random(export)
    for _ in range(MUTATIONS):
        text = content
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(text) + 1)
            cut = random.choice((0, 0, 1, 5, 40))
            text = text[:at] + random.choice(PIECES) + text[at + cut :]
        lenient = random.random() < 0.5
        with suppress(ConfigError, DataError):
            history = read(text, name=name, task=task, lenient=lenient, **options)
            assert history.read == len(history.items) + sum(history.left_out.values())


CASES = [
    ("goodreads-export/goodreads_library_export.csv", "LaMP_3", {}, 5),
    ("float-ratings/float.csv", "LaMP_3", {}, 6),
    ("float-ratings/float_scores.json", "LaMP_3", {}, 6),
    ("float-ratings/letterboxd_ratings.csv", "LaMP_3", {"scale": "half-stars:nearest"}, 7),
    ("float-ratings/storygraph.csv", "LaMP_3", {"scale": "quarter-stars:nearest"}, 5),
    ("twitter-archive/tweets.js", "LaMP_7", {}, 5),
    ("twitter-archive/outbox.json", "LaMP_7", {}, 5),
]


@pytest.mark.parametrize(("path", "task", "options", "items"), CASES)
def test_files_that_people_sent_are_read(shared, path, task, options, items):
    file = shared / "cases" / path
    if not file.is_file():
        pytest.skip(f"needs {file}")
    history = read_history(file, load_task(task), ReadOptions(**options))
    assert len(history.items) == items
    assert not any(
        "&amp;" in text or "<" in text for i in history.items for text in i.fields.values()
    )
