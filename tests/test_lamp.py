"""Raw LaMP files: one question a record, each with its own profile."""

from __future__ import annotations

import json

import pytest

from proper_model.data.users import read_population
from proper_model.errors import DataError
from proper_model.tasks import Query, Report
from proper_model.tasks.task import load_task

TASK = load_task("LaMP_3", template="short")


def put(path, content):
    path.write_text(json.dumps(content))


def lamp(folder, split, questions):
    """Write raw LaMP files. A question is (id, user or None, gold, profile texts)."""
    rows = []
    for query_id, user, _, texts in questions:
        profile = [
            {"id": f"{query_id}{i}", "text": text, "score": "3"} for i, text in enumerate(texts)
        ]
        row = {"id": query_id, "input": f"review: {query_id}", "profile": profile}
        rows.append(row if user is None else row | {"user_id": user})
    put(folder / f"{split}_questions.json", rows)
    golds = [{"id": query_id, "output": gold} for query_id, _, gold, _ in questions]
    put(folder / f"{split}_outputs.json", {"task": "LaMP_3", "golds": golds})


def read(folder):
    """The population, and what was said of its files."""
    report = Report()
    return read_population(folder, TASK, report=report), [p.message for p in report.problems]


def test_raw_lamp_user_split_gives_pooled_and_test_users(tmp_path):
    lamp(tmp_path, "train", [("1", "a", "3", ["x"]), ("2", "b", "4", ["y"])])
    lamp(tmp_path, "dev", [("3", "c", "5", ["z", "w"])])
    population, problems = read(tmp_path)
    assert [u.user_id for u in population.pooled] == ["a", "b"]
    assert [u.user_id for u in population.test] == ["c"]
    assert population.test[0].queries == (Query("3", "review: 3", "5"),)
    assert [item.fields["text"] for item in population.test[0].history] == ["z", "w"]
    assert problems == []


def test_raw_lamp_history_is_what_all_questions_of_a_user_may_see(tmp_path):
    lamp(
        tmp_path,
        "train",
        [
            ("1", "a", "3", ["old", "twice", "twice"]),
            ("2", "a", "4", ["old", "twice", "answer of 1", "twice"]),
            ("3", "a", "4", ["twice", "old"]),
            *[(str(i), f"b{i}", "1", ["x"]) for i in range(10, 20)],
        ],
    )
    population, _ = read(tmp_path)
    user = next(u for u in (*population.pooled, *population.test) if u.user_id == "a")
    assert [item.fields["text"] for item in user.history] == ["old", "twice"]
    assert [q.id for q in user.queries] == ["1", "2", "3"]


def test_raw_lamp_time_split_takes_the_most_active_users(tmp_path):
    users = [(f"u{i}", [f"{i}-{j}" for j in range(i + 1)]) for i in range(10)]
    lamp(tmp_path, "train", [(f"1{u}", u, "3", texts) for u, texts in users])
    lamp(tmp_path, "dev", [(f"2{u}", u, "3", texts) for u, texts in users])
    population, problems = read(tmp_path)
    assert sorted(u.user_id for u in population.test) == ["u8", "u9"]
    assert len(population.pooled) == 8
    assert all(len(u.queries) == 2 for u in population.pooled)
    assert any("the 2 most active are taken" in problem for problem in problems)


def test_raw_lamp_without_user_ids_counts_every_question_as_a_user(tmp_path):
    lamp(tmp_path, "train", [("1", None, "3", ["x"]), ("2", None, "4", ["y"])])
    lamp(tmp_path, "dev", [("3", None, "5", ["z"])])
    population, problems = read(tmp_path)
    assert [u.user_id for u in population.pooled] == ["1", "2"]
    assert problems.count("missing: every question counts as its own user") == 2


def test_raw_lamp_without_answers_is_left_out_and_missing_golds_are_errors(tmp_path):
    lamp(tmp_path, "train", [("1", "a", "3", ["x"]), ("2", "b", "3", ["x"])])
    lamp(tmp_path, "test", [("9", "z", "3", ["x"])])
    (tmp_path / "test_outputs.json").unlink()
    population, problems = read(tmp_path)
    assert {u.user_id for u in (*population.pooled, *population.test)} == {"a", "b"}
    assert any("there is no test_outputs.json" in problem for problem in problems)
    put(tmp_path / "train_outputs.json", {"task": "LaMP_3", "golds": []})
    with pytest.raises(DataError, match="train_questions.json, record 0, field gold: missing"):
        read_population(tmp_path, TASK)
