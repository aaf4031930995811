"""Selectors of items to forget, against lists written by hand."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.commands.forget import read_selectors, select_items
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.records import HistoryItem

ITEMS = (
    HistoryItem("a1", {"text": "The Café at noon", "title": "x"}, "2022"),
    HistoryItem("b2", {"text": "a walk", "title": "Straße"}, "2023-12-31"),
    HistoryItem("c3", {"text": "rain", "title": "x"}, "2024-01-01"),
    HistoryItem("d-4", {"text": "rain again", "title": "x"}, "2024-05-01"),
    HistoryItem("e5", {"text": "undated", "title": "before:2024"}, None),
    HistoryItem("f6", {"text": "late", "title": "x"}, "2025-02-03"),
)


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["3"], ["c3"]),
        (["2-4"], ["b2", "c3", "d-4"]),
        (["6", "1", "1-1"], ["a1", "f6"]),
        (["1,3-4", "number:4,6"], ["a1", "c3", "d-4", "f6"]),
        (["number:5-6"], ["e5", "f6"]),
        (["d-4"], ["d-4"]),
        (["id:a1", "a1"], ["a1"]),
        (["before:2024"], ["a1", "b2"]),
        (["before:2024-01-01"], ["a1", "b2"]),
        (["before:2022-06"], ["a1"]),  # a year counts as its beginning
        (["after:2024"], ["f6"]),
        (["after:2024-01"], ["d-4", "f6"]),
        (["after:2024-01-01"], ["d-4", "f6"]),
        (["on:2024"], ["c3", "d-4"]),
        (["on:2024-05"], ["d-4"]),
        (["on:2024-5-1"], ["d-4"]),
        (["on:2022"], ["a1"]),
        (["contains:RAIN"], ["c3", "d-4"]),
        (["contains:cafe\u0301"], ["a1"]),
        (["contains:STRASSE"], ["b2"]),
        (["contains:before:2024"], ["e5"]),
        (["contains:rain", "on:2025", "e5"], ["c3", "d-4", "e5", "f6"]),
    ],
)
def test_selectors_name_the_items_written_here(selectors, expected):
    assert select_items(ITEMS, selectors) == tuple(expected)


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ([], "no selector given"),
        (["unknown"], "selector 1: matches no item"),
        (["3", "id:3"], "selector 2: matches no item"),
        ([""], "selector 1: matches no item"),
        (["since:2024"], "selector 1: matches no item"),
        (["0"], "selector 1: numbers go from 1 to 6"),
        (["7"], "numbers go from 1 to 6"),
        (["5-9"], "numbers go from 1 to 6"),
        (["4-2"], "numbers go from 1 to 6, the smaller one first"),
        (["number:x"], "expected numbers and ranges"),
        (["9" * 5000], "selector 1: matches no item"),
        (["before:yesterday"], "not a date of the calendar after before:"),
        (["on:2023-02-30"], "not a date of the calendar"),
        (["on:"], "nothing stands after on:"),
        (["contains: "], "nothing stands after contains:"),
        (["contains:secret"], "selector 1: matches no item"),
        (["before:2022"], "selector 1: matches no item"),
        (["on:2022-01-01"], "selector 1: matches no item"),
    ],
)
def test_what_names_nothing_is_refused_and_not_repeated(selectors, message):
    with pytest.raises(ConfigError, match=message) as error:
        select_items(ITEMS, selectors)
    assert error.value.hint
    assert "secret" not in error.value.message + error.value.hint


def test_a_number_that_is_also_an_id_must_say_which():
    items = (
        HistoryItem("2", {"t": "x"}),
        HistoryItem("1", {"t": "y"}),
        HistoryItem("3", {"t": "z"}),
    )
    with pytest.raises(ConfigError, match="the id of one item and the number of another"):
        select_items(items, ["2"])
    assert select_items(items, ["3"]) == ("3",)  # both mean the same
    assert select_items(items, ["id:2"]) == ("2",)
    assert select_items(items, ["number:2"]) == ("1",)
    assert select_items((HistoryItem("2020", {"t": "x"}),), ["2020"]) == ("2020",)
    with pytest.raises(ConfigError, match="numbers go from 1 to 0"):
        select_items((), ["1"])


def test_selectors_come_from_standard_input_as_well():
    text = "\ufeff1\r\n\n contains:two words \nid:é\n"
    assert read_selectors(io.BytesIO(text.encode())) == ["1", " contains:two words ", "id:é"]
    assert read_selectors(io.BytesIO(b"")) == []
    for data, message in ((b"\xff", "not UTF-8"), (b"x" * (1 << 21), "more than 1048576 bytes")):
        with pytest.raises(DataError, match=f"stdin: {message}") as caught:
            read_selectors(io.BytesIO(data))
        assert caught.value.hint


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(0, 5))
def test_numbers_equal_a_slice(numbers, width):
    items = tuple(HistoryItem(f"i{n}", {"t": "x"}) for n in range(40))
    chosen = {n + k - 1 for n in numbers for k in range(width + 1)}
    expected = tuple(items[n].id for n in sorted(chosen))
    assert select_items(items, [f"{n}-{n + width}" for n in numbers]) == expected
