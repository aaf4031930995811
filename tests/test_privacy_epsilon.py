"""Utility against epsilon: coins before training, a mechanism of known epsilon, kept pairs, a broken promise."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from proper_model.accounting import accountant
from proper_model.engine.user_privacy import ClippedSum, SeededChance
from proper_model.errors import CheckpointError, ConfigError
from proper_model.settings import PrivacySettings, load_profile, preset
from proper_model.tasks import load_task
from simulations.cli import run_cli
from simulations.privacy.epsilon import command, crafted, people, summary, trained
from simulations.privacy.epsilon import plan as planning
from simulations.privacy.epsilon.crafted import crafted_scores
from simulations.privacy.epsilon.people import draw_roles
from simulations.privacy.epsilon.plan import Plan, plain, promises_of
from simulations.privacy.epsilon.seeds import epsilon_of
from simulations.privacy.epsilon.trained import Outcome, Promise, Trainer
from simulations.privacy.membership import targets
from simulations.privacy.membership.population import Candidates
from simulations.privacy.results.epsilon_schema import EpsilonResult, read_epsilon
from simulations.privacy.results.epsilon_show import failed_controls
from simulations.privacy.results.epsilon_show import shown as show
from simulations.privacy.results.leaving import render
from simulations.privacy.results.told import leave_result
from simulations.privacy.statistics.one_run_audit import audit, even_plan
from simulations.privacy.statistics.shares import ratio
from simulations.synthetic import tiny_base
from simulations.synthetic.people import make_synthetic
from tests.documents import document
from tests.releases import SMALL, small_base

TERMS = PrivacySettings(
    delta=1e-5,
    sampling_rate=1.0,
    clip_norm=0.5,
    population_steps=2,
    group_steps=2,
    noise_multiplier=1.0,
    reproducible=True,
)


# -- who trains --------------------------------------------------------------------------------


def test_coins_are_fair_independent_and_thrown_before_anything() -> None:
    drawn = [draw_roles(30, 6, seed) for seed in range(600)]
    assert drawn[3].inside.tolist() == draw_roles(30, 6, 3).inside.tolist()
    counts = np.array([one.inside.sum() for one in drawn])
    assert counts.mean() == pytest.approx(12, abs=0.5)
    assert counts.var() == pytest.approx(6, rel=0.3)  # of half of the people it would be 0
    for one in drawn[:5]:
        assert sorted((*one.newcomers, *one.candidates)) == list(range(30))


def test_who_does_not_train_keeps_an_empty_place() -> None:
    users = make_synthetic("synth_tag", preset="smoke").population.pooled
    roles = draw_roles(len(users), 4, 0)
    whole = roles.pooled(users, empty_places=True)
    assert len(whole) == len(users) - 4
    assert [bool(user.history) for user in whole] == roles.inside.tolist()
    assert not any(user.queries for user, own in zip(whole, roles.inside, strict=True) if not own)
    assert roles.pooled(users, empty_places=False) == [user for user in whole if user.history]


@pytest.mark.parametrize(("everybody", "newcomers"), [(10, 1), (10, 3), (9, 2)])
def test_too_few_people_are_refused(everybody: int, newcomers: int) -> None:
    with pytest.raises(ConfigError, match="newcomers"):
        people.check_counts(everybody, newcomers)


# -- the mechanism alone -----------------------------------------------------------------------


def test_a_crafted_user_adds_the_clip_norm_to_a_number_of_its_own() -> None:
    exact = dataclasses.replace(TERMS, noise_multiplier=0.0)
    inside = np.array([True, False, True, False, False])
    found = crafted_scores(exact, 3, inside, chance=SeededChance(0))
    assert found == pytest.approx(inside * 3 * 0.5 / 5)  # steps C / (q U)
    noisy = crafted_scores(TERMS, 3, np.zeros(4000, dtype=bool), chance=SeededChance(0))
    assert noisy.std() == pytest.approx(math.sqrt(3) * 0.5 / 4000, rel=0.05)


def known_epsilon(mu: float, delta: float) -> float:
    """Of a Gaussian mechanism of sensitivity mu over its deviation (Balle and Wang, ICML 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        shift = epsilon / mu
        above = math.exp(epsilon) * norm.cdf(-mu / 2 - shift)
        return float(norm.cdf(mu / 2 - shift) - above - delta)

    return float(brentq(excess, 0, 200))


def shown(noise: float, steps: int, seed: int, canaries: int = 600) -> float:
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5
    privacy = dataclasses.replace(TERMS, noise_multiplier=noise)
    score = crafted_scores(privacy, steps, inside, chance=SeededChance(seed))
    return audit(score, inside, even_plan(canaries), delta=1e-5, rng=rng).epsilon


@pytest.mark.parametrize(("noise", "least"), [(4.0, 0.0), (1.0, 1.0)])
def test_of_a_mechanism_of_known_epsilon_no_more_is_shown(noise: float, least: float) -> None:
    """Everybody is drawn, so four steps are one Gaussian of mu = 2 / z."""
    bounds = [shown(noise, 4, seed) for seed in range(3)]
    assert least <= min(bounds) <= max(bounds) <= known_epsilon(2 / noise, 1e-5)
    assert max(bounds) < shown(0.0, 4, 0)  # less with noise than without


def test_a_mechanism_that_does_not_clip_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    promised = known_epsilon(2 / 8, 1e-5)
    monkeypatch.setattr(crafted, "LONGER", 16.0)
    assert shown(8.0, 4, 1) <= promised

    class Unclipped(ClippedSum):
        def add(self) -> float:
            for p, total in zip(self.parameters, self.sums, strict=True):
                assert p.grad is not None
                total += p.grad
            return 0.0

    monkeypatch.setattr(crafted, "ClippedSum", Unclipped)
    assert shown(8.0, 4, 1) > promised


# -- the curve ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    made = make_synthetic("synth_tag", preset="smoke", users_per_group=20)
    users = (*made.population.pooled, *made.population.test)
    return Candidates("people", users, load_task("synth_tag"), "base", 0.0)


def a_plan(candidates: Candidates, **changed: Any) -> Plan:
    promises = (
        Promise("2", dataclasses.replace(TERMS, noise_multiplier=40.0), 2.0),
        Promise("inf", dataclasses.replace(TERMS, noise_multiplier=0.0), math.inf),
        Promise("unclipped", None, math.inf),
    )
    given: dict[str, Any] = {
        "people": candidates,
        "newcomers": 10,
        "structure": preset("calibrated"),
        "settings": plain(load_profile("demo")),
        "promises": promises,
        "delta": 1e-5,
        "seeds": (0, 1),
        "canaries": 200,
        "accountant": "stand-in",
    }
    return Plan(**{**given, **changed})


GAIN = {"2": 0.1, "inf": 0.3, "unclipped": 0.4}
LEAK = {"2": 0.0, "inf": 0.5, "unclipped": 3.0}


class Planted:
    """Trainings that give newcomers a known gain and leak a known amount."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, str]] = []
        self.swaps = False
        self.broken = False

    def train(self, trainer: Trainer, promise: Promise) -> Outcome:
        self.trained.append((trainer.seed, promise.name))
        roles, rng = trainer.roles, np.random.default_rng([trainer.seed, *promise.name.encode()])
        inside = ~roles.inside if self.swaps else roles.inside
        public = 2 + np.array(roles.newcomers) / 100
        leak = LEAK[promise.name]
        flat = rng.normal(size=len(inside))
        privacy = promise.privacy
        if privacy is not None and self.broken:
            privacy = dataclasses.replace(privacy, noise_multiplier=0.1)
        made, made_inside = Trainer._crafted(trainer, privacy)
        return Outcome(
            np.array(roles.newcomers),
            public,
            public - GAIN[promise.name] / 2,
            public - GAIN[promise.name] + rng.normal(size=len(public)) * 1e-3,
            np.array(roles.candidates),
            inside,
            flat + leak * roles.inside,
            flat,
            made,
            made_inside,
            np.array(roles.candidates[:20]),
            4.0 * roles.inside[:20] + flat[:20],
            roles.inside[:20],
        )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Planted:
    found = Planted()
    monkeypatch.setattr(summary, "DRAWS", 100)

    def train(self: Trainer, promise: Promise) -> Outcome:
        return found.train(self, promise)

    monkeypatch.setattr(Trainer, "train", train)
    return found


def run(plan: Plan, folder: Path) -> EpsilonResult:
    return epsilon_of(plan, out=folder, cache=folder, progress=lambda *_: None)


def test_what_was_planted_is_measured_and_finished_pairs_are_kept(
    candidates: Candidates, planted: Planted, tmp_path: Path
) -> None:
    plan = a_plan(candidates)
    first = run(plan, tmp_path)
    again = run(a_plan(candidates, seeds=(0, 1, 2)), tmp_path)
    fewer = run(a_plan(candidates, promises=plan.promises[1:]), tmp_path)
    assert len(planted.trained) == 9 == len(set(planted.trained))
    assert [row.thing for row in again.rows] == ["2", "inf", "unclipped"]
    assert [row.per_seed[:2] for row in again.rows] == [row.per_seed for row in first.rows]
    assert [row.pooled for row in fewer.rows] == [row.pooled for row in first.rows[1:]]
    private, free, unclipped = (row.pooled for row in again.rows)
    assert private.gain.value == pytest.approx(0.1, abs=2e-3)
    assert private.stage1.value == pytest.approx(again.public.value - 0.05)
    assert private.kept.value == pytest.approx(0.25, abs=0.01)
    assert private.kept.low <= 0.25 <= private.kept.high
    assert unclipped.kept.value == 1 and unclipped.crafted is None
    assert unclipped.membership.auc == pytest.approx(norm.cdf(3 / math.sqrt(2)), abs=0.03)
    assert unclipped.people.epsilon > free.people.epsilon
    assert free.crafted is not None and private.crafted is not None
    assert free.crafted.correct >= 0.95 * free.crafted.guesses
    assert private.crafted.epsilon < min(2, free.crafted.epsilon)
    assert (again.rows[0].epsilon, again.rows[1].epsilon) == (2.0, None)
    assert again.candidates == len(candidates.users) - 10
    assert failed_controls(again) == []
    with pytest.raises(CheckpointError):
        run(a_plan(candidates, canaries=100), tmp_path)


def test_the_page_and_the_sentences_say_what_was_found(
    candidates: Candidates, planted: Planted, tmp_path: Path
) -> None:
    result = run(a_plan(candidates), tmp_path)
    leave_result(result, tmp_path)
    again = read_epsilon(tmp_path / "epsilon.json")
    assert again.sentences == result.sentences
    assert [row.thing for row in again.rows] == [row.thing for row in result.rows]
    assert again.rows[0].pooled.gain.value == pytest.approx(
        result.rows[0].pooled.gain.value, abs=1e-5
    )
    assert "epsilon 2, delta 1e-05" in result.sentences[0]
    assert "25% of what they take off without privacy" in result.sentences[0]
    assert "promises nothing" in result.sentences[1] and "without privacy" in result.sentences[2]
    text = (tmp_path / "epsilon.html").read_text()
    assert text.count("<svg") == 2 and "No audit refutes a promise" in text
    assert "unclipped" in (tmp_path / "epsilon.md").read_text()


def test_a_promise_that_is_not_kept_and_a_swapped_truth_are_told(
    candidates: Candidates, planted: Planted, tmp_path: Path
) -> None:
    honest = run(a_plan(candidates), tmp_path / "honest")
    planted.swaps = True
    swapped = run(a_plan(candidates), tmp_path / "swapped")
    auc, other = (one.rows[-1].pooled.membership.auc for one in (honest, swapped))
    assert other == pytest.approx(1 - auc)
    planted.swaps, planted.broken = False, True
    broken = run(a_plan(candidates), tmp_path / "broken")
    assert any("promise is broken" in line for line in failed_controls(broken))
    assert "promise is broken" in render(broken, show(broken))


def test_an_outcome_is_read_as_it_was_written() -> None:
    flags, numbers, places = np.array([True, False]), np.array([0.5, -1e-9]), np.array([3, 7])
    values = {
        field.name: flags
        if field.name.endswith("inside")
        else places
        if field.name in ("newcomer", "candidate", "overfit_owner")
        else numbers
        for field in dataclasses.fields(Outcome)
    }
    again = Outcome.from_row(json.loads(json.dumps(Outcome(**values).to_row())))
    for name, value in values.items():
        assert getattr(again, name).dtype == value.dtype
        assert getattr(again, name).tolist() == value.tolist()


def test_a_ratio_of_sums_and_its_interval() -> None:
    above, below = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 4.0, 6.0, 8.0])
    owner, rng = np.array([0, 0, 1, 2]), np.random.default_rng(0)
    found = ratio(above, below, owner, rng=rng)
    assert (found.value, found.n_owners) == (0.5, 3)
    assert found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)
    assert math.isnan(ratio(above, -below, owner, rng=rng).value)


# -- promises and options ----------------------------------------------------------------------


def test_every_epsilon_gets_its_noise_and_infinity_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float | None, int]] = []

    def spend(privacy: PrivacySettings, steps: int) -> accountant.Spent:
        asked.append((privacy.epsilon, steps))
        assert not privacy.reproducible
        return accountant.Spent(8.0 / (privacy.epsilon or 1), privacy.epsilon or 0, "stand-in")

    monkeypatch.setattr(planning, "spend", spend)
    found, said = promises_of([1.0, 8.0, math.inf], TERMS, preset("calibrated"))
    assert asked == [(1.0, 4), (8.0, 4)] and said == "stand-in"
    assert [one.name for one in found] == ["1", "8", "inf", "unclipped"]
    noise = [one.privacy and (one.privacy.z, one.privacy.reproducible) for one in found]
    assert noise == [(8.0, True), (1.0, True), (0.0, True), None]
    with pytest.raises(ConfigError, match="no noise"):
        promises_of([1.0], TERMS, preset("default"))


def test_an_audit_of_more_canaries_than_delta_allows_is_refused(candidates: Candidates) -> None:
    with pytest.raises(ConfigError, match="delta") as error:
        a_plan(candidates, delta=1e-2)
    assert "--delta" in str(error.value.hint)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--epsilons", "0"],
        ["--epsilons", "nan"],
        ["--epsilons", "much"],
        ["--steps", "3"],
        ["--learning-rates", "0.1"],
        ["--learning-rates", "0.1,2", "--epsilons", "inf"],
        ["--steps", "0,3", "--epsilons", "inf"],
        ["--clip", "-1", "--epsilons", "inf"],
        ["--newcomers", "70", "--people", "72", "--epsilons", "inf"],
        ["--seeds", "1,1", "--epsilons", "inf"],
    ],
)
def test_options_that_cannot_be_are_refused(wrong: list[str], tmp_path: Path) -> None:
    words = ["privacy", "epsilon", "demo", "--out", str(tmp_path), *wrong]
    assert run_cli(words) == ConfigError.exit_code
    assert not list(tmp_path.iterdir())


def test_without_an_accountant_a_finite_epsilon_is_refused_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(accountant.VARIABLE, str(tmp_path / "nowhere"))
    words = ["privacy", "epsilon", "demo", "--out", str(tmp_path / "out")]
    assert run_cli(words) == ConfigError.exit_code
    assert "make accountant" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_from_people_to_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step or two of each stage, over a small base: who is asked for what, and what is kept."""
    group = dataclasses.replace(SMALL.group, epochs=1)
    short = dataclasses.replace(
        SMALL, population=dataclasses.replace(SMALL.population, epochs=2), group=group
    )
    monkeypatch.setattr(command, "profile_for", lambda *_: short)
    monkeypatch.setattr(tiny_base, "make_tiny_base", lambda *_, **__: small_base())
    monkeypatch.setattr(targets, "LEAST_OVERFIT_EPOCHS", 20)
    monkeypatch.setattr(trained, "CONTROL_PEOPLE", 4)
    words = ["privacy", "epsilon", "demo", "--out", str(tmp_path), "--epsilons", "inf"]
    words += ["--people", "24", "--newcomers", "2", "--seeds", "0", "--steps", "3,1"]
    words += ["--canaries", "40", "--items-per-user", "2", "--max-items", "12"]
    assert run_cli(words) == 0
    result = read_epsilon(tmp_path / "epsilon.json")
    free, unclipped = result.rows
    assert (free.thing, unclipped.thing) == ("inf", "unclipped")
    assert free.pooled.crafted is not None
    assert free.pooled.crafted.correct >= 0.8 * free.pooled.crafted.guesses
    assert unclipped.pooled.stage1.value < result.public.value
    assert free.pooled.stage1.value != result.public.value
    assert result.positive.auc > 0.8
    monkeypatch.setattr(Trainer, "train", None)
    capsys.readouterr()
    assert run_cli([*words, "--json"]) == 0, "what is finished is not trained again"
    assert document(capsys.readouterr().out, "privacy epsilon", "proper-sim")["lines"]
