"""Deletion: planted leaks before and after, exact forgetting, marks by place, and what is said of it.

A record's log-probability is its difficulty, N(-12, 2), plus noise, N(0, 1), plus LEAK where the model was
trained on it. Of a person's n records the mean counts, so with the normal distribution function Phi

    before, loss-minus-public      AUC = Phi(LEAK sqrt(n) / sqrt(2))
    both, loss-difference          AUC = Phi(LEAK sqrt(n) / 2), since each release has noise of its own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from client.person import adapting
from client.person.learner import Learner
from proper_model.errors import CheckpointError, ConfigError
from proper_model.json_output.document import document as printed
from proper_model.settings import load_profile, preset
from proper_model.tasks import load_task
from simulations.privacy.deletion import forgetting, withdrawal
from simulations.privacy.deletion import seeds as module
from simulations.privacy.deletion.forgetting import Forgetting, draw_forgotten
from simulations.privacy.deletion.found import (
    Attempt,
    Remaining,
    Retrained,
    Row,
    content_of,
    difference,
    row_of,
)
from simulations.privacy.deletion.remains import (
    DEVICE_PLACES,
    OPENED,
    POOLED_PLACES,
    remains,
    told,
)
from simulations.privacy.deletion.seeds import Plan, deletion_of, summarized
from simulations.privacy.deletion.withdrawal import draw_gone
from simulations.privacy.egress.scanner import Finding, Scan
from simulations.privacy.membership.attacked import Records
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import TokenView
from simulations.privacy.results import deletion_show
from simulations.privacy.results.deletion_schema import read_deletion
from simulations.privacy.results.told import leave_result
from simulations.privacy.statistics.measures import Scored, measure, pooled
from tests.documents import document
from tests.releases import small_release, small_users, with_user

LEAK, PEOPLE, ITEMS = 0.6, 60, 4
SEEDS = range(1, 7)  # fixed: of 95% intervals one in twenty misses, whatever is measured


class Mock:
    """One seed: twenty people withdraw, twenty stay, twenty were never pooled; records are numbers."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.gone, self.stayed = list(range(20)), list(range(20, 40))
        self.newcomers = list(range(40, PEOPLE))
        count = PEOPLE * ITEMS
        self.difficulty = self.rng.normal(-12, 2, count)
        owner = np.repeat(np.arange(PEOPLE), ITEMS)
        self.known = Records(tuple(range(count)), (), owner)  # type: ignore[arg-type]
        self.first = self

    def progress(self, *_: object) -> None:
        """Says nothing."""

    def passes(self, _: Any) -> dict[str, Any]:
        return {"population": None}

    def said(self, rows: Sequence[Any], trained: Sequence[int], leak: float) -> list[TokenView]:
        places = [record for _, record in rows]
        had = np.isin(self.known.owner[places], trained)
        values = self.difficulty[places] + self.rng.normal(size=len(places)) + leak * had
        return [TokenView(np.array([v]), np.array([-12.0]), np.array([1.0])) for v in values]

    def views(self, rows: Sequence[Any], _: Any, release: Sequence[int]) -> list[TokenView]:
        return self.said(rows, release, LEAK)

    def public_views(self, records: Sequence[Any]) -> list[TokenView]:
        values = self.difficulty[list(records)]
        return [TokenView(np.array([v]), np.array([-12.0]), np.array([1.0])) for v in values]


def texts(*, forgets: bool) -> dict[str, list[Attempt]]:
    """By name what planted releases tell; one that forgets nothing goes on as before."""
    found: dict[str, list[Attempt]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            withdrawal, "_overfit", lambda first, asked: first.said(asked.rows, first.gone, 6.0)
        )
        for seed in SEEDS:
            mock = Mock(seed)
            releases = {
                "before": [*mock.gone, *mock.stayed],
                "after": mock.stayed if forgets else [*mock.gone, *mock.stayed],
            }
            for one in withdrawal._texts(mock, releases, ["population"]):  # type: ignore[arg-type]
                found.setdefault(one.name, []).append(one)
    return found


def auc_of(rows: Sequence[Attempt]) -> tuple[float, float, float]:
    scored = pooled([one.scored for one in rows])
    found = measure(scored, rng=np.random.default_rng(0), draws=300)
    return found.low, found.auc, found.high


def test_a_planted_leak_is_measured_before_and_by_both_and_gone_after() -> None:
    found = texts(forgets=True)
    expected = {
        "before/population/loss-minus-public/none": norm.cdf(LEAK * sqrt(ITEMS) / sqrt(2)),
        "after/population/loss-minus-public/none": 0.5,
        "both/population/loss-difference/none": norm.cdf(LEAK * sqrt(ITEMS) / 2),
        "before/population/loss/negative": 0.5,
        "both/population/loss-difference/negative": 0.5,
    }
    for name, auc in expected.items():
        low, _, high = auc_of(found[name])
        assert low <= auc <= high, (name, low, auc, high)
    for scope in ("before", "after"):
        assert auc_of(found[f"{scope}/population/loss/positive"])[0] > 0.9
    assert auc_of(found["both/population/loss-difference/positive"])[0] > 0.9
    assert "before/population/loss-minus-public/negative" not in found


def test_a_next_release_that_still_has_them_is_seen() -> None:
    found = texts(forgets=False)
    assert auc_of(found["after/population/loss-minus-public/none"])[0] > 0.6
    low, _, high = auc_of(found["both/population/loss-difference/none"])
    assert low <= 0.5 <= high


def test_a_third_of_those_who_trained_withdraws_by_seed() -> None:
    trained = [place % 3 > 0 for place in range(30)]
    gone = draw_gone(trained, 1)
    assert gone == draw_gone(trained, 1) != draw_gone(trained, 2)
    assert len(gone) == 7 and all(trained[place] for place in gone)


def test_difference_sees_every_bit_and_other_names() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    assert difference(one, dict(one)) == (False, 0.0)
    assert difference(one, {**one, "a": torch.tensor([1.0, 2.5])}) == (True, 0.5)
    assert difference(one, {"a": one["a"]}) == (True, 0.0)
    assert difference(one, {"a": torch.tensor([1.0]), "b": torch.tensor(5)}) == (True, 2.0)


def attacked_devices() -> Any:
    """Two newcomers of a small release, as `Forgetting` asks for them, with one step of training."""
    release = with_user(small_release(), epochs=1, embedding_epochs=1, learning_rates=(4e-3,))
    users = small_users()[1][:2]
    return SimpleNamespace(
        learner=Learner(release),
        candidates=SimpleNamespace(task=release.task, users=users),
        newcomers=[0, 1],
        draw=SimpleNamespace(known=[user.history[:12] for user in users]),
        seed=3,
    )


def test_forgetting_gives_the_bits_of_never_having_had_and_a_faulty_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attacked = attacked_devices()
    made, name = Forgetting.of(attacked), attacked.candidates.task.name
    found = made.retrained(name)
    assert (found.compared, found.different, found.distance) == (2, 0, 0.0) and found.change > 0
    for state, ids, own in zip(made.after, made.gone, attacked.draw.known, strict=True):
        assert len(ids) == 3 and set(ids) == set(draw_forgotten(own, 3, made.gone.index(ids)))
        assert not set(ids) & {item.id for item in state.tasks[name].items}

    def keeps_one(state: Any, task: str, ids: Sequence[str]) -> Any:
        return adapting_without(state, task, ids[1:])

    adapting_without = adapting.without
    monkeypatch.setattr(forgetting.adapting, "without", keeps_one)
    faulty = Forgetting.of(attacked).retrained(name)
    assert faulty.different == 2 and faulty.distance > 0


def finding(place: str, canary: str) -> Finding:
    return Finding(place, canary, "pooled 0", "utf-8", 0)


def test_marks_are_counted_by_place_and_kind() -> None:
    before = Scan(
        [finding("first/server/pooled.json", "item text"), finding("cache/a", "tensor row 1")]
    )
    after = Scan([finding("consents.json", "user id")], incomplete=["home/x: cut"])
    rows = [
        row for row in told("pooled", POOLED_PLACES, before, after) if isinstance(row, Remaining)
    ]
    seen = {
        (row.place, row.what): (row.before, row.after) for row in rows if row.before or row.after
    }
    assert seen == {
        ("the first run's copy of pooled data", "text"): (1, 0),
        ("cached phases", "trained numbers"): (1, 0),
        ("the file of consents", "id"): (0, 1),
    }
    assert [row.unread for row in rows if row.place.startswith("elsewhere")] == [1, 1, 1]
    opened = told("device", DEVICE_PLACES, Scan([finding(OPENED, "item text")]), Scan())
    assert [row.before for row in opened if isinstance(row, Remaining) and row.before] == [1]


def attempt(scope: str, thing: str, level: str, control: str, shift: float) -> Attempt:
    rng = np.random.default_rng(7)
    member = np.arange(40) < 20
    scored = Scored(rng.normal(size=40) + shift * member, member, np.arange(40))
    return Attempt(scope, thing, "loss", level, control, scored)  # type: ignore[arg-type]


def rows() -> list[Row]:
    shifts: Mapping[str, float] = {"none": 2.0, "positive": 5.0, "negative": 0.0}
    found: list[Row] = [
        attempt(
            scope, thing, level, control, 0.0 if scope == "after" and control == "none" else shift
        )
        for thing, level in (("experts", "person"), ("adapter", "record"))
        for scope in ("before", "after")
        for control, shift in shifts.items()
    ]
    found += [attempt("both", "experts", "person", control, s) for control, s in shifts.items()]
    return [*found, Retrained("release", 1, 0, 0.0, 0.5), Retrained("adapter", 9, 2, 1e-3, 0.5)]


LOOKED: list[Row] = [
    Remaining("pooled", "cached phases", "trained numbers", 9, 0, 0),
    Remaining("pooled", "data that the operator gave", "text", 4, 4, 0),
    Remaining("device", "the vault, opened", "text", 1, 0, 0),
]


def test_rows_are_kept_as_they_are() -> None:
    for row in (*rows(), *LOOKED):
        again = row_of(content_of(row))
        assert content_of(again) == content_of(row) and type(again) is type(row)
    with pytest.raises((TypeError, KeyError)):
        row_of({"kind": "retrained", "thing": "x"})


@pytest.fixture
def plan() -> Plan:
    candidates = Candidates("people", small_users()[1], load_task("synth_tag"), "base", 0.0)
    return Plan(
        candidates,
        preset("default"),
        load_profile("demo"),
        (0, 1),
        ("experts", "adapter", "remains"),
    )


def test_from_kept_seeds_to_the_page(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def attacked(*_: Any, seed: int, **__: Any) -> None:
        trained.append(seed)

    monkeypatch.setattr(module, "Attacked", attacked)
    monkeypatch.setattr(module, "on_withdrawal", lambda *_: rows())
    monkeypatch.setattr(module, "on_forgetting", lambda *_: [])
    monkeypatch.setattr(module, "remains", lambda *_: LOOKED)
    how: dict[str, Any] = {"out": tmp_path, "cache": tmp_path, "progress": lambda *_: None}
    deletion_of(plan, **how)
    result = deletion_of(replace(plan, seeds=(0, 1, 2)), **how)
    assert trained == [0, 1, 2]
    left = leave_result(result, tmp_path)
    assert document(printed("privacy deletion", left), "privacy deletion", "proper-sim")["lines"]
    read = read_deletion(tmp_path / "deletion.json")
    assert (read.sentences, read.exact, read.remains) == (
        *(result.sentences, result.exact, result.remains),
    )
    assert [row.pooled.auc for row in read.attacks] == pytest.approx(
        [row.pooled.auc for row in result.attacks]
    )
    assert (tmp_path / "deletion.md").read_text().count("| release |") == 1
    assert not deletion_show.failed_controls(result)
    said = "\n".join(result.sentences)
    assert said.count("do not show that anything is left, nor do they rule it out") == 2
    assert "gives away who left" in said
    assert "Of 3 releases after deletion, none differs in any bit" in said
    assert "Of 27 adapters after deletion, 6 differ" in said
    assert "data that the operator gave (4 times: text)" in said
    page = (tmp_path / "deletion.html").read_text()
    assert "<svg" in page and "against exact retraining" in page and "what remains" in page
    with pytest.raises(CheckpointError):
        deletion_of(replace(plan, things=("experts",)), **how)


def test_what_told_nothing_before_is_not_said_to_be_gone(plan: Plan) -> None:
    controls = (("none", 0.0), ("positive", 5.0), ("negative", 0.0))
    flat: list[Row] = [
        attempt(scope, "experts", "person", control, shift)
        for scope in ("before", "after", "both")
        for control, shift in controls
    ]
    one, both, _ = summarized(plan, [flat, flat], LOOKED[:1]).sentences
    assert one.endswith("told anything before either, so of what is left they say nothing.")
    assert both.endswith("gives away who left, nor do they rule it out.")


@pytest.mark.parametrize("published", [0, 10])
def test_embeddings_that_are_not_published_are_not_measured(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, published: int
) -> None:
    """Of the first release they are published, of the next, with fewer people, not."""

    def release(people: int) -> Any:
        shared = {"mean_embedding_count": torch.tensor([people])}
        return SimpleNamespace(shared=shared, structure=preset("default"))

    class Withdrawn:
        def __init__(self, _: Any) -> None:
            self.next = SimpleNamespace(release=release(published))

        def retrained(self) -> Retrained:
            return Retrained("release", 1, 0, 0.0, 0.5)

    monkeypatch.setattr(withdrawal, "Withdrawal", Withdrawn)
    monkeypatch.setattr(
        withdrawal,
        "_embeddings",
        lambda _, scope, __: [attempt(scope, "embeddings", "person", "none", 0.0)],
    )
    first: Any = SimpleNamespace(
        release=release(12), passes=lambda _: {}, progress=lambda *_: None, grouped=True
    )
    found = withdrawal.on_withdrawal(first, ("embeddings",))
    assert sum(isinstance(row, Attempt) for row in found) == (2 if published else 0)
    asked = replace(plan, seeds=(0,), things=("embeddings",))
    said = " ".join(summarized(asked, [found], []).sentences)
    assert ("not published, so not measured" in said) is not bool(published)


def test_a_preset_without_what_is_asked_for_is_refused(plan: Plan) -> None:
    alone = plan.structure.without_groups()
    with pytest.raises(ConfigError, match="nothing of experts, embeddings"):
        replace(plan, structure=alone, things=("experts", "embeddings"))
    replace(plan, structure=alone, things=("experts", "population"))


def test_a_look_that_saw_no_mark_before_proves_nothing(plan: Plan) -> None:
    blind = [Remaining("device", "the vault, opened", "text", 0, 0, 0)]
    result = summarized(plan, [rows(), rows()], blind)
    assert any("says nothing" in line for line in deletion_show.failed_controls(result))


def test_lives_below_a_relative_folder_get_paths_that_hold_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their commands run in another working folder, where a relative path names nothing."""
    monkeypatch.chdir(tmp_path)
    seen: list[Path] = []
    module = "simulations.privacy.deletion.remains"
    monkeypatch.setattr(f"{module}.pooled_life", lambda at, _: (seen.append(at) or [], at))
    monkeypatch.setattr(f"{module}.device_life", lambda at, *_: seen.append(at) or [])
    assert remains(Path("out/folders"), 0, lambda *_: None) == []
    assert seen == [tmp_path / "out/folders" / name for name in ("coordinator", "device")]


@pytest.mark.full
def test_what_remains_of_people_and_of_an_item(tmp_path: Path) -> None:
    found = remains(tmp_path / "lives", 0, lambda *_: None)
    left = {(r.place, r.what): (r.before, r.after) for r in found if isinstance(r, Remaining)}
    assert left["cached phases", "trained numbers"][0] > 0
    assert left["cached phases", "trained numbers"][1] == 0
    assert left["the first run's copy of pooled data", "text"][1] == 0
    assert left["the next release", "text"] == left["the rest of the next run", "text"] == (0, 0)
    assert left["the vault, opened", "text"][0] > 0 == left["the vault, opened", "text"][1]
    (exact,) = [row for row in found if isinstance(row, Retrained)]
    assert (exact.different, exact.distance) == (0, 0.0) and exact.change > 0
