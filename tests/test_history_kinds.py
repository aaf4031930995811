"""Tables as programs write them, files that are no histories, and JSON that does harm."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from client.history.json_form import tree_values
from client.history.layouts import is_known_name
from proper_model.errors import DataError
from tests.histories import ANDROID, SECRET, reader, refused, tweets


@pytest.fixture
def read(tmp_path):
    return reader(tmp_path)


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
        '"text","score"\r"fine é","4"\r"more","5"\r',
        b"\xff\xfe" + "text\tscore\r\nfine é\t4\r\nmore\t5\r\n".encode("utf-16-le"),
        b"\xfe\xff" + "text,score\r\nfine é,4\r\nmore,5".encode("utf-16-be"),
        "text|score\nfine é|4\nmore|5\n",
        "text;score\nfine é;4,0\nmore;5.0\n",
        '[{"text": "fine é", "score": 4.0}, {"text": "more", "score": 5}]',
        '{"text": "fine é", "score": "4"}\n{"text": "more", "score": 5}\n',
    ],
    ids=["sep", "quoted", "tab", "cr", "cr-quoted", "cr-all-quoted", "utf16le", "utf16be", "bar", "comma", "json",
         "jsonl"],
)  # fmt: skip
@pytest.mark.parametrize("chunk_bytes", [5, 1 << 18])
def test_tables_as_programs_write_them(read, content, chunk_bytes, monkeypatch):
    """A name that ends in .csv does not make a table of JSON."""
    monkeypatch.setattr("client.history.text_input.CHUNK_BYTES", chunk_bytes)
    history = read(content, name="h.csv")
    assert [(item.fields["text"], item.fields["score"]) for item in history.items] == FINE


def test_a_column_that_may_be_the_date_is_told(read):
    table = "text,score,Created\nnew,5,2024-01-02\nold,4,2023-01-02\n"
    history = read(table)
    assert '--column "date=Created" may say when items were made' in history.warnings[0]
    assert [i.fields["text"] for i in history.items] == ["new", "old"]
    assert [i.fields["text"] for i in read(table, columns={"date": "Created"}).items] == [
        "old",
        "new",
    ]
    for quiet in ({"use_date": False}, {"columns": {"date": ""}}, {"columns": {"date": "Created"}}):
        assert not any("may say" in warning for warning in read(table, **quiet).warnings)


def test_cells_that_are_empty_may_follow_the_last_column(read):
    history = read("text,score\nfine é,4,,\nmore,5, \n")
    assert [(item.fields["text"], item.fields["score"]) for item in history.items] == FINE
    refused(read, r"record 1 \(line 2\): has 3 cells, the header has 2", "--lenient",
            f"text,score\nx,4,{SECRET}\n")  # fmt: skip


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
        ("My notes", "found 1 cells"),  # a text's first line, in words that headers have
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
        ("a.html", f"<div class='x'>{SECRET}</div>", "an HTML page", "as JSON"),
        ("a.html", f"<!-- saved --><html>{SECRET}", "an HTML page", "as JSON"),
        ("a.xls", b"\xd0\xcf\x11\xe0\0", "an office document of before 2007", "CSV"),
        ("a.png", b"\x89PNG\r\n", "a picture", "no text"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0", "a 7z archive", "unpack"),
        ("diary.txt", f"Dear {SECRET}, today\n", "found 2 cells", "as JSON"),
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


def test_values_at_paths_are_found_wherever_they_lie():
    text = json.dumps({"skip": {"a": [1, {"b": "]}"}]}, "x": {"y": [{"z": [1, 2]}, {"z": [3]}]}})
    found = list(tree_values("f", f"var = {text}", {"x.y[].z[]", "skip.a[]"}, 6))
    assert [value for path, value, _ in found if path == "x.y[].z[]"] == [1, 2, 3]
    assert [value for path, value, _ in found if path == "skip.a[]"] == [1, {"b": "]}"}]
