"""OPPU on attention: the same training as PROPER's own private LoRA, resumed like it, in the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from client.person.adapting import adapt_users
from client.person.arms import predict
from proper_model.engine import Samples
from proper_model.settings.profile import FFN_TARGETS
from simulations.baselines import oppu as module
from simulations.baselines import registry
from simulations.baselines.arm import Benchmark
from simulations.baselines.oppu import OPPU, Oppu
from tests.rivals import TASK, benchmark, mean_loss, person

USERS = [person("one", 0), person("two", 1, items=6), person("few", 0, items=3)]


def test_on_the_feed_forward_it_is_oppu_mlp_number_for_number(tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS)
    states = adapt_users(given.release, USERS, arms=["oppu-mlp"], bundle_id="a", seed=0)
    expected = predict(
        given.release, USERS, "oppu-mlp", {name: state for (_, name), state in states.items()}
    )
    user = given.release.settings.user
    same = Oppu("oppu-mlp", FFN_TARGETS, rank=4, alpha=8.0, dropout=user.dropout)
    assert same.predict(given) == expected


@pytest.mark.parametrize("name", ["oppu-kv", "oppu-qv"])
def test_own_items_help_whoever_has_enough_of_them(name: str, tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS)
    before = predict(given.release, USERS, "stage1", {})
    after = OPPU[name].predict(given)
    assert [p.query_id for p in after] == [q.id for user in USERS for q in user.queries]
    assert mean_loss(after[:4]) < mean_loss(before[:4]) - 0.5
    # Below the profile's minimum nothing is trained.
    assert mean_loss(after[4:]) == pytest.approx(mean_loss(before[4:]), abs=1e-6)


def test_a_killed_run_goes_on_to_the_same_answers(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(phase: str, done: int, total: int) -> None:
        if phase == "oppu-kv" and done >= total // 2 > 0:
            raise KilledError

    whole = OPPU["oppu-kv"].predict(benchmark(tmp_path / "whole", [], USERS))
    given = benchmark(tmp_path / "killed", [], USERS)
    with pytest.raises(KilledError):
        OPPU["oppu-kv"].predict(dataclasses.replace(given, progress=kill))
    assert OPPU["oppu-kv"].predict(given) == whole


def test_retrieved_items_stand_before_items_and_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Samples] = []
    real = module.train_loras

    def watch(given: Benchmark, model: Any, users: Sequence[Samples], **kwargs: Any) -> Any:
        seen.extend(users)
        return real(given, model, users, **kwargs)

    monkeypatch.setattr(module, "train_loras", watch)
    given = benchmark(tmp_path, [], USERS[:1])
    plain = OPPU["oppu-kv"].predict(given)
    over = OPPU["oppu-kv+rag-1"].predict(given)
    without, retrieved = ([len(item.tokens) for item in user.items] for user in seen)
    assert all(more >= few for more, few in zip(retrieved, without, strict=True))
    assert sum(retrieved) > sum(without)
    assert [p.query_id for p in over] == [p.query_id for p in plain]
    assert mean_loss(over) != pytest.approx(mean_loss(plain), abs=1e-6)


@pytest.mark.parametrize("name", [*OPPU, "per-pcs", "hypernetwork"])
def test_every_trained_rival_is_in_the_registry_under_its_name(name: str) -> None:
    assert registry.make(name).name == name
    assert registry.fits(name, TASK) is None


def test_the_base_is_left_as_it_was(tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS[:1])
    before = {name: p.clone() for name, p in given.release.base.named_parameters()}
    OPPU["oppu-qv"].predict(given)
    for name, p in given.release.base.named_parameters():
        assert torch.equal(p, before[name])
