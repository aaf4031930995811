"""Unseen users' embeddings: fitted, chosen against prototypes, fallbacks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from proper_model.engine.folds import Samples, split_items
from proper_model.engine.trials import TrialSettings
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.settings.presets import Structure, preset
from proper_model.stages.user_embedding import (
    EmbeddingFit,
    candidate_losses,
    find_prototypes,
    fit_embeddings,
)
from tests.tiny import adapted, batch_of, embeddings_of, encoder, samples

SETTINGS = TrialSettings(
    epochs=6,
    batch_size=2,
    dropout=0.0,
    weight_decay=0.0,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    tokens_per_step=200,
)


def user(seed: int, count: int = 8) -> Samples:
    return split_items(samples(count, seed), fraction=0.25, folds=1, minimum=4, seed=seed)


# Judged on what it trains on, a fit must find something better than the mean.
OVERLAPPING = split_items(samples(6, 3) * 2, fraction=0.5, folds=1, minimum=4, seed=0)


def fitted(
    model: AdaptedModel,
    own: Samples,
    mean: Tensor,
    prototypes: Tensor | None = None,
    *,
    rate: float = 0.1,
) -> tuple[Tensor, EmbeddingFit]:
    """One user's embedding, and how it was found."""
    embeddings, (fit,) = fit_embeddings(
        model,
        encoder(),
        [own],
        mean=mean,
        prototypes=mean[None][:0] if prototypes is None else prototypes,
        learning_rate=rate,
        settings=SETTINGS,
    )
    return embeddings[0], fit


def test_candidate_losses_equal_asking_one_at_a_time() -> None:
    model = adapted()
    candidates = embeddings_of(model, 3)
    users = [user(1), user(2, count=2)]
    losses = candidate_losses(model, encoder(), users, candidates, 60)
    for u, own in enumerate(users):
        for c in range(3):
            each = []
            for item in own.judged:
                batch = batch_of((item,), [c])
                with torch.no_grad():
                    each.append(
                        float(model.answer_loss(batch, group_pass(batch.slots, candidates)))
                    )
            assert losses[u, c].item() == pytest.approx(sum(each) / len(each), abs=1e-5)


def test_a_user_without_items_gets_the_first_candidate() -> None:
    model = adapted()
    losses = candidate_losses(
        model, encoder(), [Samples((), (), 0), user(1)], embeddings_of(model, 2), 60
    )
    assert losses[0].tolist() == [0.0, 0.0]
    assert losses[1].min() > 0


def test_the_fit_lowers_held_back_loss_and_says_how_far_it_went() -> None:
    model = adapted()
    mean = embeddings_of(model, 1)[0]
    embedding, fit = fitted(model, OVERLAPPING, mean)
    assert fit.source == "fitted"
    assert fit.loss_after < fit.loss_before
    assert fit.epochs >= 1
    assert fit.distance == pytest.approx(float((embedding - mean).norm()))
    assert fit.distance > 0


def test_a_better_prototype_wins_and_a_worse_one_does_not() -> None:
    model = adapted()
    mean = embeddings_of(model, 1)[0]
    own = user(5)
    candidates = embeddings_of(model, 40, seed=9) * 8
    losses = candidate_losses(model, encoder(), [own], torch.cat([mean[None], candidates]), 200)[0]
    best, worst = candidates[losses[1:].argmin()], candidates[losses[1:].argmax()]
    assert losses[1:].min() < losses[0] < losses[1:].max()
    embedding, fit = fitted(model, own, mean, best[None], rate=1e-9)
    assert fit.source == "prototype"
    assert torch.equal(embedding, best)
    assert fitted(model, own, mean, worst[None], rate=1e-9)[1].source != "prototype"


def test_prototypes_are_means_of_their_members() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.cat([c + 0.01 * torch.randn(12, 1, 3, generator=generator) for c in (0.0, 5.0)])
    prototypes, sizes = find_prototypes(table, 2, minimum_users=10, seed=0)
    assert sizes == [12, 12]
    expected = torch.stack([table[:12].mean(0), table[12:].mean(0)])
    order = prototypes[:, 0, 0].argsort()
    assert torch.allclose(prototypes[order], expected, atol=1e-6)


REGULAR = dataclasses.replace(preset("default"), router_user=False, name="regular")


@pytest.mark.parametrize(
    ("structure", "rate"),
    [(REGULAR, 0.1), (preset("default"), float("inf"))],
    ids=["a regular router has nothing to fit", "a diverging fit is not chosen"],
)
def test_where_no_fit_helps_the_mean_stays(structure: Structure, rate: float) -> None:
    model = adapted(structure)
    mean = embeddings_of(model, 1)[0]
    embedding, fit = fitted(model, OVERLAPPING, mean, rate=rate)
    assert fit.source == "mean"
    assert torch.equal(embedding, mean)


def test_an_outlier_joins_a_cluster_so_that_its_row_cannot_be_computed() -> None:
    generator = torch.Generator().manual_seed(1)
    near = torch.cat([c + 0.1 * torch.randn(20, 1, 3, generator=generator) for c in (0.0, 4.0)])
    table = torch.cat([near, torch.full((1, 1, 3), 50.0)])
    prototypes, sizes = find_prototypes(table, 3, minimum_users=10, seed=0)
    assert sum(sizes) == 41
    weighted = sum(n * p for n, p in zip(sizes, prototypes, strict=True))
    assert torch.allclose(41 * table.mean(0), weighted, atol=1e-3)  # nothing is missing
