"""Validation collects every problem, and counts without quoting anybody."""

from __future__ import annotations

import json

import pytest
from outcomes import outcome

from proper_model.data.description import Lengths
from proper_model.data.splits import apply_split, check_pool
from proper_model.data.users import read_population
from proper_model.data.validation import validate
from proper_model.errors import DataError, ProperError
from proper_model.tasks.records import Place, Report
from proper_model.tasks.task import load_task

TASK = load_task("LaMP_3", template="short")
QUESTION = "just answer with 1, 2, 3, 4, or 5 without further explanation. review: "
SECRET = "my private words"


def user(name, *, scores=("1", "5"), golds=("4",), question=QUESTION):
    return {
        "user_id": name,
        "profile": [
            {"id": str(i), "text": f"{name} {i}", "score": s} for i, s in enumerate(scores)
        ],
        "query": [
            {"id": f"{name}-{i}", "input": f"{question}{SECRET} {i}", "gold": gold}
            for i, gold in enumerate(golds)
        ],
    }


def people(names, **kind):
    return [user(name, **kind) for name in names]


def folder(path, pooled, test):
    for name, users in (("user_others", pooled), ("user_top_100_history", test)):
        if users is not None:
            text = users if isinstance(users, str) else json.dumps(users)
            (path / f"{name}.json").write_text(text)
    return path


def messages(report):
    return [str(problem) for problem in report.problems]


def test_clean_data_are_counted(tmp_path):
    pooled = [user("a", scores=("1", "5", "5"), golds=("4", "2")), user("b", scores=("3",))]
    pooled.append(user("e", scores=("3",)))
    report = validate(folder(tmp_path, pooled, [user("c")]), TASK)
    assert report.ok
    assert report.problems == ()
    assert (report.form, report.task, report.template) == ("oppu", "LaMP_3", "short")
    group = report.pooled
    assert (group.users, group.items, group.queries) == (3, 5, 4)
    assert group.items_a_user == Lengths(1, 1, 3)
    assert group.queries_a_user == Lengths(1, 1, 2)
    assert group.question_words == Lengths(6, 6, 6)  # review: my private words N score:
    assert group.answer_words == Lengths(1, 1, 1)
    assert group.gold_labels == {"1": 0, "2": 1, "3": 0, "4": 3, "5": 0}
    assert group.history_labels == {"1": 1, "2": 0, "3": 2, "4": 0, "5": 2}
    assert report.test.users == 1


def test_all_faults_of_all_files_are_collected(tmp_path):
    faulty = user("b")
    faulty["query"][0]["gold"] = SECRET
    del faulty["profile"][1]["text"]
    test = [user("c"), user("a"), {"user_id": "d", "query": [], "profile": None}]
    report = validate(folder(tmp_path, [user("a"), faulty, 7], test), TASK)
    assert not report.ok
    assert messages(report) == [
        "user_others.json, record 1, field profile[1].text: missing",
        "user_others.json, record 1, field query[0].gold: "
        "the answer of query 'b-0' is not among its 5 labels",
        "user_others.json, record 2: expected an object, got an integer",
        "user_top_100_history.json: 'a' is a pooled user as well",
        "user_top_100_history.json, record 2, field profile: expected a list, got null",
        "user_top_100_history.json: 1 user has no history and gets the population model",
        "user_top_100_history.json: 1 user has no query and cannot be scored",
    ]
    assert (report.errors, report.warnings) == (5, 2)
    assert SECRET not in repr(report)


def test_a_truncated_file_counts_what_stands_before_the_end(tmp_path):
    text = json.dumps([user("a"), user("b")])[:-20]
    report = validate(folder(tmp_path, text, [user("c")]), TASK)
    assert report.pooled.users == 1
    assert report.test.users == 1
    assert len(report.problems) == 1
    assert messages(report)[0].startswith("user_others.json, record 1: malformed JSON")


def test_odd_data_are_warnings(tmp_path):
    known = user("a", scores=("1", "7"))
    known["query"][0]["input"] = QUESTION + "a 0"
    other = user("b", question="How many? ")
    other["query"][0]["id"] = "a-0"
    report = validate(folder(tmp_path, [known, other, user("d")], [user("c")]), TASK)
    assert report.ok
    assert messages(report) == [
        "user_others.json: 1 history answer is not among the task's labels",
        "user_others.json: 1 query id occurs with more than one user",
        "user_others.json: 1 of 3 queries asks about a text of the user's own history",
        "user_others.json: 1 of 3 queries is not worded as the task file says; asked as it stands",
    ]


def test_label_and_profile_files_are_checked(tmp_path):
    folder(tmp_path, [user("a")], [user("c"), user("d")])
    labels = {"task": "LaMP_4", "golds": [{"id": "c-0", "output": "4"}]}
    (tmp_path / "user_top_100_history_label.json").write_text(json.dumps(labels))
    (tmp_path / "profile_user_others.json").write_text("[{")
    entries = [{"id": "d", "output": "x"}, {"id": "d", "output": "y"}]
    (tmp_path / "profile_user_100.json").write_text(json.dumps(entries))
    report = validate(tmp_path, TASK)
    assert [(p.place.file, p.severity) for p in report.problems] == [
        ("user_top_100_history_label.json", "warning"),
        ("profile_user_100.json", "warning"),
        ("profile_user_others.json", "error"),
    ]


def test_raw_lamp_and_single_files_are_validated(tmp_path):
    profile = [{"id": "10", "text": "x", "score": "2"}]
    questions = [
        {"id": str(i), "user_id": f"u{i}", "input": QUESTION, "profile": profile} for i in (1, 2)
    ]
    for split, question, gold in zip(("train", "dev"), questions, ("5", "6"), strict=True):
        golds = {"task": "LaMP_3", "golds": [{"id": question["id"], "output": gold}]}
        (tmp_path / f"{split}_questions.json").write_text(json.dumps([question]))
        (tmp_path / f"{split}_outputs.json").write_text(json.dumps(golds))
    report = validate(tmp_path, TASK)
    assert (report.form, report.pooled.users, report.test.users) == ("lamp", 1, 1)
    assert messages(report) == [
        "dev_questions.json, record 0, field gold: "
        "the answer of query '2' is not among its 5 labels"
    ]
    path = tmp_path / "one.json"
    path.write_text(json.dumps([user("a")]))
    assert validate(path, TASK).pooled.users == 1


@pytest.mark.parametrize(
    ("pooled", "test", "severity", "words"),
    [
        (people("abcd"), [user("e", golds=())], "warning", "no test user has a query; runs only"),
        (None, people("abcd"), "warning", "there are 0 pooled users, fewer than 3; runs only"),
        (people("abcd"), None, "warning", "there is no test user; runs only"),
        (people("abc", golds=()), people("de"), "warning", "no pooled user has a query; runs only"),
        (people("abc", golds=()), [user("d", golds=())], "error", "no user has a query"),
        (people("abc", golds=()), [user("d")], "error", "only one user has a query"),
        (people("ab"), [user("c")], "error", "there are 3 users"),
    ],
)
def test_data_that_a_run_would_refuse_as_they_are_say_so(tmp_path, pooled, test, severity, words):
    report = validate(folder(tmp_path, pooled, test), TASK)
    found = [problem for problem in report.problems if words in problem.message]
    assert [problem.severity for problem in found] == [severity]
    assert ("--split random:N" in found[0].message) is (severity == "warning")
    population = read_population(tmp_path, TASK)
    with pytest.raises(ProperError):
        check_pool(apply_split(population, "given").pooled)
    with outcome(ProperError if severity == "error" else None):
        check_pool(apply_split(population, "random:1").pooled)


def test_one_file_is_said_to_name_no_test_users(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(people("abcd")))
    assert messages(validate(path, TASK)) == [
        "one.json: one file names no test users; runs only with --split random:N"
    ]


@pytest.mark.parametrize("name", ["user_others.json", "user_top_100_history.json"])
def test_a_folder_or_a_link_to_nothing_in_the_place_of_a_file_is_refused(tmp_path, name):
    path = folder(tmp_path, [user("a")], [user("c")]) / name
    path.unlink()
    path.symlink_to(tmp_path / "gone.json")
    with pytest.raises(DataError, match=f"{name}: .*link to nothing"):
        validate(tmp_path, TASK)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{name}: expected a file, found a folder"):
        validate(tmp_path, TASK)


def test_one_user_with_a_query_id_twice_shares_it_with_nobody(tmp_path):
    twice = user("a", golds=("4", "5"))
    twice["query"][1]["id"] = "a-0"
    report = validate(folder(tmp_path, [twice], [user("c")]), TASK)
    assert messages(report) == [
        "user_others.json, record 0, field query: query id 'a-0' occurs 2 times"
    ]


def test_items_without_text_or_answer_are_warnings(tmp_path):
    empty = user("a")
    for item in empty["profile"]:
        item["text"] = " "
    report = validate(folder(tmp_path, [empty, *people("de")], [user("c")]), TASK)
    assert messages(report) == ["user_others.json: 2 history items have no text"]
    headlines = load_task("LaMP_4", template="short")
    for item in empty["profile"]:
        item |= {"title": "", "text": "x"}
    (tmp_path / "two.json").write_text(json.dumps([empty, user("b", scores=())]))
    assert "two.json: 2 history items have an empty answer" in messages(
        validate(tmp_path / "two.json", headlines)
    )


@pytest.mark.parametrize("name", ["a\u0007", "a\u2028b"])
def test_ids_with_control_characters_are_refused(tmp_path, name):
    report = validate(folder(tmp_path, [user(name)], [user("c")]), TASK)
    assert messages(report)[0] == (
        "user_others.json, record 0, field user_id: an id with control characters or line breaks"
    )


def test_repeated_problems_are_one_line_with_a_count_and_first_places(tmp_path):
    users = [user(f"u{i}", golds=("six", "4")) for i in range(5)]
    for one in users[:2]:
        del one["profile"][1]["text"]
    report = validate(folder(tmp_path, users, [user("c")]), TASK)
    assert (report.errors, len(report.problems)) == (7, 7)
    missing, foreign = (str(group) for group in report.groups)
    assert missing == (
        "user_others.json, field profile[].text: missing (2 times, first in "
        "record 0, field profile[1].text; record 1, field profile[1].text)"
    )
    assert foreign == (
        "user_others.json, field query[].gold: the answer of query '...' is not among its 5 labels "
        "(5 times, first in record 0, field query[0].gold; record 1, field query[0].gold; "
        "record 2, field query[0].gold)"
    )


def test_repetitions_beyond_the_limit_are_still_counted():
    report = Report(strict=False, limit=2)
    for index in range(9):
        report.error(Place("f", index, f"query[{index}]"), f"query 'q{index}' is odd")
    assert [group.count for group in report.groups] == [9]
    assert (len(report.problems), report.errors) == (2, 9)
    report.error(Place("f", 0), "wrong")
    report.error(Place("f", 1, "gold"), "left out")
    assert [group.count for group in report.groups] == [9, 1]


def test_progress_says_how_much_of_a_file_was_read(tmp_path):
    users = [user(f"u{i}") | {"pad": "x" * 500_000} for i in range(8)]
    seen = []
    validate(folder(tmp_path, users, [user("c")]), TASK, progress=lambda *state: seen.append(state))
    pooled = [(done, total) for phase, done, total in seen if "user_others.json" in phase]
    assert pooled[-1] == (3, 3)
    assert pooled == sorted(pooled)
    assert len(set(pooled)) == 4


def test_an_unknown_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no data files found"):
        validate(tmp_path, TASK)
