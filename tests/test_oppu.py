"""OPPU on attention: the same training as PROPER's own private LoRA, resumed like it, in the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from client.person.adapting import adapt_users
from client.person.arms import predict
from proper_model.tasks.records import User
from proper_model.tasks.task import Example, Task
from simulations.baselines import registry
from simulations.baselines.oppu import Oppu, oppu
from simulations.baselines.under_pass import PLAIN, TaskWording
from tests.rivals import TASK, benchmark, mean_loss, person

USERS = [person("one", 0), person("two", 1, items=6), person("few", 0, items=3)]


def test_without_targets_it_is_oppu_mlp_number_for_number(tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS)
    states = adapt_users(given.release, USERS, arms=["oppu-mlp"], bundle_id="a", seed=0)
    expected = predict(
        given.release, USERS, "oppu-mlp", {name: state for (_, name), state in states.items()}
    )
    assert Oppu("oppu-mlp", None).predict(given) == expected


@pytest.mark.parametrize("name", ["oppu-kv", "oppu-qv"])
def test_own_items_help_whoever_has_enough_of_them(name: str, tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS)
    before = predict(given.release, USERS, "stage1", {})
    after = oppu(name).predict(given)
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

    whole = oppu("oppu-kv").predict(benchmark(tmp_path / "whole", [], USERS))
    given = benchmark(tmp_path / "killed", [], USERS)
    with pytest.raises(KilledError):
        oppu("oppu-kv").predict(dataclasses.replace(given, progress=kill))
    assert oppu("oppu-kv").predict(given) == whole


def test_items_and_queries_are_asked_in_the_given_wording(tmp_path: Path) -> None:
    class Shouted(TaskWording):
        seen: list[Example] = []  # noqa: RUF012 - of this test

        def items(self, task: Task, user: User) -> list[Example]:
            self.seen += (found := self._shouted(super().items(task, user)))
            return found

        def queries(self, task: Task, user: User) -> list[Example]:
            self.seen += (found := self._shouted(super().queries(task, user)))
            return found

        @staticmethod
        def _shouted(examples: Sequence[Example]) -> list[Example]:
            return [dataclasses.replace(one, prompt=f"w50 {one.prompt}") for one in examples]

    given = benchmark(tmp_path, [], USERS[:1])
    other = Oppu("x", ("k_proj",), Shouted()).predict(given)
    assert len(Shouted.seen) == 10
    plain = Oppu("y", ("k_proj",)).predict(given)
    assert mean_loss(other) != pytest.approx(mean_loss(plain), abs=1e-6)
    assert PLAIN.items(TASK, USERS[0])[0].prompt in Shouted.seen[0].prompt


@pytest.mark.parametrize("name", ["oppu-kv", "oppu-qv", "per-pcs", "hypernetwork"])
def test_every_trained_rival_is_in_the_registry_under_its_name(name: str) -> None:
    assert registry.make(name).name == name
    assert registry.fits(name, TASK) is None


def test_the_base_is_left_as_it_was(tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], USERS[:1])
    before = {name: p.clone() for name, p in given.release.base.named_parameters()}
    oppu("oppu-qv").predict(given)
    for name, p in given.release.base.named_parameters():
        assert torch.equal(p, before[name])
