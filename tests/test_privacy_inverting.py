"""Inversion: planted vectors, gradients against a plain loop, texts found again from their gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from proper_model.errors import MetricError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import personal_pass
from proper_model.release.contents import Release, shared_tensors
from proper_model.settings.presets import preset
from proper_model.settings.profile import StageSettings
from simulations.privacy.inversion import matching
from simulations.privacy.inversion.uploads import (
    LOCAL_RATE,
    LoraUpload,
    RouterUpload,
    embedding_rows,
    gradients,
    local_updates,
)
from simulations.privacy.statistics.inverting import (
    Defence,
    candidate_found,
    frequencies,
    read_tokens,
    recovered,
)
from tests.tiny import VOCABULARY, encoder, samples, tiny_base


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_defence_by_hand() -> None:
    uploads = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert np.array_equal(Defence().applied(uploads, 1.0, rng=rng()), uploads)
    cut = Defence(clips=True).applied(uploads, 1.0, rng=rng())
    assert cut == pytest.approx(np.array([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    many = np.zeros((100, 400))
    noisy = Defence(clips=True, noise=0.5).applied(many, 3.0, rng=rng())
    assert noisy.std() == pytest.approx(1.5, rel=0.02)
    assert Defence().name == "no defence"
    assert Defence(True, 0.1).name == "clipped, noise 0.1"
    for clips, noise in ((False, 1.0), (True, -1.0), (True, np.nan)):
        with pytest.raises(MetricError):
            Defence(clips, noise)


def test_the_nearest_candidate_by_hand() -> None:
    upload = np.array([1.0, 0.0])
    candidates = np.array([[5.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert candidate_found(upload, candidates, 1) == (1, 1)
    assert candidate_found(upload, candidates[[1, 0, 2, 3]], 1) == (0, 2)
    assert candidate_found(upload, candidates[[1, 0, 2, 3]], 2) == (1, 1)
    assert candidate_found(upload, candidates[[0, 0, 2]], 1) == (0.5, 1.5)
    assert candidate_found(upload, candidates[[3, 2, 1]], 1)[0] == 0


def test_a_planted_linear_reading_names_the_tokens() -> None:
    has = rng().random((120, 12)) < 0.3
    has[:, 0] |= ~has.any(1)
    rows = rng(1).normal(size=(12, 40))
    uploads = has @ rows
    truth = [frozenset(np.flatnonzero(row).tolist()) for row in has[80:]]
    scores = read_tokens(uploads[:80], has[:80], uploads[80:])
    assert recovered(scores, truth).mean() == 1
    other = recovered(read_tokens(uploads[:80], has[:80], uploads[:40]), truth).mean()
    assert other < 0.6
    counts = frequencies([frozenset({1, 2}), frozenset({2})], 4)
    assert counts.tolist() == [0, 1, 2, 0]
    assert recovered(np.array([[0.0, 3, 2, 1]]), [frozenset({1, 3})]).tolist() == [0.5]
    assert recovered(np.full((1, 4), -np.inf), [frozenset({0})]).tolist() == [0]
    with pytest.raises(MetricError):
        recovered(np.zeros((1, 4)), [frozenset()])


@pytest.fixture(scope="module")
def lora() -> LoraUpload:
    settings = StageSettings(name="tests")
    return LoraUpload(matching.plain_copy(tiny_base()), preset("default"), settings)


def test_every_record_has_the_gradient_that_it_has_alone(lora: LoraUpload) -> None:
    records = samples(3, 0)
    together = gradients(lora, encoder(), records, [0] * 3)
    alone = np.concatenate([gradients(lora, encoder(), [record], [0]) for record in records])
    assert together == pytest.approx(alone, abs=1e-12)
    prefix = sum(factor.numel() for factor in lora.a)
    assert not together[:, :prefix].any() and together[:, prefix:].any()


def test_one_small_local_step_is_the_batchs_gradient(
    lora: LoraUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.privacy.inversion.uploads.LOCAL_STEPS", 1)
    assert LOCAL_RATE > 0
    batches = [samples(2, 0), samples(3, 1)]
    found = local_updates(lora, encoder(), batches)
    means = [gradients(lora, encoder(), own, [0] * len(own)).mean(0) for own in batches]
    assert found == pytest.approx(np.stack(means), abs=1e-7)


def release_of(structure: str = "default") -> Release:
    base = matching.plain_copy(tiny_base())
    model = AdaptedModel(base, preset(structure), generator=torch.Generator().manual_seed(0))
    shared = shared_tensors(model)
    for name in [name for name in shared if name.endswith((".B", ".lora"))]:
        shared[name] = 0.1 * torch.randn(
            shared[name].shape, generator=torch.Generator().manual_seed(len(name))
        )
    settings = StageSettings(name="tests")
    return Release(base, None, None, model.structure, settings, 0, shared, {}, {})  # type: ignore[arg-type]


def states_of(release: Release, count: int) -> list[dict[str, Tensor]]:
    model, drawn = release.model(), torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        own = {"embedding": torch.randn(model.embedding_shape, generator=drawn)}
        for site in model.sites:
            rank = model.structure.rank
            own[f"lora.{site.path}.A"] = torch.randn(rank, site.d_in, generator=drawn)
            own[f"lora.{site.path}.B"] = torch.randn(site.d_out, rank, generator=drawn)
        found.append(own)
    return found


def test_the_routers_gradient_is_that_of_training_it() -> None:
    """Oracle: W_l of the model itself, one person and record after the other."""
    release = release_of()
    states, records = states_of(release, 2), samples(2, 3)
    upload = RouterUpload(release, states)
    found = gradients(upload, encoder(), records, [1, 0])
    model = upload.model
    weights = [model.router(number).lora for number in range(len(model.sites))]
    for row, who in ((0, 1), (1, 0)):
        upload.place([who])
        model.lora.w = []  # type: ignore[assignment]
        batch = encoder().batch([records[row]], [0])
        now = personal_pass(
            batch.slots,
            embeddings=upload.embeddings[[who]].double(),
            routing=model.structure.user_routing,
            experts=True,
        )
        for weight in weights:
            assert weight is not None
            weight.requires_grad_(True)
        loss = model.answer_loss(batch, now).sum()
        whole = torch.autograd.grad(loss, [w for w in weights if w is not None])
        flat = torch.cat([one.flatten() for one in whole]).double().numpy()
        assert np.abs(flat).max() > 1e-6
        assert found[row] == pytest.approx(flat, abs=1e-6)


def test_rows_of_the_embedding_gradient_are_the_texts_tokens(lora: LoraUpload) -> None:
    records = samples(3, 4)
    found = embedding_rows(lora.model, encoder(), records)
    for row, record in zip(found, records, strict=True):
        # The end is predicted, never read.
        assert set(np.flatnonzero(row).tolist()) == set(record.tokens[:-1])


def test_a_token_is_found_from_its_gradient_in_a_linear_model() -> None:
    """One place, loss of a linear model: the gradient's direction is the embedding's row."""
    table = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradient_of(soft: Tensor) -> Tensor:
        return (soft @ table).sum(1)

    planted = torch.tensor([3, 11, 7])
    start = torch.zeros(3, 1, 20, dtype=torch.float64)
    fixed = torch.zeros(3, 1, dtype=torch.bool)
    soft = matching.match(gradient_of, table[planted], start, fixed, steps=120)
    assert soft.argmax(-1)[:, 0].tolist() == planted.tolist()


@pytest.mark.parametrize("kind", ["lora", "router"])
def test_a_soft_texts_gradient_is_that_of_the_text_and_can_be_differentiated(
    lora: LoraUpload, kind: str
) -> None:
    release = release_of()
    upload = lora if kind == "lora" else RouterUpload(release, states_of(release, 2))
    matching.make_plain(upload.model)
    records = samples(2, 5)
    gradient_of = matching.gradient_of_texts(upload, records, [0, 1])
    longest = max(len(record.tokens) for record in records)
    hard = torch.zeros(2, longest, VOCABULARY, dtype=torch.float64)
    for row, record in enumerate(records):
        hard[row, range(len(record.tokens)), list(record.tokens)] = 1
    found = gradient_of(hard).detach().numpy()
    # The base's norms and rotations compute in float32 whatever the weights are.
    assert found == pytest.approx(gradients(upload, encoder(), records, [0, 1]), abs=1e-6)
    # Numerically: the derivative of the gradient's length along one direction.
    point = hard.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(gradient_of(point).square().sum(), [point])
    way = torch.randn(hard.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-3
    ends = [
        float(gradient_of(hard + side * step * way).detach().square().sum()) for side in (1, -1)
    ]
    assert float((slope * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


def test_known_places_stay_and_the_prior_comes_first() -> None:
    records = samples(2, 6)
    prior = torch.zeros(VOCABULARY)
    prior[9] = 1e6
    start, fixed = matching.start_of(records, prior, generator=torch.Generator().manual_seed(0))
    named = matching.tokens_of(start.softmax(-1), records)
    for own, record, known in zip(named, records, fixed, strict=True):
        assert (own[0], own[-1]) == (record.tokens[0], record.tokens[-1])
        assert set(own[1:-1]) == {9}
        assert known[0] and known[len(record.tokens) - 1] and not known[1]
