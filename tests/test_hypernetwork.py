"""The hypernetwork: its equations by plain loops, planted people, episodes, resuming."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from proper_model.engine.pooled_training import PooledTraining
from proper_model.errors import TrainingError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.tasks.records import User
from simulations.baselines import hypernetwork as module
from simulations.baselines.arm import Benchmark
from simulations.baselines.history_network import HistoryNetwork
from simulations.baselines.hypernetwork import Episodes, Hypernetwork, Person, train_network
from simulations.baselines.item_vectors import item_vectors
from simulations.baselines.under_pass import own_pass, predict_under, private_model
from simulations.synthetic.people import make_synthetic
from tests.releases import small_release
from tests.rivals import benchmark, mean_loss, person
from tests.tiny import encoder, randomize, samples

POOLED = [person(f"p{i}", i % 2) for i in range(20)]
UNSEEN = [person(f"u{i}", i % 2) for i in range(6)]
TARGETS, RANK, ALPHA = module.TARGETS, module.RANK, module.ALPHA


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEAST_STEPS", 15), ("EPOCHS", 3), ("ENCODER_RATE", 1e-2)):
        monkeypatch.setattr(module, name, value)


def histories_of(
    given: Benchmark, model: AdaptedModel, people: Sequence[User]
) -> list[torch.Tensor]:
    return module._vectors(given, model, [module._history(given, user) for user in people])


def network_of(seed: int = 0) -> HistoryNetwork:
    found = HistoryNetwork(
        6,
        [(5, 4), (4, 7)],
        hidden=8,
        code=3,
        rank=2,
        generator=torch.Generator().manual_seed(seed),
    ).double()
    randomize(found.parameters(), seed=1, std=0.5)
    found.mean.fill_(0.1)
    found.std.fill_(2.0)
    return found


def test_codes_and_factors_equal_plain_loops() -> None:
    network = network_of()
    generator = torch.Generator().manual_seed(3)
    histories = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 0, 5)]
    codes = network.codes(histories)
    for history, code in zip(histories, codes, strict=True):
        total = torch.zeros(8, dtype=torch.float64)
        for x in history:
            total += network.phi((x - 0.1) / 2.0)
        share = network.log_gamma.exp() / (len(history) + network.log_kappa.exp())
        assert torch.allclose(code, network.rho(total * share), atol=1e-12)
    lora = network.lora(codes)
    for p, code in enumerate(codes):
        for s in range(2):
            core = torch.eye(2, dtype=torch.float64)
            for k in range(3):
                core = core + code[k] * network.cores[s, k]
            assert torch.equal(lora.a[s][p], network.a[s])
            assert torch.allclose(lora.b[s][p], network.b[s] @ core, atol=1e-12)


def test_a_fresh_network_changes_nothing_and_has_no_favourite_order() -> None:
    network = HistoryNetwork(
        6, [(5, 4)], hidden=8, code=3, rank=2, generator=torch.Generator().manual_seed(0)
    )
    history = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    codes = network.codes([history, history.flip(0)])
    assert torch.allclose(codes[0], codes[1], atol=1e-6)
    assert not network.lora(codes).b[0].any()


def test_item_vectors_equal_the_bases_own_hidden_states(tmp_path: Path) -> None:
    given = benchmark(tmp_path, POOLED, UNSEEN)
    model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
    people = [samples(3, seed=1), (), samples(2, seed=2)]
    found = item_vectors(model, encoder(), people, tokens=30)
    assert [len(own) for own in found] == [3, 0, 2]
    for own, vectors in zip(people, found, strict=True):
        for item, vector in zip(own, vectors, strict=True):
            with torch.no_grad():
                hidden = given.release.base.model(
                    input_ids=torch.tensor([item.tokens])
                ).last_hidden_state[0]
            cut = item.prompt_tokens
            expected = torch.cat([hidden[:cut].mean(0), hidden[cut:].mean(0)])
            assert torch.allclose(vector, expected, atol=1e-5)


def test_unseen_people_gain_by_their_own_items_and_lose_by_those_of_others(tmp_path: Path) -> None:
    given = benchmark(tmp_path, POOLED, UNSEEN)
    own = mean_loss(Hypernetwork().predict(given))
    model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
    network, report = train_network(given, model)
    assert report.best_epoch > 0
    everybody = network.codes(histories_of(given, model, UNSEEN))

    def loss(codes: torch.Tensor) -> float:
        model.lora = network.lora(codes)
        return mean_loss(predict_under(given, model, own_pass, name="test"))

    mean = loss(everybody.mean(0, keepdim=True).repeat(len(UNSEEN), 1))
    assert own == pytest.approx(loss(everybody), abs=1e-6)
    assert own < mean - 0.1
    assert loss(everybody.roll(1, 0)) > mean + 0.1  # neighbours answer with the other tag


@pytest.mark.full
def test_planted_groups_are_read_off_unseen_peoples_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LEAST_STEPS", 100), ("EPOCHS", 8), ("ENCODER_RATE", 1e-3)):
        monkeypatch.setattr(module, name, value)
    planted = make_synthetic(
        "synth_tag", preset="demo", users_per_group=24, test_users_per_group=4, pretrain=10
    )
    people = sorted(planted.population.test, key=lambda u: planted.truth["groups"][u.user_id])
    given = Benchmark(small_release(), planted.population.pooled, people, seed=0, folder=tmp_path)
    model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
    network, _ = train_network(given, model)
    codes = network.codes(histories_of(given, model, people))
    mean = network.codes(histories_of(given, model, given.pooled)).mean(0, keepdim=True)

    def loss(given_codes: torch.Tensor) -> float:
        model.lora = network.lora(given_codes)
        return mean_loss(predict_under(given, model, own_pass, name="test"))

    own, everybody = loss(codes), loss(mean.expand(len(people), -1))
    assert own < everybody - 0.02
    assert loss(codes.roll(4, 0)) > everybody  # with histories of people of another group


def test_an_episode_shows_other_items_of_whoever_is_asked_and_never_the_asked_one(
    tmp_path: Path,
) -> None:
    given = benchmark(tmp_path, POOLED, UNSEEN)
    model = private_model(given, TARGETS, rank=RANK, alpha=ALPHA)
    (items,), queries = [samples(4, seed=0)], samples(1, seed=1)
    people = [Person(items, queries, 10.0 * p + torch.arange(4.0)[:, None]) for p in (1, 2)]
    episodes = Episodes(given, model, network_of(), people, people)
    assert len(episodes.asked) == 10
    sizes = set()
    for number, (owner, place) in enumerate(episodes.asked):
        assert episodes.samples[number][1] == (queries[0] if place is None else items[place])
        for seed in range(20):
            shown = episodes._support(number, seed)[:, 0].tolist()
            allowed = {10.0 * (owner + 1) + i for i in range(4) if i != place}
            assert set(shown) <= allowed
            assert len(set(shown)) == len(shown)
            sizes.add(len(shown))
    assert sizes == {1, 2, 3, 4}


def test_a_killed_run_goes_on_to_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    monkeypatch.setattr(module, "EPOCHS", 2)

    class KilledError(Exception):
        pass

    def kill(phase: str, done: int, total: int) -> None:
        if phase == "hypernetwork" and done == 7:
            raise KilledError

    real = PooledTraining.__init__

    def every_step(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs, checkpoint_every_s=0.0)

    monkeypatch.setattr(PooledTraining, "__init__", every_step)
    whole = Hypernetwork().predict(benchmark(tmp_path / "whole", POOLED, UNSEEN))
    given = benchmark(tmp_path / "killed", POOLED, UNSEEN)
    with pytest.raises(KilledError):
        Hypernetwork().predict(dataclasses.replace(given, progress=kill))
    assert not (given.folder / "network").exists()
    steps: list[int] = []

    def count(phase: str, done: int, total: int) -> None:
        if phase == "hypernetwork":
            steps.append(done)

    assert Hypernetwork().predict(dataclasses.replace(given, progress=count)) == whole
    assert steps[0] == 8
    # What is trained is trained once.
    monkeypatch.setattr(PooledTraining, "run", None)
    assert Hypernetwork().predict(given) == whole


def test_one_pooled_person_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 pooled users have"):
        Hypernetwork().predict(benchmark(tmp_path, [POOLED[0], person("x", 0, queries=0)], UNSEEN))
