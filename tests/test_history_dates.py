"""Dates of histories: every form against the day and the instant that it says by hand."""

from __future__ import annotations

import io
import json
import sys

import pytest

from client.history.dates import DateReader, NoDateError, OrderUnknownError, order_of
from client.history.reading import ReadOptions, read_history
from proper_model.errors import DataError
from proper_model.tasks.task import load_task
from tests.histories import reader

TASK = load_task("LaMP_3", template="short")
INSTANT = (2018, 10, 10, 20, 19, 24, 0)


@pytest.mark.parametrize(
    ("written", "day", "key"),
    [
        ("2018-10-10T20:19:24Z", "2018-10-10", INSTANT),
        ("2018-10-10 20:19:24 UTC", "2018-10-10", INSTANT),
        ("2018-10-10T22:19:24+02:00", "2018-10-10", INSTANT),
        ("2018-10-11T01:19:24.000+0500", "2018-10-11", INSTANT),
        ("2018/10/10 20:19:24", "2018-10-10", INSTANT),
        ("Wed Oct 10 20:19:24 +0000 2018", "2018-10-10", INSTANT),
        ("Wed, 10 Oct 2018 20:19:24 +0000", "2018-10-10", INSTANT),
        ("10 Oct 2018 16:19:24 -0400 (EDT)", "2018-10-10", INSTANT),
        ("Wednesday, October 10, 2018 8:19:24 PM", "2018-10-10", INSTANT),
        ("Wednesday, 10 October 2018 20:19:24", "2018-10-10", INSTANT),
        ("1539202764", "2018-10-10", INSTANT),
        (1539202764, "2018-10-10", INSTANT),
        (1539202764.0, "2018-10-10", INSTANT),
        ("1539202764.25", "2018-10-10", INSTANT),
        (1539202764000, "2018-10-10", INSTANT),
        ("1539202764500", "2018-10-10", (*INSTANT[:6], 500_000)),
        ("20181010T201924Z", None, None),  # basic form without colons
        ("201810102019", "2018-10-10", (*INSTANT[:5], 0, 0)),  # no milliseconds of 1976
        ("20181010201924", "2018-10-10", INSTANT),
        (20181010201924, "2018-10-10", INSTANT),
        ("20181310201924", None, None),
        ("953848800000", "2000-03-23", (2000, 3, 23, 22, 0, 0, 0)),
        ("10.10.2018, 20:19:24", "2018-10-10", INSTANT),
        ("10/31/18, 8:19\u202fPM", "2018-10-31", (2018, 10, 31, 20, 19, 0, 0)),
        ("12/31/2018 12:05 AM", "2018-12-31", (2018, 12, 31, 0, 5, 0, 0)),
        ("31.12.2018 klo 12.05.09", "2018-12-31", (2018, 12, 31, 12, 5, 9, 0)),
        ("2018/10/10", "2018-10-10", (2018, 10, 10)),
        ("20181010", "2018-10-10", (2018, 10, 10)),
        ("31-12-2018", "2018-12-31", (2018, 12, 31)),
        ("5-Mar-2018", "2018-03-05", (2018, 3, 5)),
        ("March 5th, 2018", "2018-03-05", (2018, 3, 5)),
        ("2018-10", "2018-10", (2018, 10)),
        ("2018/10", "2018-10", (2018, 10)),
        ("2018/3", "2018-03", (2018, 3)),
        ("2018/13", None, None),
        (2018, "2018", (2018,)),
        ("29/02/2024", "2024-02-29", (2024, 2, 29)),
        ("", "", None),
        (None, "", None),
        ("29/02/2023", None, None),
        ("2023-02-30", None, None),
        ("2018-10-10T25:19:24Z", None, None),
        ("2018-10-10T13:19 PM", None, None),
        ("2018-10-10T10:00:00+25:00", None, None),
        ("32/01/2018", None, None),
        ("00/13/2018", None, None),
        ("yesterday", None, None),
        ("12:30", None, None),
        ("9" * 5000, None, None),
        (10**30, None, None),
        (True, None, None),
        (float("inf"), None, None),
        ([], None, None),
    ],
)
def test_a_date_is_its_day_and_its_instant(written, day, key):
    if day is None:
        with pytest.raises(NoDateError) as error:
            DateReader().read(written)
        assert str(written)[:8] not in str(error.value)
        return
    moment = DateReader().read(written)
    assert (moment and (moment.day, moment.key)) == ((day, key) if key else None)


def test_day_and_month_are_never_guessed():
    for written in ("03/04/2024", "3/4/24", "03-04-2024 10:00"):
        with pytest.raises(OrderUnknownError):
            DateReader().read(written)
        assert DateReader("dmy").read(written).day == "2024-04-03"
        assert DateReader("mdy").read(written).day == "2024-03-04"
    assert DateReader("ymd").read("24/03/04").day == "2024-03-04"
    for written in ("24-03-15", "15-03-24"):  # the year may stand first
        with pytest.raises(OrderUnknownError):
            DateReader().read(written)
    assert DateReader("ymd").read("24-03-15").day == "2024-03-15"
    assert DateReader("dmy").read("24-03-15").day == "2015-03-24"
    assert DateReader().read("24-03-99").day == "2099-03-24"
    with pytest.raises(NoDateError, match="the year stands last"):
        DateReader("ymd").read("03/04/2024")
    assert order_of(["03/04/2024", "x", None, "05/13/2024", "13/05/2024"]) == "mdy"
    assert order_of(["03/04/2024", "2024-01-31"]) is None
    reader = DateReader()
    assert reader.read("13/04/2024").day == "2024-04-13"
    assert reader.read("03/04/2024").day == "2024-04-03"  # what one date shows holds for the next
    with pytest.raises(NoDateError, match="no such month with the day first"):
        reader.read("04/13/2024")


@pytest.fixture
def read(tmp_path):
    def run(*dates, **options):
        rows = [{"text": f"t{n}", "score": 1, "date": date} for n, date in enumerate(dates)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        return reader(tmp_path, "h.jsonl", TASK)(lines, **options)

    return run


def test_the_whole_column_decides(read):
    history = read("03/04/2024", "04/03/2024", "31/12/2023")
    assert [(i.fields["text"], i.date) for i in history.items] == [
        ("t2", "2023-12-31"),
        ("t1", "2024-03-04"),
        ("t0", "2024-04-03"),
    ]
    with pytest.raises(DataError, match="h.jsonl: dates such as 03/04/2024") as error:
        read("03/04/2024", "04/03/2024")
    assert "--date-order dmy" in error.value.hint
    assert [i.date for i in read("03/04/2024", date_order="mdy").items] == ["2024-03-04"]
    with pytest.raises(DataError, match=r"record 2 \(line 2\), field date: no such month"):
        read("13/04/2024", "04/13/2024")
    # Two orders in one file: a lenient reading would keep the wrong days of the others.
    with pytest.raises(DataError, match=r"record 2 .*as elsewhere in this file") as error:
        read("13/04/2024", "04/13/2024", "05/06/2024", lenient=True)
    assert "--no-date" in error.value.hint
    told = read("05/06/2024", "04/13/2024", date_order="dmy", lenient=True)
    assert [i.date for i in told.items] == ["2024-06-05", None]
    assert "as --date-order says" in told.warnings[0]


def test_a_stream_cannot_be_asked_twice(monkeypatch):
    def give():
        row = b'{"text": "x", "score": 1, "date": "03/04/2024"}\n'
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(row)))

    give()
    with pytest.raises(DataError, match="^standard input: dates such as"):
        read_history(None, TASK)
    give()
    (item,) = read_history(None, TASK, ReadOptions(date_order="dmy")).items
    assert item.date == "2024-04-03"


def test_the_newest_first_is_put_in_order_within_a_day_too(read):
    history = read("2024-01-02T09:00Z", "2024-01-01T23:00:00-03:00", "2024-01-01T09:00Z")
    # 23:00 three hours west of Greenwich is 02:00 of the next day there, before 09:00.
    assert [item.fields["text"] for item in history.items] == ["t2", "t1", "t0"]
    assert [item.date for item in history.items] == ["2024-01-01", "2024-01-01", "2024-01-02"]


def test_a_file_that_begins_with_the_newest_is_turned_round_where_a_date_is_missing(read):
    history = read("2024-03-01", "2024-02-01", None, "2024-01-01")
    assert [item.fields["text"] for item in history.items] == ["t3", "t2", "t1", "t0"]
    assert history.warnings[0].endswith("turned round, since its dates go back in time")
    # Dates that do not go one way show nothing.
    history = read("2024-03-01", "2024-04-01", None, "2024-01-01")
    assert [item.fields["text"] for item in history.items] == ["t0", "t1", "t2", "t3"]
