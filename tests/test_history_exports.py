"""Exports as sites write them, made up by hand: what is read of each, and what is left out and why."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from random import Random

import pytest

from client.commands.reading import agree, described
from client.history import ReadOptions, read_history
from client.history_chat import is_chat
from client.history_clippings import is_clippings
from client.history_layouts import LAYOUTS, is_known_name
from client.history_tree import values_at
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import load_task

SECRET = "canary-7f3a"
GOODREADS = (
    "Book Id,Title,Author,ISBN,My Rating,Average Rating,Date Read,Date Added,Exclusive Shelf,"
    "My Review,Spoiler,Private Notes,Read Count,Owned Copies\n"
)
STORYGRAPH = "Title,Authors,Read Status,Date Added,Last Date Read,Star Rating,Review,Owned?\n"
LETTERBOXD = "Date,Name,Year,Letterboxd URI,Rating"
IMDB = "Const,Your Rating,Date Rated,Title,Original Title,URL,Title Type,IMDb Rating,Year\n"
COMMENTS = "id,permalink,date,ip,subreddit,gildings,link,parent,body,media\n"
POSTS = "id,permalink,date,ip,subreddit,gildings,title,url,body\n"


def tweets(*texts, name="tweets"):
    entries = [
        {"tweet": {"full_text": text, "created_at": f"Wed Oct 10 20:19:{59 - n} +0000 2018"}}
        for n, text in enumerate(texts)
    ]
    return f"window.YTD.{name}.part0 = " + json.dumps(entries, indent=2)


def outbox(*activities):
    return json.dumps({"@context": "x", "type": "OrderedCollection", "orderedItems": activities})


def toot(day, content):
    published = f"2023-02-{day:02d}T10:11:12Z"
    return {"type": "Create", "published": published, "object": {"content": content}}


def said(number, sender, text, **more):
    message = {"id": number, "type": "message", "from": f"Name {sender}", "from_id": sender}
    date = {"date": "2023-01-01T10:00:00", "date_unixtime": str(1672567200 + number)}
    return {**message, **date, "text": text, **more}


MESSAGES = [
    {"id": 0, "type": "service", "date": "2023-01-01T09:00:00", "action": "x", "text": ""},
    said(1, "user42", ["see ", {"type": "link", "text": "x.org"}, " now"]),
    said(2, "user7", "theirs"),
    said(3, "user42", "passed on", forwarded_from="Somebody"),
    said(4, "user42", "", photo="a.jpg"),
    said(5, "user42", "mine"),
]
TELEGRAM = {
    "about": "Here is the data you requested.",
    "personal_information": {"user_id": 42, "first_name": "A"},
    "contacts": {"list": [{"first_name": "B", "deep": [[{"a": [1]}]]}]},
    "chats": {"about": "x", "list": [{"type": "personal_chat", "id": 7, "messages": MESSAGES}]},
}
ANDROID = """\
15/01/2024, 14:30 - Messages and calls are end-to-end encrypted. No one else can read them.
15/01/2024, 14:30 - Ada: Hello
second line: yes
16/01/2024, 14:31 - Bob: theirs
16/01/2024, 14:32 - Ada: <Media omitted>
17/01/2024, 09:00 - Ada: This message was deleted
17/01/2024, 09:01 - Ada: mended <This message was edited>
17/01/2024, 09:02 - Ada: IMG-1.jpg (file attached)
"""
IPHONE = (
    "[15/01/2024, 14:30:22] Ada: \u200eMessages and calls are end-to-end encrypted.\r\n"
    "[15/01/2024, 14:30:23] Ada: Hello\r\nsecond line: yes\r\n"
    "\u200e[15/01/2024, 14:30:24] Ada: \u200eimage omitted\r\n"
    "[15/01/2024, 14:30:25] ~\u202fBob: theirs\r\n"
)
KINDLE = """\
\ufeffA Book (An Author)
- Your Highlight on page 99 | Location 249-251 | Added on Thursday, 4 June 2020 12:18:46

an author's words
==========
A Book (An Author)
- Your Bookmark on page 99 | Added on Thursday, 4 June 2020 12:18:47


==========
Another
- Your Note on Location 1 | Added on Sunday, December 4, 2016 9:26:27 PM

my own words
==========
"""
NOT_RATED, EMPTY = "not rated", "without text or answer"

# name, content, task, options -> (date, fields) oldest first, what is left out
READ = {
    "goodreads": (
        ("goodreads_library_export.csv", "LaMP_3", {}),
        GOODREADS
        + "1,T,A,,5,3.9,2024/03/01,2024/02/11,read,Loved it.<br/><br/>Really &amp; so,,,1,0\n"
        '2,T,A,,2,3.9,,2024/01/02,read,"Too slow\nfor me",,,1,0\n'
        "3,T,A,,0,3.9,,2024/05/05,to-read,,,,0,0\n4,T,A,,4,3.9,2023/11/30,2023/10/01,read, ,,,1,0\n",
        [
            ("2024-01-02", {"text": "Too slow\nfor me", "score": "2"}),
            ("2024-03-01", {"text": "Loved it.\n\nReally & so", "score": "5"}),
        ],
        {NOT_RATED: 1, EMPTY: 1},
    ),
    "storygraph": (
        ("export.csv", "LaMP_3", {"scale": "quarter-stars:nearest"}),
        STORYGRAPH + "B,A,read,2024/01/02,2024/02/03,4.25,<div>fine</div>,No\n"
        "C,A,read,2024/01/01,,3.0,good,No\nD,A,to-read,2024/01/01,,,later,No\n",
        [
            ("2024-01-01", {"text": "good", "score": "3"}),
            ("2024-02-03", {"text": "fine", "score": "4"}),
        ],
        {NOT_RATED: 1},
    ),
    "letterboxd reviews": (
        ("reviews.csv", "LaMP_3", {"scale": "half-stars:round-up"}),
        LETTERBOXD + ",Rewatch,Review,Tags,Watched Date\n"
        '2024-02-12,Alien,1979,u,,,"Slow, and\nbetter",,2024-02-11\n'
        "2024-02-13,Heat,1995,u,3.5,,<i>Good</i>,,2024-02-10\n",
        [("2024-02-10", {"text": "Good", "score": "4"})],
        {NOT_RATED: 1},
    ),
    "letterboxd ratings": (
        ("ratings.csv", "LaMP_3", {"scale": "half-stars:round-down"}),
        LETTERBOXD + '\n2023-01-05,"Film, Part I",2000,u,4\n2023-01-04,Film 2,2000,u,0.5\n',
        [
            ("2023-01-04", {"text": "Film 2", "score": "1"}),
            ("2023-01-05", {"text": "Film, Part I", "score": "4"}),
        ],
        {},
    ),
    "imdb": (
        ("ratings.csv", "LaMP_3", {"scale": "1-10:1-5"}),
        IMDB
        + "tt1,9,2024-01-05,One,One,u,Movie,9.2,1972\ntt2,4,2023-01-05,Two,Two,u,Movie,5,1972\n",
        [
            ("2023-01-05", {"text": "Two", "score": "2"}),
            ("2024-01-05", {"text": "One", "score": "5"}),
        ],
        {},
    ),
    "reddit comments": (
        ("comments.csv", "LaMP_7", {}),
        COMMENTS + 'c2,p,2025-05-18 04:35:32 UTC,,s,0,l,,"second, &gt; one",\n'
        "c1,p,2024-05-18 04:35:32 UTC,,s,0,l,,first,\nc3,p,2024-06-01 04:35:32 UTC,,s,0,l,,[deleted],\n",
        [("2024-05-18", {"text": "first"}), ("2025-05-18", {"text": "second, > one"})],
        {"deleted": 1},
    ),
    "reddit posts": (
        ("posts.csv", "LaMP_4", {}),
        POSTS + "c2,p,2025-05-18 04:35:32 UTC,,s,0,My title,u,A body\n"
        "c1,p,2024-05-18 04:35:32 UTC,,s,0,Link only,u,\n",
        [("2025-05-18", {"text": "A body", "title": "My title"})],
        {EMPTY: 1},
    ),
    "twitter": (
        ("tweets.js", "LaMP_7", {}),
        tweets("newest &amp; so on", "RT @someone: theirs", "@friend yes!", "oldest"),
        [
            ("2018-10-10", {"text": "oldest"}),
            ("2018-10-10", {"text": "@friend yes!"}),
            ("2018-10-10", {"text": "newest & so on"}),
        ],
        {"retweets": 1},
    ),
    "twitter of old": (
        ("tweet.js", "LaMP_7", {}),
        'window.YTD.tweet.part0 = [{"full_text": "old", "created_at": '
        '"Wed Oct 10 20:19:24 +0000 2018"}, {"full_text": "RT @a: x"}]\n',
        [("2018-10-10", {"text": "old"})],
        {"retweets": 1},
    ),
    "twitter without its first words": (
        ("tweets.json", "LaMP_7", {}),
        tweets("one").partition("= ")[2],
        [("2018-10-10", {"text": "one"})],
        {},
    ),
    "long tweets": (
        ("note-tweet.js", "LaMP_7", {}),
        'window.YTD.note_tweet.part0 = [{"noteTweet": {"createdAt": "2023-03-02T11:12:13.000Z", '
        '"core": {"text": "long &lt;3"}}}]',
        [("2023-03-02", {"text": "long <3"})],
        {},
    ),
    "mastodon": (
        ("outbox.json", "LaMP_7", {}),
        outbox(
            toot(3, '<p>hi <a href="u">@<span>bob</span></a> &amp; all</p><p>two<br>three</p>'),
            {"type": "Announce", "published": "2023-02-04T10:11:12Z", "object": "https://u"},
            toot(2, "<p>before</p>"),
            toot(1, ""),
        ),
        [
            ("2023-02-02", {"text": "before"}),
            ("2023-02-03", {"text": "hi @bob & all\n\ntwo\nthree"}),
        ],
        {"boosts": 1, EMPTY: 1},
    ),
    "telegram": (
        ("result.json", "LaMP_7", {}),
        json.dumps(TELEGRAM, indent=1),
        [("2023-01-01", {"text": "see x.org now"}), ("2023-01-01", {"text": "mine"})],
        {"service messages": 1, "of other people": 1, "forwarded": 1, EMPTY: 1},
    ),
    "one chat of telegram": (
        ("result.json", "LaMP_7", {"sender": "Name user42"}),
        json.dumps(TELEGRAM["chats"]["list"][0]),
        [("2023-01-01", {"text": "see x.org now"}), ("2023-01-01", {"text": "mine"})],
        {"service messages": 1, "of other people": 1, "forwarded": 1, EMPTY: 1},
    ),
    "whatsapp on android": (
        ("WhatsApp Chat with Bob.txt", "LaMP_7", {"sender": "Ada"}),
        "\n\n" + ANDROID,
        [("2024-01-15", {"text": "Hello\nsecond line: yes"}), ("2024-01-17", {"text": "mended"})],
        {"service messages": 1, "of other people": 1, "media and notices": 3},
    ),
    "whatsapp on an iphone": (
        ("_chat.txt", "LaMP_7", {"sender": "Ada"}),
        IPHONE,
        [("2024-01-15", {"text": "Hello\nsecond line: yes"})],
        {"media and notices": 2, "of other people": 1},
    ),
    "kindle": (
        ("My Clippings.txt", "LaMP_7", {}),
        KINDLE.replace("\n", "\r\n"),
        [("2016-12-04", {"text": "my own words"}), ("2020-06-04", {"text": "an author's words"})],
        {"bookmarks": 1},
    ),
}


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def read(tmp_path):
    def run(content, *, name="h.csv", task="LaMP_3", **options):
        path = put(tmp_path, name, content)
        return read_history(path, load_task(task), ReadOptions(**options))

    return run


def refused(read, message, hint, *args, error=DataError, **options):
    """The error's message and hint, which quote nothing of the file."""
    with pytest.raises(error, match=message) as caught:
        read(*args, **options)
    assert hint in (caught.value.hint or "")
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"


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


def test_every_layout_has_a_sample():
    names = {read_layout(name, content) for (name, *_), content, *_ in READ.values()}
    assert names == {layout.name for layout in LAYOUTS}


def read_layout(name, content):
    """The name of the layout that the beginning of a sample shows."""
    from client.history_layouts import layout_of_form, layout_of_head, layout_of_header

    if name.endswith(".csv"):
        header = next(iter(content.splitlines())).split(",")
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
        ("h.csv", "text,score\nx,\n ,4\nok,3\n,,\n,\n"),
        ("h.jsonl", '{"text":"x","score":""}\n{"text":" ","score":4}\n{"text":"ok","score":3}\n'
                    '{"text":null,"score":1}\n["x"]\n'),
    ):  # fmt: skip
        history = read(content, name=name, lenient=True)
        assert [dict(item.fields) for item in history.items] == [{"text": "ok", "score": "3"}]
        assert history.left_out == {EMPTY: 3, "faulty": 1}
    assert read("text,score\nx,\nok,3\n").left_out == {EMPTY: 1}


# -- tables --------------------------------------------------------------------------------------

FINE = [("fine é", "4"), ("more", "5")]


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\ntext;score\r\nfine é;4\r\nmore;5\r\n",
        '\ufeff"sep=,"\ntext,score\nfine é,4\nmore,5\n',
        "SEP=\t\ntext\tscore\nfine é\t4\nmore\t5\n",
        "text,score\rfine é,4\rmore,5\r",
        'text,score\r"fine é",4\rmore,5',
        b"\xff\xfe" + "text\tscore\r\nfine é\t4\r\nmore\t5\r\n".encode("utf-16-le"),
        b"\xfe\xff" + "text,score\r\nfine é,4\r\nmore,5".encode("utf-16-be"),
        "text|score\nfine é|4\nmore|5\n",
        "text;score\nfine é;4,0\nmore;5.0\n",
        '[{"text": "fine é", "score": 4.0}, {"text": "more", "score": 5}]',
        '{"text": "fine é", "score": "4"}\n{"text": "more", "score": 5}\n',
    ],
    ids=["sep", "quoted", "tab", "cr", "cr-quoted", "utf16le", "utf16be", "bar", "comma", "json",
         "jsonl"],
)  # fmt: skip
@pytest.mark.parametrize("chunk_bytes", [5, 1 << 18])
def test_tables_as_programs_write_them(read, content, chunk_bytes, monkeypatch):
    """A name that ends in .csv does not make a table of JSON."""
    monkeypatch.setattr("client.history_source.CHUNK_BYTES", chunk_bytes)
    history = read(content, name="h.csv")
    assert [(item.fields["text"], item.fields["score"]) for item in history.items] == FINE


def test_a_row_is_named_by_its_own_line_after_breaks_inside_quotes(read):
    refused(read, r"h.csv, record 3 \(line 6\), field score", "--lenient",
            'sep=,\ntext,score\n"a\nb",1\nc,2\nd,nine\n')  # fmt: skip
    refused(read, r"h.csv, record 2 \(line 4\), field score", "--scale",
            'text,score\r"a\rb",1\rc,9\r')  # fmt: skip


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("My Review,My Rating,Date Added", "found My Review, My Rating, Date Added$"),
        (
            "Title,Author l-f,ISBN13,Number of Pages,Bookshelves with positions,Owned Copies",
            "found Title, Author l-f, ISBN13, Number of Pages, Bookshelves with positions, Owned Copies",
        ),
        (
            "User Review,Overall Score,createdAt,Xyzzy",
            "found User Review, Overall Score, createdAt and 1",
        ),
        (f"{SECRET},4", "found 2 cells in the first row that do not look like column names$"),
        (f"{SECRET} was fine,Good", "found 2 cells in the first row that do not look"),
        ("secret,fine", "found 2 cells"),  # single words as well
        (f"my review,{SECRET}", "found 2 cells"),
        ("I hated it,1,2024", "found 3 cells"),
        (SECRET, "found 1 cells"),
    ],
)
def test_names_of_columns_are_shown_and_cells_are_not(read, header, shown):
    refused(read, f"h.csv: no column named text, score; {shown}", "--column FIELD=NAME",
            f"{header}\nfine,5\n")  # fmt: skip


@pytest.mark.parametrize(
    "name", ["Fred", "went home", "12", "", "x" * 70, "Geheim", "I", "5 stars!"]
)
def test_a_person_s_words_are_no_names_of_columns(name):
    assert not is_known_name(name)


def test_the_hint_names_what_would_fit(read):
    refused(read, "found Review, Stars$", '--column "text=Review" --column "score=Stars"',
            "Review,Stars\nfine,5\n")  # fmt: skip
    with pytest.raises(DataError) as error:
        read("my review,5\nx,4\n")  # a cell, where the header is missing
    assert "my review" not in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("messages.html", f"<!DOCTYPE html><html>{SECRET}", "an HTML page", "as JSON or CSV"),
        ("a.csv", f"<html>{SECRET}", "an HTML page", "as JSON"),
        ("a.xml", f'<?xml version="1.0"?><{SECRET}/>', "XML", "convert"),
        ("a.js", f'var x = [ {{"text": "{SECRET}"}} ];', "a program in JavaScript", "brackets"),
        (
            "like.js",
            f'window.YTD.like.part0 = [{{"like": "{SECRET}"}}]',
            "not your tweets",
            "tweets.js",
        ),
        ("a.pdf", b"%PDF-1.7 " + SECRET.encode(), "a PDF document", "CSV or JSON"),
        ("a.db", b"SQLite format 3\0", "a database", "CSV"),
        ("diary.txt", f"Dear {SECRET}.\nIt rained.\n", "found 1 cells", "as JSON"),
    ],
)
def test_files_of_other_kinds_are_told_apart(read, name, content, message, hint):
    refused(read, f"^{name}: .*{message}", hint, content, name=name, task="LaMP_7")


def test_json_and_chats_are_never_read_as_tables(read):
    for content in ('[{"text": "x"}]', tweets("x"), ANDROID):
        refused(read, "not a table$", "--form", content, form="csv", task="LaMP_7")
    assert (
        read(ANDROID, name="chat.csv", task="LaMP_7", sender="Ada").layout.name == "WhatsApp chat"
    )


@pytest.mark.parametrize(
    ("members", "hint"),
    [
        (["data/tweets.js", f"{SECRET}.txt"], "unpack it and give tweets.js (Twitter/X archive)"),
        ([f"WhatsApp Chat with {SECRET}.txt"], "WhatsApp Chat with ….txt (WhatsApp chat)"),
        (["ratings.csv", "reviews.csv"], "reviews.csv (Letterboxd reviews) or ratings.csv"),
        ([f"{SECRET}.docx"], "unpack it and give the file with your items"),
        (None, "unpack it"),
    ],
)
def test_an_archive_is_not_unpacked_and_its_member_is_named(read, members, hint):
    stream = io.BytesIO(b"PK\x03\x04damaged")
    if members is not None:
        with zipfile.ZipFile(stream, "w") as archive:
            for member in members:
                archive.writestr(member, SECRET)
    refused(read, "h.zip: a zip archive", hint, stream.getvalue(), name="h.zip")


# -- JSON that does harm ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("1" * 5000, "may be truncated"),
        ('{"a" 1}', "expected ':' after a key"),
        ("[1 2]", "expected ',' or ']'"),
        ("NaN", "may be truncated"),
        ('"\\ud800"', "may be truncated"),
    ],
)
def test_the_rest_of_an_export_may_be_hostile(read, inner, message):
    """What is walked over is bounded too, and what cannot be followed is told."""
    content = f'{{"orderedItems": [{{"type": "Create"}}], "rest": {inner}'
    refused(read, f"outbox.json, after record 1: malformed JSON, .*{message}", "export the file",
            content, name="outbox.json", task="LaMP_7")  # fmt: skip


def test_values_at_paths_are_found_across_chunks():
    text = json.dumps({"skip": {"a": [1, {"b": "]}"}]}, "x": {"y": [{"z": [1, 2]}, {"z": [3]}]}})
    for size in (1, 2, 7, 100):
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        found = list(values_at("f", iter(chunks), {"x.y[].z[]", "skip.a[]"}))
        assert [value for path, value, _ in found if path == "x.y[].z[]"] == [1, 2, 3]
        assert [value for path, value, _ in found if path == "skip.a[]"] == [1, {"b": "]}"}]


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
