"""The real sets: readable, clean, and their histories worded like their queries."""

from __future__ import annotations

import re

import pytest

from proper_model.data.splits import apply_split
from proper_model.data.users import read_population
from proper_model.data.validation import validate
from proper_model.tasks.task import load_task

# folder -> pooled users, test users, history items of test users, their queries
SETS = {
    "news_categories": (54, 13, 2120, 130),
    "news_headlines": (54, 13, 2120, 130),
    "movie_ratings": (482, 50, 4500, 500),
    "scholarly_titles": (600, 50, 1990, 429),
    "personality_items": (1200, 200, 3500, 2400),
    "politeness_ratings": (139, 60, 2797, 676),
}


@pytest.fixture(params=SETS)
def real(request, shared, repository):
    task = load_task(str(repository / "profiles" / "tasks" / f"{request.param}.toml"))
    return request.param, task, shared / "data" / request.param


def test_real_sets_are_clean_and_counted(real):
    name, task, path = real
    report = validate(path, task)
    assert report.problems == ()
    pooled, test, items, queries = SETS[name]
    assert report.pooled.users == pooled
    assert (report.test.users, report.test.items, report.test.queries) == (test, items, queries)
    if task.labels is not None:
        assert sum(report.test.gold_labels.values()) == queries
        assert sum(report.test.history_labels.values()) == items


@pytest.mark.parametrize("template", ["short", "lamp"])
def test_history_prompts_look_like_query_prompts(real, template, repository):
    name, _, path = real
    file = repository / "profiles" / "tasks" / f"{name}.toml"
    task = load_task(str(file), template=template)
    users = apply_split(read_population(path, task), "given", pooled_users=5).test
    literals = [literal for literal, _ in task.compiled.prompt.parts if literal.strip(". ")]
    head = literals[0]
    for user in users:
        asked = [task.query_example(query).prompt for query in user.queries]
        told = [task.history_example(item).prompt for item in user.history]
        assert all(task.query_text(query) is not None for query in user.queries)
        if template == "short":
            tail = literals[-1]
            assert all(p.startswith(head) and p.endswith(tail) for p in asked + told)
        else:
            # What LaMP's wording says before the text is the same in both, labels included.
            marker = task.spec.query.markers[0]
            assert {p.partition(marker)[0] for p in asked} == {p.partition(marker)[0] for p in told}


def test_news_prompts_list_the_labels_of_the_task_file(shared, repository):
    task = load_task(str(repository / "profiles" / "tasks" / "news_categories.toml"))
    population = read_population(shared / "data" / "news_categories", task)
    for user in (*population.pooled, *population.test):
        for query in user.queries:
            assert task.labels_for(query) == task.labels
    query = population.test[0].queries[0]
    assert re.search(r"categories: \[", query.input)
    assert "categories: [" not in task.query_example(query).prompt
