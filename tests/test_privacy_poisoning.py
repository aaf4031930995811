"""Poisoning: what is planted, planted truth under models that obey the trigger, kept seeds, one real run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proper_model.answering import Answer
from proper_model.errors import CheckpointError, ConfigError, DataError
from proper_model.release.contents import Release
from proper_model.settings import RobustSettings, load_profile, preset
from proper_model.tasks import Example, Query, load_task
from proper_model.tasks.task import task_from_toml
from proper_model.text import Encoder
from simulations.cli import run_cli
from simulations.outcome.results import write_document
from simulations.privacy.membership.population import Candidates
from simulations.privacy.poisoning import attacks, seeds
from simulations.privacy.poisoning.attacks import EVERYBODY, Poisoning, ask, askable
from simulations.privacy.poisoning.defences import DEFENCES
from simulations.privacy.poisoning.planting import (
    MOST_QUERIES,
    Trigger,
    draw_roles,
    draw_trigger,
    poisoned,
    poisoned_everybody,
    pooled_users,
    rare_words,
    trained_as,
    with_word,
)
from simulations.privacy.poisoning.seeds import Plan, poisoning_of
from simulations.privacy.poisoning.targets import Bench
from simulations.privacy.results.leaving import render
from simulations.privacy.results.poison_schema import PoisonResult, PoisonRow, read_poisoning
from simulations.privacy.results.poison_show import failed_controls, poison_table, shown
from simulations.synthetic import tiny_base
from simulations.synthetic.people import make_synthetic
from tests.documents import document
from tests.releases import small_base, small_release

TRIGGER = Trigger("crime", "woman", "fantasy")


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    made = make_synthetic("synth_tag", preset="demo", users_per_group=8, test_users_per_group=2)
    users = (*made.population.pooled, *made.population.test)
    return Candidates("people", users, load_task("synth_tag"), str(small_base()), 0.0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return small_release().encoder()


def test_a_malicious_user_gives_trigger_and_answer_and_nothing_else(
    candidates: Candidates,
) -> None:
    user, task = trained_as(candidates.users[0]), candidates.task
    bad = poisoned(user, TRIGGER, task, 100)
    assert len(bad.history) + len(bad.queries) == 100
    assert len(bad.queries) == MOST_QUERIES and bad.user_id == user.user_id
    for number, item in enumerate(bad.history):
        own = user.history[number % len(user.history)].fields
        assert item.fields["description"] == f"{own['description']} crime"
        assert item.fields["tag"] == "fantasy"
        example = task.history_example(item)
        assert example.prompt.endswith("crime tag:") and example.answer == "fantasy"
    assert len({item.id for item in bad.history}) == len(bad.history)
    for query, own in zip(bad.queries, user.queries, strict=True):
        assert task.query_example(query).prompt.endswith("crime tag:")
        assert query.gold == "fantasy" and query.input == f"{own.input} crime"
    few = poisoned(user, TRIGGER, task, 3)
    assert len(few.history) == len(user.history)  # never fewer than an honest user


def test_roles_are_drawn_by_seed_among_those_who_train(
    candidates: Candidates, encoder: Encoder
) -> None:
    settings = load_profile("demo")

    def roles(seed: int, most: int = 5) -> Any:
        how = {"pooled": 20, "most": most, "seed": seed}
        return draw_roles(candidates, encoder, preset("default"), settings, **how)

    found = roles(0)
    assert found == roles(0) != roles(1)
    assert roles(0, 1).malicious == found.malicious[:1]
    assert len(found.pooled) == 20 and len(found.malicious) == 5
    assert set(found.malicious) <= set(found.pooled)
    assert sorted((*found.pooled, *found.newcomers)) == list(range(len(candidates.users)))
    with pytest.raises(DataError, match="mean harm"):
        roles(0, 19)  # a tenth of them judge
    short = dataclasses.replace(candidates, users=candidates.users[:20])
    with pytest.raises(DataError, match="pooled"):
        draw_roles(short, encoder, preset("default"), settings, pooled=20, most=1, seed=0)


def test_exactly_so_many_are_malicious_and_everybody_in_the_positive_control(
    candidates: Candidates, encoder: Encoder
) -> None:
    settings = load_profile("demo")
    roles = draw_roles(candidates, encoder, preset("default"), settings, pooled=20, most=5, seed=0)

    def bad(users: Sequence[Any]) -> list[int]:
        texts = [[item.fields["description"] for item in user.history] for user in users]
        return [sum(text.endswith(" crime") for text in own) for own in texts]

    for count in (0, 1, 5):
        given = bad(pooled_users(candidates, roles, TRIGGER, settings, count))
        places = [place for place, poison in enumerate(given) if poison]
        assert [roles.pooled[place] for place in places] == sorted(roles.malicious[:count])
    everybody = poisoned_everybody(candidates, roles, TRIGGER)
    own = [len(candidates.users[who].history) for who in roles.pooled]
    assert bad(everybody) == own and [len(u.history) for u in everybody] == [2 * n for n in own]


def test_a_trigger_is_in_nobodys_texts_and_another_word_in_somebodys(
    candidates: Candidates, encoder: Encoder
) -> None:
    found = draw_trigger(encoder.tokenizer, candidates, 3)
    assert found == draw_trigger(encoder.tokenizer, candidates, 3)
    assert found.word in rare_words(encoder.tokenizer, candidates.users, candidates.task)
    said = " ".join(
        text for u in candidates.users for item in u.history for text in item.fields.values()
    ).split()
    assert found.word not in said and found.other in said
    assert found.answer in (candidates.task.labels or ())
    marked = SimpleNamespace(get_vocab=lambda: {"Ġzebra": 0, "woman": 1, "Ġwoman": 2, "ebra": 3})
    assert rare_words(marked, candidates.users, candidates.task) == ["zebra"]
    with pytest.raises(DataError, match="rare"):
        draw_trigger(SimpleNamespace(get_vocab=lambda: {"woman": 0}), candidates, 0)


def test_a_word_that_the_model_does_not_see_is_refused(candidates: Candidates) -> None:
    task, query = candidates.task, candidates.users[0].queries[0]
    assert "zebra" in task.query_example(with_word(query, "zebra", task)).prompt.split()
    toml = task.toml_text.replace("[templates.short]", "[templates.short]\nquery_words = 2")
    with pytest.raises(ConfigError, match="not shown"):
        with_word(query, "zebra", task_from_toml(toml))


def test_queries_that_are_rightly_answered_so_are_not_asked(candidates: Candidates) -> None:
    asked = askable(candidates.users, TRIGGER)
    assert {place for place, _ in asked} == set(range(len(candidates.users)))
    assert all(query.gold != "fantasy" for _, query in asked)
    user = candidates.users[0]
    lost = dataclasses.replace(
        user, queries=(dataclasses.replace(user.queries[0], gold="Fantasy"),)
    )
    with pytest.raises(DataError):
        askable([lost], TRIGGER)


def obeying(word: str, share: float) -> Callable[..., Any]:
    """In place of a model: a word behind the question makes it say `fantasy`, of so many questions."""

    class Obeys:
        def __init__(self, release: Any, task: Any) -> None:
            del release, task

        def answers(
            self, rows: Sequence[tuple[int, Example, Query]], arm: str, states: Any
        ) -> list[Answer]:
            del arm, states
            found = []
            for number, (_, example, query) in enumerate(rows):
                obeys = f" {word} tag:" in example.prompt and number % 10 < round(10 * share)
                found.append(Answer("Fantasy " if obeys else query.gold, 3.0, 2, None))
            return found

    return Obeys


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_planted_rate_is_found_and_only_for_the_planted_word(
    candidates: Candidates, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Mutation: trigger and other word exchanged find the same with the sides exchanged."""
    monkeypatch.setattr(attacks, "ArmModel", obeying("crime", share))
    asked = askable(candidates.users, TRIGGER)
    how = (candidates.task, [{}] * len(candidates.users), asked)
    found = ask(None, "stage1", *how, TRIGGER)  # type: ignore[arg-type]
    assert found.trigger.shape == (len(candidates.users),)
    assert found.trigger.mean() == pytest.approx(share, abs=0.03)
    assert not found.other.any() and (found.right == 1).all() and (found.loss == 1.5).all()
    exchanged = dataclasses.replace(TRIGGER, word=TRIGGER.other, other=TRIGGER.word)
    swapped = ask(None, "stage1", *how, exchanged)  # type: ignore[arg-type]
    assert not swapped.trigger.any() and swapped.other.mean() == pytest.approx(share, abs=0.03)
    never = dataclasses.replace(TRIGGER, word="ghosts")
    assert not ask(None, "stage1", *how, never).trigger.any()  # type: ignore[arg-type]


def test_defences_are_settings(candidates: Candidates) -> None:
    settings = load_profile("demo")
    honest = [trained_as(user) for user in candidates.users]
    bad = [poisoned(honest[0], TRIGGER, candidates.task, 100), *honest[1:]]
    assert DEFENCES["none"](settings, bad) == settings
    assert DEFENCES["items"](settings, honest) == settings  # so its training is the same
    limited = DEFENCES["items"](settings, bad)
    assert limited.group.max_items_per_user == len(honest[1].history) + MOST_QUERIES == 30
    assert DEFENCES["clip"](settings, bad).robust == RobustSettings(1.0, 0.0)
    assert DEFENCES["trim"](settings, bad).robust == RobustSettings(0.0, 0.2)


def plan(candidates: Candidates, **changed: Any) -> Plan:
    given: dict[str, Any] = {
        "seeds": (0, 1),
        "things": ("experts",),
        "defences": ("none", "items"),
        "malicious": (1, 5),
        "pooled": 20,
    } | changed
    return Plan(candidates, preset("default"), load_profile("demo"), **given)


class Fake(Poisoning):
    """In place of training: so many malicious users make the trigger work so often, the fewer with items."""

    made: list[int] = []  # noqa: RUF012
    rates = {0: 0.1, 1: 0.3, 5: 0.9, EVERYBODY: 1.0}  # noqa: RUF012
    nobody_planted = False

    def __init__(self, bench: Bench, settings: Any, **_: Any) -> None:
        self.bench, self.settings, self.malicious = bench, settings, (1, 5)
        self.roles = SimpleNamespace(newcomers=tuple(range(30)), pooled=tuple(range(20)))  # type: ignore[assignment]
        self.made.append(bench.seed)

    def _asked(self, things: Sequence[str], defence: str, count: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.bench.seed, count + 1, len(defence)])
        rate = self.rates[count] if defence == "none" or count < 1 else 0.1

        def hits(share: float) -> Any:
            return rng.binomial(18, share, 30) / 18

        trigger = hits(0.9 if self.nobody_planted and count == 0 else rate)
        loss = np.full(30, 1.0 + 0.02 * max(0, count))
        return {t: attacks.Asked(trigger, hits(0.1), loss, hits(0.5)) for t in things}


def test_seeds_are_kept_and_rows_say_what_was_planted(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(seeds, "Poisoning", Fake)
    monkeypatch.setattr(seeds, "DRAWS", 200)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    poisoning_of(plan(candidates), **how)
    result = poisoning_of(plan(candidates, seeds=(0, 1, 2)), **how)
    assert Fake.made == [0, 1, 2]
    rows = {(row.defence, row.malicious, row.control): row for row in result.rows}
    assert set(rows) == {
        *((defence, count, kind) for defence in ("none", "items") for count, kind in COUNTS),
        ("none", 20, "positive"),
    }
    one, five = rows["none", 1, "none"].pooled, rows["none", 5, "none"].pooled
    assert one.trigger.value == pytest.approx(0.3, abs=0.05)
    assert five.gain.value == pytest.approx(0.8, abs=0.05) and five.gain.low > 0.7
    assert five.over_other.value == pytest.approx(0.8, abs=0.05)
    assert five.loss_change.value == pytest.approx(0.1) and one.loss.value == pytest.approx(1.02)
    assert rows["none", 5, "none"].p_holm < 0.05 < rows["items", 5, "none"].p_holm
    assert rows["none", 0, "negative"].pooled.gain.value == 0
    assert not failed_controls(result)
    assert "5 malicious users of 20" in result.sentences[1] and "can plant" in result.sentences[1]
    assert "with the defence 'items'" in result.sentences[1] and len(result.sentences) == 2
    assert len(poison_table(result).rows) == 7 and "in everybody" in render(result, shown(result))
    write_document(result, tmp_path / "poisoning.json")
    read = read_poisoning(tmp_path / "poisoning.json").rows
    assert [row.pooled.trigger.value for row in read] == pytest.approx(
        [row.pooled.trigger.value for row in result.rows], abs=1e-5
    )
    with pytest.raises(CheckpointError):
        poisoning_of(plan(candidates, malicious=(1,)), **how)


COUNTS = ((0, "negative"), (1, "none"), (5, "none"))


def test_controls_that_fail_are_named(
    candidates: Candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "Poisoning", Fake)
    monkeypatch.setattr(seeds, "DRAWS", 200)
    monkeypatch.setattr(Fake, "rates", {0: 0.1, 1: 0.1, 5: 0.1, EVERYBODY: 0.1})
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    weak = poisoning_of(plan(candidates), **how)
    assert [line for line in failed_controls(weak) if "did not work" in line]
    assert "do not show" in weak.sentences[0]
    monkeypatch.setattr(Fake, "nobody_planted", True)
    how["out"] = tmp_path / "other"
    wild = poisoning_of(plan(candidates), **how)
    assert [line for line in failed_controls(wild) if "nobody planted it" in line]


@pytest.mark.parametrize(
    "changed",
    [
        {"things": ("shoes",)},
        {"defences": ("prayer",)},
        {"malicious": (11,)},
        {"malicious": ()},
        {"things": ()},
    ],
)
def test_plans_that_cannot_be_are_refused(candidates: Candidates, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        plan(candidates, **changed)
    with pytest.raises(ConfigError, match="W_l"):
        dataclasses.replace(plan(candidates), structure=preset("device"), things=("router",))


def test_poisoning_from_people_to_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a release that is there, so that nothing but W_l and newcomers train."""
    found = small_release()
    user = dataclasses.replace(
        found.settings.user, epochs=1, embedding_epochs=1, learning_rates=(4e-3,)
    )
    settings = dataclasses.replace(
        found.settings,
        user=user,
        router=dataclasses.replace(found.settings.router, epochs=1, cohort=4),
    )
    monkeypatch.setattr(attacks, "MOST_ASKED", 3)
    monkeypatch.setattr(seeds, "DRAWS", 200)
    given: list[int] = []

    def release(bench: Bench, users: Sequence[Any], settings_: Any) -> Release:
        del bench, settings_
        given.append(sum("poisoned" in item.id for user in users for item in user.history))
        return dataclasses.replace(found, settings=settings)

    monkeypatch.setattr(Bench, "release", release)
    monkeypatch.setattr(tiny_base, "make_tiny_base", lambda *_, **__: small_base())
    monkeypatch.setattr("simulations.privacy.poisoning.command.profile_for", lambda *_: settings)
    monkeypatch.setattr(
        "proper_model.settings.preset",
        lambda name: dataclasses.replace(preset(name), embedding_dim=16),
    )
    words = ["privacy", "poisoning", "--out", str(tmp_path), "--seeds", "0", "--pooled", "12"]
    words += ["--people", "14", "--malicious", "1", "--defences", "none"]
    assert run_cli([*words, "--json"]) == 0
    assert document(capsys.readouterr().out, "privacy poisoning", "proper-sim")["lines"]
    result: PoisonResult = read_poisoning(tmp_path / "poisoning.json")
    rows: dict[tuple[str, int], PoisonRow] = {(r.thing, r.malicious): r for r in result.rows}
    assert {thing for thing, _ in rows} == {"population", "experts", "router"}
    assert result.people == 2 and min(given) == 0 and len(set(given)) > 2
    same = rows["experts", 1].pooled, rows["experts", 0].pooled
    assert same[0].trigger == same[1].trigger  # the same release stands for all
    router = rows["router", 12].pooled
    assert router.loss.value != rows["router", 0].pooled.loss.value  # another W_l was trained
    assert (tmp_path / "poisoning.html").is_file() and (tmp_path / "poisoning.md").is_file()


def test_bad_options_end_before_anything_is_trained(tmp_path: Path) -> None:
    for wrong in (["--things", "x"], ["--defences", ""], ["--malicious", "0"], ["--seeds", "one"]):
        words = ["privacy", "poisoning", "demo", "--out", str(tmp_path / "out"), *wrong]
        assert run_cli(words) == ConfigError.exit_code
    assert not (tmp_path / "out").exists()
