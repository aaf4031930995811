"""PER-PCS: merged by plain loops in float64, planted anchors, gates, and people without items."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proper_model.engine import Fold, Samples
from proper_model.errors import TrainingError
from proper_model.model import AdaptedModel, UserLora
from simulations.baselines import per_pcs as module
from simulations.baselines.per_pcs import (
    PerPcs,
    anchors,
    label_means,
    merged,
    piece_weights,
    train_gates,
)
from simulations.baselines.under_pass import own_pass, private_model, split_users, train_loras
from tests.rivals import benchmark, mean_loss, person
from tests.tiny import encoder, randomize, samples

# Every anchor writes of other things than the others, in words of its own.
ANCHORS = [person(f"a{k}", k, first=4 + 12 * k, items=12) for k in range(4)]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_norm(x: Tensor) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / (variance + 1e-5) ** 0.5


def test_weights_and_merged_factors_equal_plain_loops(tmp_path: Path) -> None:
    model = private_model(benchmark(tmp_path, [], []), ("q_proj",), rank=2, alpha=2.0)
    means = [noise(3, 16, seed=s) for s in range(2)]
    means[0][2] = means[1][2] = 0  # of a person without items
    gates = [noise(5, 16, seed=10 + s) for s in range(2)]
    lora = UserLora([(16, 16)] * 2, 5, 2, [0] * 5).double()
    randomize(lora.parameters(), seed=3)
    model.double()
    weights = [piece_weights(m, g) for m, g in zip(means, gates, strict=True)]
    found = merged(model, lora, weights)
    for s in range(2):
        for u in range(3):
            scores = [float(means[s][u] @ layer_norm(g)) / math.sqrt(16) for g in gates[s]]
            best = sorted(range(5), key=lambda k: -scores[k])[:3]
            total = sum(math.exp(scores[k]) for k in best)
            own = [math.exp(scores[k]) / total if k in best and u < 2 else 0.0 for k in range(5)]
            assert weights[s][u].tolist() == pytest.approx(own, abs=1e-12)
            for ours, theirs in ((found.a[s][u], lora.a[s]), (found.b[s][u], lora.b[s])):
                expected = torch.zeros_like(theirs[0])
                for k in range(5):
                    expected += own[k] * theirs[k]
                assert torch.allclose(ours.double(), expected, atol=1e-6)


def test_label_means_read_the_plain_bases_inputs_at_answer_tokens(tmp_path: Path) -> None:
    given = benchmark(tmp_path, [], [])
    model = private_model(given, module.TARGETS, rank=2, alpha=2.0)
    people = [samples(2, seed=1), (), samples(3, seed=2)]
    found = label_means(model, encoder(), people, tokens=25)
    base = given.release.base
    for number, site in enumerate(model.sites):
        seen: list[Tensor] = []
        hook = base.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0][0])
        )
        for u, own in enumerate(people):
            labels: list[Tensor] = []
            for item in own:
                seen.clear()
                with torch.no_grad():
                    base(input_ids=torch.tensor([item.tokens]))
                labels += [layer_norm(x) for x in seen[0][item.prompt_tokens :]]
            expected = torch.stack(labels).mean(0) if labels else torch.zeros(site.d_in)
            assert torch.allclose(found[number][u], expected, atol=1e-4)
        hook.remove()


def test_the_longest_history_of_every_cluster_is_an_anchor() -> None:
    lengths = [5, 9, 6, 7, 4, 20]
    people, vectors = [], []
    for p, length in enumerate(lengths):
        items = samples(length, seed=p)
        folds = () if length == 20 else (Fold(items[:-1], items[-1:]),)
        people.append(Samples(items, folds, seed=p))
        vectors.append(torch.full((length, 2), 100.0 if p % 2 else 0.0) + 0.1 * p)
    # Five can be anchors, in two clusters: 0, 2, 4 and 1, 3.
    assert anchors(people, vectors, seed=0) == [1, 2]
    with pytest.raises(TrainingError, match="no pooled user"):
        anchors(people[5:], vectors[5:], seed=0)


Trained = tuple[AdaptedModel, list[Samples], list[Tensor], list[Tensor]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Four anchors' LoRAs in a model, their items, the LoRAs' numbers before gates, and gates."""
    given = benchmark(tmp_path_factory.mktemp("anchors"), ANCHORS, [])
    model = private_model(given, module.TARGETS, rank=4, alpha=8.0)
    people = split_users(given, ANCHORS)
    train_loras(given, model, people, phase="anchors", dropout=0.0)
    before = [factor.clone() for factor in model.lora.parameters()]
    return model, people, before, train_gates(model, given.release.encoder(), people, 512)


def test_a_target_who_is_a_copy_of_an_anchor_picks_that_anchor(trained: Trained) -> None:
    model, people, _, gates = trained
    copies = [one.items[:6] for one in people]
    means = label_means(model, encoder(), copies, tokens=512)
    shares = torch.stack([piece_weights(m, g) for m, g in zip(means, gates, strict=True)]).mean(0)
    assert shares.argmax(1).tolist() == [0, 1, 2, 3]
    assert shares.sum(1) == pytest.approx(torch.ones(4))


def test_gates_train_with_the_loras_frozen_and_lower_their_anchors_loss(trained: Trained) -> None:
    model, people, before, gates = trained
    assert all(torch.equal(a, b) for a, b in zip(model.lora.parameters(), before, strict=True))
    batch = encoder().batch(
        [item for one in people for item in one.items],
        [k for k, one in enumerate(people) for _ in one.items],
    )

    def loss(values: list[Tensor]) -> float:
        now = own_pass(batch.slots)
        now.gate = lambda number, x, layout: (
            (x * values[number][batch.slots][layout.rows]).sum(1, keepdim=True).sigmoid()
        )
        with torch.no_grad():
            return float(model.answer_loss(batch, now).mean())

    assert loss(gates) < loss([torch.zeros_like(gate) for gate in gates]) - 0.05


def test_a_newcomer_like_an_anchor_gains_and_one_without_items_gets_the_population(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECES", 1)
    monkeypatch.setattr(module, "anchors", lambda people, *_: list(range(len(people))))
    alike = person("new", 2, first=28)
    empty = person("empty", 2, first=28, items=0)
    given = benchmark(tmp_path, ANCHORS, [alike, empty])
    predictions = PerPcs().predict(given)
    assert [p.user_id for p in predictions] == ["new", "new", "empty", "empty"]
    assert mean_loss(predictions[:2]) < mean_loss(predictions[2:]) - 0.3
    again = PerPcs().predict(given)  # what is trained is found in the folder
    assert again == predictions
