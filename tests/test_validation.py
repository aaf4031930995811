"""Validation collects every problem, and counts without quoting anybody."""

from __future__ import annotations

import json

import pytest

from proper_model.errors import DataError
from proper_model.records import Place, Report
from proper_model.tasks import load_task
from proper_model.validation import Lengths, validate

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


def folder(path, pooled, test):
    (path / "user_others.json").write_text(
        pooled if isinstance(pooled, str) else json.dumps(pooled)
    )
    (path / "user_top_100_history.json").write_text(json.dumps(test))
    return path


def messages(report):
    return [str(problem) for problem in report.problems]


def test_clean_data_are_counted(tmp_path):
    pooled = [user("a", scores=("1", "5", "5"), golds=("4", "2")), user("b", scores=("3",))]
    report = validate(folder(tmp_path, pooled, [user("c")]), TASK)
    assert report.ok
    assert report.problems == ()
    assert (report.form, report.task, report.template) == ("oppu", "LaMP_3", "short")
    group = report.pooled
    assert (group.users, group.items, group.queries) == (2, 4, 3)
    assert group.items_a_user == Lengths(1, 3, 3)
    assert group.queries_a_user == Lengths(1, 2, 2)
    assert group.question_words == Lengths(6, 6, 6)  # review: my private words N score:
    assert group.answer_words == Lengths(1, 1, 1)
    assert group.gold_labels == {"1": 0, "2": 1, "3": 0, "4": 2, "5": 0}
    assert group.history_labels == {"1": 1, "2": 0, "3": 1, "4": 0, "5": 2}
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
        "user_top_100_history.json: 1 users have no history; they get the population model",
        "user_top_100_history.json: 1 users have no query; they cannot be scored",
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
    report = validate(folder(tmp_path, [known, other], [user("c")]), TASK)
    assert report.ok
    assert messages(report) == [
        "user_others.json: 1 history answers are not among the task's labels",
        "user_others.json: 1 query ids occur with more than one user",
        "user_others.json: 1 of 2 queries ask about a text of the user's own history",
        "user_others.json: 1 of 2 queries are not worded as the task file says; "
        "asked as they stand",
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
    for split, question in zip(("train", "dev"), questions, strict=True):
        (tmp_path / f"{split}_questions.json").write_text(json.dumps([question]))
        golds = [{"id": question["id"], "output": "6" if split == "dev" else "5"}]
        (tmp_path / f"{split}_outputs.json").write_text(
            json.dumps({"task": "LaMP_3", "golds": golds})
        )
    report = validate(tmp_path, TASK)
    assert (report.form, report.pooled.users, report.test.users) == ("lamp", 1, 1)
    assert messages(report) == [
        "dev_questions.json, record 0, field gold: "
        "the answer of query '2' is not among its 5 labels"
    ]
    path = tmp_path / "one.json"
    path.write_text(json.dumps([user("a")]))
    assert validate(path, TASK).pooled.users == 1


def test_a_file_wrong_everywhere_does_not_fill_the_memory():
    report = Report(strict=False, limit=10)
    for index in range(100):
        report.error(Place("f", index), "wrong")
    assert len(report.problems) == 10
    assert report.errors == 100


def test_an_unknown_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no data files found"):
        validate(tmp_path, TASK)
