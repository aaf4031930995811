"""The shuffled control: nobody keeps the own adapter, and the same run shuffles alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from run_folders import make_run, make_user

from client.person import arms
from proper_model.errors import DataError
from proper_model.evaluation.metrics import Prediction
from proper_model.progress import silent
from proper_model.storage.files import make_private_folder, write_atomic
from simulations.outcome import controls
from simulations.outcome.controls import (
    control_file,
    controls_missing,
    derangement,
    run_controls,
)
from simulations.outcome.devices import read_predictions, read_state

USERS = tuple(make_user(name, ["comedy", "action"]) for name in ("anna", "boris", "cora", "dan"))
OUTPUTS = {
    arm: {user.user_id: [("comedy", 1.0), ("action", 1.0)] for user in USERS}
    for arm in ("stage3", "stage3-shuffled")
}


@pytest.mark.parametrize("count", [2, 3, 5, 100])
def test_no_fixed_point_and_every_source_used_once(count: int) -> None:
    for seed in range(20):
        order = derangement(count, seed=seed)
        assert sorted(order) == list(range(count))
        assert all(place != source for place, source in enumerate(order))


def test_seed_decides_the_order() -> None:
    assert derangement(30, seed=1) == derangement(30, seed=1)
    assert derangement(30, seed=1) != derangement(30, seed=2)


def test_all_derangements_of_four_occur_about_equally_often() -> None:
    seen = Counter(tuple(derangement(4, seed=seed)) for seed in range(1800))
    assert len(seen) == 9
    assert min(seen.values()) > 140  # 200 expected, standard deviation 13


def test_one_user_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="at least two"):
        derangement(1, seed=0)


def test_control_predicts_every_query_with_another_users_state(tmp_path: Path, monkeypatch) -> None:
    fits = {user.user_id: {"e_distance": 1.0} for user in USERS}
    plan = make_run(tmp_path, USERS, OUTPUTS, fits=fits)
    own = {
        u.user_id: read_state(e, "stage3", u.user_id)
        for e, u in zip(plan.devices, USERS, strict=True)
    }
    used: dict[str, torch.Tensor] = {}

    def predict(release, users, arm, states, *, progress=None):
        assert arm == "stage3"
        used.update({name: state.embedding for name, state in states.items()})
        return [Prediction(u.user_id, q.id, "comedy", 1.0, 2) for u in users for q in u.queries]

    monkeypatch.setattr(arms, "predict", predict)
    monkeypatch.setattr(controls, "_release", lambda _plan: object())
    assert controls_missing(plan)
    run_controls(plan, silent)
    assert set(used) == set(own)
    assert all(not torch.equal(used[name], own[name].embedding) for name in own)
    rows = read_predictions(control_file(plan, "stage3-shuffled"))
    asked = [(u.user_id, q.id) for u in USERS for q in u.queries]
    assert [(row.user_id, row.query_id) for row in rows] == asked
    assert not controls_missing(plan), "a finished control is not computed again"
    assert controls_missing(plan.model_copy(update={"seed": 1})), "it was about another plan"
    user = plan.devices[0].folder / "user.json"
    before = user.read_bytes()
    user.write_bytes(before + b" ")
    assert controls_missing(plan), "it was about other data"
    user.write_bytes(before)
    assert not controls_missing(plan)
    write_atomic(
        make_private_folder(plan.server_folder / "release") / "latest.json",
        b'{"bundle_id":"' + b"cd" * 32 + b'","version":2}',
    )
    assert controls_missing(plan), "it was about another release"


def test_no_control_without_its_arm(tmp_path: Path) -> None:
    plan = make_run(tmp_path, USERS, {"stage3": OUTPUTS["stage3"]})
    assert not controls_missing(plan)
