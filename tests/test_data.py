"""Readers: streaming, what is tolerated, and faults named by file, record and field."""

from __future__ import annotations

import json

import pytest

from proper_model.data.file_sets import read_golds, read_profiles
from proper_model.data.users import read_population, read_users, user_from_json, write_oppu
from proper_model.data.validation import validate
from proper_model.errors import DataError
from proper_model.tasks import HistoryItem, Population, Query, Report, User, user_to_json
from proper_model.tasks.task import load_task

TASK = load_task("LaMP_3", template="short")
SECRET = "I hated it"


def record(user_id="u1", *, items=2, queries=1, gold="4"):
    profile = [
        {"id": f"{user_id}-{i}", "text": f"text {i}", "score": str(1 + i % 5)} for i in range(items)
    ]
    query = [
        {"id": f"{user_id}-q{i}", "input": f"review: {i}", "gold": gold} for i in range(queries)
    ]
    return {"user_id": user_id, "profile": profile, "query": query}


def put(path, content):
    path.write_text(json.dumps(content))
    return path


def read_one(tmp_path, content):
    return read_users(put(tmp_path / "users.json", content), TASK)


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="absent.json: cannot be read"):
        read_users(tmp_path / "absent.json", TASK)
    with pytest.raises(DataError, match="absent: no such file"):
        read_population(tmp_path / "absent", TASK)


def test_a_population_survives_writing_and_reading(tmp_path):
    population = Population(
        "data",
        (User("a", (HistoryItem("1", {"text": "é\n", "score": "1"}, "2020-01-02"),), ()),),
        (User("b", (), (Query("q", "review: x", "5"),)),),
    )
    write_oppu(population, tmp_path / "data")
    assert read_population(tmp_path / "data", TASK) == population
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "data").iterdir())
    user = population.pooled[0]
    assert user_from_json(user_to_json(user), TASK) == user


def test_integers_stand_for_text_and_unknown_fields_are_left_out(tmp_path):
    raw = record()
    raw["user_id"] = 17
    raw["profile"][0] |= {"id": 3, "score": 4, "date": 2019, "extra": [1], "language": "en"}
    raw["query"][0] |= {"id": 5, "gold": 2}
    user = read_one(tmp_path, [raw])[0]
    assert user.user_id == "17"
    assert user.history[0] == HistoryItem("3", {"text": "text 0", "score": "4"}, "2019")
    assert user.queries[0] == Query("5", "review: 0", "2")


def test_items_without_id_are_numbered_and_dated_histories_are_put_in_order(tmp_path):
    raw = record(items=3)
    for item, date in zip(raw["profile"], ("2021-03-01", "2019", "2020-12-31"), strict=True):
        del item["id"]
        item["date"] = date
    history = read_one(tmp_path, [raw])[0].history
    found = [(item.id, item.date) for item in history]
    assert found == [("1", "2019"), ("2", "2020-12-31"), ("0", "2021-03-01")]
    del raw["profile"][1]["date"]
    assert [item.id for item in read_one(tmp_path, [raw])[0].history] == ["0", "1", "2"]


def dated(dates):
    raw = record(items=len(dates))
    for item, date in zip(raw["profile"], dates, strict=True):
        item["date"] = date
    return raw


@pytest.mark.parametrize(
    ("dates", "order"),
    [
        (("2020-12-31", 2020, "2020-01-05", "2019-06-01"), "3120"),
        (("2020-10-01", "2020-9-30", "2020-09"), "210"),
        (("2021", "2021", 2021, "2020"), "3012"),
    ],
)
def test_dates_of_mixed_precision_are_put_in_calendar_order(tmp_path, dates, order):
    report = Report()
    path = put(tmp_path / "users.json", [dated(dates)])
    history = read_users(path, TASK, report=report)[0].history
    assert "".join(item.id[-1] for item in history) == order
    mixed = len({len(str(date)) > 4 for date in dates}) > 1 or "2020-09" in dates
    assert [problem.message for problem in report.problems] == (
        ["mixes years and full dates; a year counts as its beginning"] if mixed else []
    )


def test_a_history_of_which_only_some_items_are_dated_is_a_warning(tmp_path):
    report = Report()
    path = put(tmp_path / "users.json", [dated(("2021-01-01", None, "2020-01-01"))])
    history = read_users(path, TASK, report=report)[0].history
    assert [item.id[-1] for item in history] == ["0", "1", "2"]
    assert [str(problem) for problem in report.problems] == [
        "users.json, record 0, field profile: only some items have a date, so the file's order counts"
    ]


@pytest.mark.parametrize(
    "date",
    ["2024-13-45", "2023-02-29", "0000", 99, 20240501, "soon", "", "２０２４", "2024-01-01x"],
)
def test_what_is_no_date_of_the_calendar_is_an_error_that_does_not_quote_it(tmp_path, date):
    with pytest.raises(DataError, match=r"record 0, field profile\[1\].date: not a date") as caught:
        read_one(tmp_path, [dated(("2021-01-01", date))])
    assert "YYYY-MM-DD" in (caught.value.hint or "")
    assert not str(date) or str(date) not in caught.value.message


def test_half_a_surrogate_pair_is_replaced_with_a_warning(tmp_path):
    raw = record()
    raw["profile"][0]["text"] = "broken \ud83d emoji, whole 😀"
    report = Report()
    path = put(tmp_path / "users.json", [raw])
    user = read_users(path, TASK, report=report)[0]
    assert user.history[0].fields["text"] == "broken \ufffd emoji, whole 😀"
    assert [str(p) for p in report.problems] == [
        "users.json, record 0, field profile[0].text: half of a surrogate pair was replaced"
    ]


def edit(**changes):
    """A record with fields replaced; a path is written with underscores, `...` removes."""
    raw = record()
    places = {"profile": raw["profile"][1], "query": raw["query"][0], "user": raw}
    for name, value in changes.items():
        place, _, field = name.partition("_")
        if value is ...:
            del places[place][field]
        else:
            places[place][field] = value
    return raw


@pytest.mark.parametrize(
    ("faulty", "place"),
    [
        (edit(user_user_id=...), "record 1, field user_id: missing"),
        (edit(user_user_id=""), "record 1, field user_id: an empty id"),
        (edit(user_user_id="u0"), "record 1, field user_id: user id 'u0' occurs twice"),
        (edit(user_profile=...), "record 1, field profile: missing"),
        (edit(user_profile="x"), "record 1, field profile: expected a list, got a string"),
        (edit(user_query=None), "record 1, field query: expected a list, got null"),
        (edit(profile_text=...), r"record 1, field profile\[1\].text: missing"),
        (edit(profile_score=4.5), r"profile\[1\].score: .*got a number with a fraction"),
        (edit(profile_score=float("1e39")), r"profile\[1\].score: .*got a number out of range"),
        (edit(query_gold=float("1e39")), r"query\[0\].gold: .*got a number out of range"),
        (edit(query_gold="1e39"), r"record 1, field query\[0\].gold: .*'u1-q0' is not among"),
        (edit(query_gold="-0"), r"record 1, field query\[0\].gold: .*'u1-q0' is not among"),
        (edit(profile_score=True), r"profile\[1\].score: .*got a boolean"),
        (edit(profile_text=[SECRET]), r"profile\[1\].text: expected a string, got a list"),
        (edit(query_id=...), r"record 1, field query\[0\].id: missing"),
        (edit(query_gold=...), r"record 1, field query\[0\].gold: missing"),
        (edit(query_gold=" "), r"query\[0\].gold: the answer of query 'u1-q0' is empty"),
        (edit(query_gold=SECRET), r"record 1, field query\[0\].gold: .*'u1-q0' is not among"),
        (edit(user_query=record()["query"] * 2), "query id 'u1-q0' occurs 2 times"),
        ("text", "record 1: expected an object"),
    ],
)
def test_faulty_records_are_named_by_place_and_never_by_text(tmp_path, faulty, place):
    with pytest.raises(DataError, match=place) as caught:
        read_one(tmp_path, [record("u0"), faulty])
    assert caught.value.message.startswith("users.json, record 1")
    assert SECRET not in caught.value.message
    assert caught.value.hint


def test_a_whole_number_may_be_written_as_a_fraction(tmp_path):
    user = read_one(tmp_path, [edit(profile_score=4.0, query_gold=2.0)])[0]
    assert (user.history[1].fields["score"], user.queries[0].gold) == ("4", "2")


@pytest.mark.parametrize("score", ["1e39", "inf", "nan", "-0", "6", "4.5"])
def test_a_history_answer_that_is_no_label_is_flagged(tmp_path, score):
    path = put(tmp_path / "users.json", [edit(profile_score=score)])
    assert any(
        str(group) == "users.json: 1 history answer is not among the task's labels"
        for group in validate(path, TASK).groups
    )


def test_an_empty_array_holds_no_users(tmp_path):
    with pytest.raises(DataError, match="users.json: holds no users"):
        read_one(tmp_path, [])


def test_a_missing_field_says_which_template_set_needs_it(tmp_path):
    task = load_task("LaMP_1", template="oppu")
    raw = {"user_id": "u", "profile": [{"id": "1", "title": "T", "abstract": "A"}], "query": []}
    path = put(tmp_path / "users.json", [raw])
    with pytest.raises(DataError, match=r"profile\[0\].citation: missing") as caught:
        read_users(path, task)
    assert "template set 'oppu' of LaMP_1" in (caught.value.hint or "")
    assert len(read_users(path, load_task("LaMP_1", template="lamp"))) == 1


@pytest.mark.parametrize("test_file", ["user_top_100_history", "user_more_100_history"])
def test_oppu_folders_are_recognized_by_either_test_file_name(tmp_path, test_file):
    put(tmp_path / "user_others.json", [record("a")])
    put(tmp_path / f"{test_file}.json", [record("b")])
    put(tmp_path / f"{test_file}_label.json", {"task": "LaMP_3", "golds": []})
    population = read_population(tmp_path, TASK)
    assert [u.user_id for u in population.pooled] == ["a"]
    assert [u.user_id for u in population.test] == ["b"]


def test_answers_may_stand_in_the_label_file(tmp_path):
    raw = record("b", queries=2)
    del raw["query"][0]["gold"]
    put(tmp_path / "user_top_100_history.json", [raw])
    golds = [{"id": "b-q0", "output": "1"}, {"id": "b-q1", "output": "2"}]
    put(tmp_path / "user_top_100_history_label.json", {"task": "LaMP_3", "golds": golds})
    report = Report()
    user = read_population(tmp_path, TASK, report=report).test[0]
    assert [q.gold for q in user.queries] == ["1", "4"]
    assert [p.message for p in report.problems] == [
        "differs from the label file, which is not used for it"
    ]


@pytest.mark.parametrize(
    ("task", "declared", "warned"),
    [
        ("LaMP_2M", "LaMP_8", False),
        ("LaMP_2M", "LaMP_2M", False),
        ("LaMP_2N", "LaMP_2", False),
        ("LaMP_2N", "LaMP_8", True),
        ("LaMP_3", "LaMP_2", True),
    ],
)
def test_label_files_go_by_their_odd_task_ids(tmp_path, task, declared, warned):
    path = put(tmp_path / "l.json", {"task": declared, "golds": [{"id": 1, "output": 5}]})
    report = Report()
    assert read_golds(path, load_task(task), report) == {"1": "5"}
    assert bool(report.warnings) is warned


def test_profiles_are_matched_by_position_and_checked_by_id(tmp_path):
    entries = [{"id": "u1", "output": "likes A"}, {"id": 9, "output": "likes B"}]
    path = put(tmp_path / "profile_user_100.json", entries)
    report = Report()
    assert read_profiles(path, ["u1", "u2"], report) == {"u1": "likes A", "u2": "likes B"}
    assert [str(p.place) for p in report.problems] == ["profile_user_100.json, record 1, field id"]
    for users in (["u1"], ["u1", "u2", "u3"]):
        with pytest.raises(DataError, match=f"holds 2 profiles for {len(users)} users"):
            read_profiles(path, users, Report())


def test_a_test_user_may_not_be_pooled(tmp_path):
    put(tmp_path / "user_others.json", [record("a"), record("b")])
    put(tmp_path / "user_top_100_history.json", [record("b")])
    with pytest.raises(DataError, match="user_others.json, record 1, .*'b' is a test user as well"):
        read_population(tmp_path, TASK)


def test_ambiguous_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no data files found"):
        read_population(tmp_path, TASK)
    put(tmp_path / "user_a_history.json", [record("a")])
    put(tmp_path / "user_b_history.json", [record("b")])
    with pytest.raises(DataError, match="2 files match"):
        read_population(tmp_path, TASK)
    put(tmp_path / "train_questions.json", [])
    with pytest.raises(DataError, match="keep them apart"):
        read_population(tmp_path, TASK)
