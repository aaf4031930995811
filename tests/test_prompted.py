"""Prompted arms: what stands before a question, who wrote it, and that nothing of an answer does."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest

from client.person.adapting import adapt_users
from client.person.arms import predict
from client.person.state import PersonalState
from proper_model.errors import ConfigError
from proper_model.evaluation import Prediction, score
from proper_model.release.contents import Release
from proper_model.tasks import ALL, HistoryItem, Query, User, load_task
from simulations.baselines import profiles, prompted, registry
from simulations.baselines.arm import Benchmark, cut
from simulations.baselines.prompted import Asked, drawn_items, with_room
from simulations.baselines.prompted_arms import PROMPTED
from tests.releases import small_release, small_users, with_user

TRAINED = tuple(name for name, arm in PROMPTED.items() if arm.trained_so)
ASKED = tuple(name for name in PROMPTED if name.endswith("-asked"))
ALONE = tuple(name for name, arm in PROMPTED.items() if arm.under == "stage1")


@functools.cache
def release() -> Release:
    """One pass of private training: what is asked matters here, not how well it is answered."""
    return with_user(small_release(), epochs=1, embedding_epochs=1, learning_rates=(1e-2,))


@functools.cache
def people() -> tuple[User, ...]:
    """Three unseen users with two questions each; one with one item and one with none among them."""
    chosen = [dataclasses.replace(user, queries=user.queries[:2]) for user in small_users()[1][:3]]
    return (chosen[0], *cut(chosen[1:2], 1), *cut(chosen[2:3], 0))


@functools.cache
def states(arm: str) -> dict[str, PersonalState]:
    found = adapt_users(release(), people(), arms=(arm,), bundle_id="experiment", seed=0)
    return {user: state for (_, user), state in found.items()}


def given(
    users: tuple[User, ...] | None = None, folder: Path = Path("unused"), *, known: bool = True
) -> Benchmark:
    return Benchmark(
        release(),
        small_users()[0][:4],
        people() if users is None else users,
        seed=0,
        folder=folder,
        states=states if known else None,
    )


def with_golds_exchanged(users: tuple[User, ...]) -> tuple[User, ...]:
    return tuple(
        dataclasses.replace(
            user,
            queries=tuple(
                dataclasses.replace(query, gold=other.gold)
                for query, other in zip(user.queries, user.queries[::-1], strict=True)
            ),
        )
        for user in users
    )


def without_losses(predictions: list[Prediction]) -> list[Prediction]:
    return [dataclasses.replace(one, nll=0.0, answer_tokens=0) for one in predictions]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_retrieval_is_the_releases_own(k: int) -> None:
    room = with_room(release(), k)
    assert room.settings.retrieval_tokens > 0
    expected = predict(room, people(), "stage1", {})
    assert PROMPTED[f"rag-{k}"].predict(given()) == expected


@pytest.mark.parametrize("name", ALONE)
def test_whoever_has_no_item_is_asked_as_by_stage_1(name: str) -> None:
    plain = predict(release(), people(), "stage1", {})
    found = PROMPTED[name].predict(given())
    assert score(release().task, people(), found)
    assert found[4:] == plain[4:]
    assert [one.nll for one in found[:4]] != [one.nll for one in plain[:4]]


@pytest.mark.parametrize("name", [*ALONE, *ASKED])
def test_no_prompted_arm_reads_an_answer(name: str) -> None:
    found = PROMPTED[name].predict(given())
    exchanged = PROMPTED[name].predict(given(with_golds_exchanged(people())))
    assert without_losses(found) == without_losses(exchanged)


def test_lines_drawn_at_random_are_own_items_and_the_same_again() -> None:
    task = dataclasses.replace(release().task, retrieve=4)
    room = with_room(release(), 4).encoder().room
    user = people()[0]
    own = [task.retrieval_line(item).strip() for item in user.history]
    shown = []
    for query in user.queries:
        lines = Asked(task, user, room, 0).drawn()(query)
        assert lines == Asked(task, user, room, 0).drawn()(query)
        shown.append([line for line in lines.splitlines() if line])
        places = [own.index(line) for line in shown[-1]]
        assert len(places) == 4
    assert shown[0] != shown[1]
    assert Asked(task, user, room, 1).drawn()(user.queries[0]) != lines


def test_items_are_drawn_in_order_without_repeating() -> None:
    items = [HistoryItem(str(n), {}) for n in range(10)]
    drawn = [item.id for item in drawn_items(items, 6, "seed")]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 6
    assert drawn_items(items[:2], 6, "seed") == items[:2]
    assert drawn_items(items, ALL, "seed") == items
    assert drawn_items([], 6, "seed") == []


def test_the_whole_history_is_asked_with_as_far_as_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    user = people()[0]

    def lines_within(tokens: int) -> list[str]:
        monkeypatch.setattr(prompted, "MOST_TOKENS", tokens)
        room = with_room(release(), ALL)
        found = Asked(room.task, user, room.encoder().room, 0).retrieved()(user.queries[0])
        return [line for line in found.splitlines() if line]

    own = [release().task.retrieval_line(item).strip() for item in user.history]
    fitting = lines_within(2048)
    assert fitting == own[len(own) - len(fitting) :]
    settings = release().settings
    fewer = lines_within(settings.max_prompt_tokens + settings.max_answer_tokens)
    assert 0 < len(fewer) < len(fitting)
    assert fewer == own[len(own) - len(fewer) :]


def test_prompts_are_what_is_asked_with_the_room_that_a_model_has() -> None:
    user, task = people()[0], release().task
    own = [task.retrieval_line(item).strip() for item in user.history]

    def shown(name: str, positions: int | None) -> list[str]:
        prompts = PROMPTED[name].prompts(given(), positions=positions)
        assert [len(of) for of in prompts] == [2, 2, 2]
        question = task.query_example(user.queries[0]).prompt
        assert prompts[0][0].endswith(question) and prompts[2][0] == prompts[2][0].strip()
        return prompts[0][0].removesuffix(question).splitlines()

    assert shown("full-history", 2048) == own
    assert 0 < len(shown("full-history", None)) < len(own)
    assert set(shown("rag-4", None)) < set(own)
    assert "most common" in shown("pag-counted", None)[0]


def test_a_profile_stands_first_and_takes_its_share_of_the_room() -> None:
    seen: list[str] = []

    def written(_given: Benchmark, _release: Release, users: list[User]) -> list[str]:
        return ["most common tag: comedy\n" for _ in users]

    def noted(asked: Asked) -> prompted.Lines:
        lines = asked.retrieved()
        full = with_room(release(), 1).encoder().room
        assert asked.room.prompt == full.prompt - full.line_tokens("most common tag: comedy\n")

        def line(query: Query) -> str:
            assert query.gold == ""
            seen.append(lines(query))
            return seen[-1]

        return line

    arm = prompted.PromptedArm("pag", 1, noted, profile=written)
    found = arm.predict(given(people()[:1]))
    assert len(found) == len(seen) == 2
    assert all(seen)
    plain = PROMPTED["rag-1"].predict(given(people()[:1]))
    assert [one.nll for one in found] != [one.nll for one in plain]


def test_profiles_are_counted() -> None:
    task = load_task("LaMP_3", template="short")

    def rated(*values: str) -> User:
        items = (HistoryItem(str(n), {"text": "x", "score": v}) for n, v in enumerate(values))
        return User("u", tuple(items), ())

    assert profiles.label_profile(task, rated("5", "4", "5", "1", "2")) == (
        "most common score: 5, 2, 1\n"
    )
    assert profiles.label_profile(task, rated()) == ""


def test_profiles_of_writers_have_the_words_that_others_have_not() -> None:
    task = load_task("LaMP_4", template="short")

    def author(*titles: str) -> User:
        items = (HistoryItem(str(n), {"text": "x", "title": t}) for n, t in enumerate(titles))
        return User("u", tuple(items), ())

    benchmark = dataclasses.replace(
        given(), pooled=(author("News about people"), author("News of 1999"))
    )
    writing = dataclasses.replace(release(), task=task)
    users = [author("News: Robots, robots", "Poets and news", "an ode"), author()]
    assert profiles.counted_profiles(benchmark, writing, users) == [
        "words of the title: robots, poets\n",
        "",
    ]


def test_profiles_are_written_by_the_model_about_own_items() -> None:
    users = [*people()]
    found = profiles.written_profiles(given(), with_room(release(), 1), users)
    assert found == profiles.written_profiles(given(), with_room(release(), 1), users)
    assert all(text == "" or (text.endswith("\n") and text.count("\n") == 1) for text in found)
    assert found[2] == ""


@pytest.mark.parametrize("name", ASKED)
def test_states_that_are_known_are_not_trained_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompted, "adapt_users", None)
    arm = PROMPTED[name]
    found = arm.predict(given())
    if arm.profile is None:
        room = with_room(release(), arm.before)
        assert found == predict(room, people(), arm.under, states(arm.under))


@pytest.mark.parametrize("name", [*TRAINED, *ASKED])
def test_states_are_trained_as_the_name_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With retrieval in training, even if the plain states are known; `-asked` without."""
    arm, told = PROMPTED[name], []

    def adapt(on: Release, users: list[User], **how: object) -> object:
        told.append((on.task.retrieve, how["arms"], how["checkpoint"]))
        assert all(query.gold == "" for user in users for query in user.queries)
        return {(arm.under, user): state for user, state in states(arm.under).items()}

    monkeypatch.setattr(prompted, "adapt_users", adapt)
    found = arm.predict(given(folder=tmp_path, known=arm.trained_so))
    before = arm.before if arm.trained_so else 0
    assert told == [(before, (arm.under,), tmp_path / "training")]
    assert len(found) == 6


def test_the_registry_makes_every_arm_and_says_what_it_is_for() -> None:
    rating, tags, texts = (load_task(name) for name in ("LaMP_3", "LaMP_2M", "LaMP_4"))
    for name in registry.ARMS:
        assert registry.make(name).name == name
        assert registry.fits(name, rating) is None
    assert registry.fits("gaussian", tags) is not None
    assert registry.fits("majority", tags) is None
    assert registry.fits("majority", texts) is not None
    assert all(registry.fits(name, texts) is None for name in PROMPTED)
    assert set(PROMPTED) <= set(registry.ARMS)
    with pytest.raises(ConfigError, match="unknown methods"):
        registry.fits("nobody", rating)
