"""Ratings as files have them, against the labels that a person would count off by hand."""

from __future__ import annotations

import json

import pytest

from client.history.rating_scale import NoRatingError, parse_scale, rating_label
from client.history.reading import ReadOptions, read_history
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.task import load_task

STARS = ("1", "2", "3", "4", "5")
TASK = load_task("LaMP_3", template="short")


def label(text, scale=None):
    return rating_label(text, STARS, scale and parse_scale(scale, STARS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            (text, "4")
            for text in ("4", "4.0", "4,0", " 4 ", "04", "+4", "4/5", "4 / 5", "4.0/5.0")
        ],
        *[(text, "4") for text in ("4 out of 5", "4 stars", "★★★★☆", "★★★★", "⭐️⭐️⭐️⭐️")],
        ("1.000", "1"),
        ("★", "1"),
        *[
            (text, None)
            for text in ("3.5", "3,5", "★★★½", "3½", "0", "-1", "6", "45", "8/10", "80%")
        ],
        *[(text, None) for text in ("1e39", "1e400", "inf", "nan", "-0", "", "four", "N/A", "4/0")],
        *[(text, None) for text in ("9" * 5000, "/5", "½", "4.", "0x4", "٤", "1_0", "4 4")],
    ],
)
def test_a_rating_is_a_label_or_is_refused(text, expected):
    if expected is not None:
        assert label(text) == expected
        return
    with pytest.raises(NoRatingError) as error:
        label(text)
    assert "--scale" in error.value.hint or "--lenient" in error.value.hint
    assert not text.strip() or len(text) < 3 or text not in str(error.value)


@pytest.mark.parametrize(
    ("scale", "pairs"),
    [
        ("half-stars:round-up", "0.5:1 1:1 1.5:2 2.5:3 3.5:4 4:4 4.5:5 5:5"),
        ("half-stars:round-down", "0.5:1 1:1 1.5:1 2.5:2 3.5:3 4:4 4.5:4 5:5"),
        ("half-stars:nearest", "0.5:1 1.5:2 3,5:4 ★★★½:4 ½:1"),
        ("quarter-stars:nearest", "0.25:1 1.75:2 4.25:4 4.5:5 3.75:4 2:2"),
        ("quarter-stars:round-down", "1.75:1 4.25:4 4.75:4"),
        ("quarter-stars:round-up", "1.25:2 4.25:5"),
        ("1-10:1-5", "1:1 2:1 3:2 4:2 5:3 6:3 7:4 8:4 9:5 10:5 8/10:4"),
        ("1-10:1-5:round-down", "1:1 2:1 4:2 9:4 10:5"),
        ("0-10:1-5", "0:1 1:1 2:2 5:3 10:5"),
        ("0-100:1-5", "0:1 12:1 13:2 50:3 87:4 88:5 80%:4 100%:5"),
        ("1-5:1-5", "1:1 3:3 5:5"),
    ],
)
def test_a_rule_says_what_becomes_of_every_rating(scale, pairs):
    for pair in pairs.split():
        text, expected = pair.rsplit(":", 1)
        assert label(text, scale) == expected, text


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        ("half-stars:round-up", "3.25"),
        ("half-stars:round-up", "0"),
        ("half-stars:round-up", "5.5"),
        ("half-stars:round-up", "7/10"),
        ("quarter-stars:nearest", "3.3"),
        ("1-10:1-5", "0"),
        ("1-10:1-5", "11"),
        ("1-10:1-5", "4/5"),
        ("0-100:1-5", "101%"),
    ],
)
def test_what_is_not_on_the_scale_is_refused(scale, text):
    with pytest.raises(NoRatingError):
        label(text, scale)


@pytest.mark.parametrize(
    "scale",
    ["", "half-stars", "half-stars:up", "1-10", "1-10:1-4", "10-1:1-5", "1-10:1-5:up", "a-b:1-5",
     "1:5", "1-1:1-5", "quarter-stars:"],
)  # fmt: skip
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ConfigError, match="^--scale"):
        parse_scale(scale, STARS)


def test_stars_are_of_five():
    with pytest.raises(ConfigError, match="stars go to 5, the task's labels are 1-10"):
        parse_scale("half-stars:nearest", [str(n) for n in range(1, 11)])
    ten = parse_scale("0-5:1-10", [str(n) for n in range(1, 11)])
    assert rating_label("2.5", [str(n) for n in range(1, 11)], ten) == "6"  # 5.5, halfway goes up


def test_in_a_file_nothing_is_rounded_without_a_rule(tmp_path):
    path = tmp_path / "h.json"
    path.write_text(
        json.dumps([{"text": str(n), "score": s} for n, s in enumerate((4.0, 3.5, "1.0"))])
    )
    with pytest.raises(DataError, match="record 2, field score: .* a rating with a half") as error:
        read_history(path, TASK)
    assert "--scale half-stars:round-up" in error.value.hint
    lenient = read_history(path, TASK, ReadOptions(lenient=True))
    assert [item.fields["score"] for item in lenient.items] == ["4", "1"]
    assert lenient.left_out == {"faulty": 1}
    assert lenient.warnings[0].count("see --scale") == 1
    ruled = read_history(path, TASK, ReadOptions(scale="half-stars:round-down"))
    assert [item.fields["score"] for item in ruled.items] == ["4", "3", "1"]
    with pytest.raises(ConfigError, match="LaMP_7 has no scale of numbers"):
        read_history(path, load_task("LaMP_7"), ReadOptions(scale="half-stars:nearest"))
    # Tags are no numbers, and stay as they are.
    path.write_text('[{"description": "x", "tag": "action"}]')
    assert read_history(path, load_task("LaMP_2M")).items[0].fields["tag"] == "action"
