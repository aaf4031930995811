"""The loss of answers: cross-entropy over whole logits is the oracle."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.kernels.packing import token_nll
from proper_model.model import answer_loss as answers
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import FrozenHeadLoss
from proper_model.model.passes import Pass
from tests.tiny import ARCHITECTURES, adapted, encoder, samples, stage3_pass, trained_factors

TOKENS, WIDTH, WORDS = 7, 5, 11


def rand(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def frozen_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Tensor) -> Tensor:
    loss: Tensor = FrozenHeadLoss.apply(hidden, weight, bias, wanted)
    return loss


# One token a chunk, three of seven (so that the last is shorter), all at once.
@pytest.fixture(params=[1, 3 * WORDS, 1 << 22], ids=["one", "three", "all"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(answers, "CHUNK", request.param)
    return int(request.param)


@pytest.mark.parametrize("biased", [True, False])
def test_a_frozen_heads_loss_is_cross_entropy(chunk: int, biased: bool) -> None:
    hidden, weight = rand(TOKENS, WIDTH).requires_grad_(), rand(WORDS, WIDTH, seed=1)
    bias = rand(WORDS, seed=2) if biased else None
    wanted = torch.tensor([3, 0, 10, 3, 3, 7, 1])
    ours = frozen_loss(hidden, weight, bias, wanted)
    theirs = F.cross_entropy(F.linear(hidden, weight, bias), wanted, reduction="none")
    assert torch.allclose(ours, theirs, atol=1e-12)
    shares = rand(TOKENS, seed=3)  # rows weigh differently in a step's loss
    (found,) = torch.autograd.grad(ours, hidden, shares)
    (expected,) = torch.autograd.grad(theirs, hidden, shares)
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.autograd.gradcheck(frozen_loss, (hidden, weight, bias, wanted))


def test_without_gradients_the_loss_is_the_same(chunk: int) -> None:
    hidden, weight, wanted = rand(TOKENS, WIDTH), rand(WORDS, WIDTH, seed=1), torch.arange(TOKENS)
    with_gradient = frozen_loss(hidden.clone().requires_grad_(), weight, None, wanted)
    without = frozen_loss(hidden, weight, None, wanted)
    assert not without.requires_grad
    assert torch.equal(without, with_gradient)


def test_bfloat16_states_have_a_float32_loss(chunk: int) -> None:
    hidden, weight = rand(TOKENS, WIDTH), rand(WORDS, WIDTH, seed=1)
    wanted = torch.arange(TOKENS)
    exact = hidden.clone().requires_grad_()
    (expected,) = torch.autograd.grad(frozen_loss(exact, weight, None, wanted).sum(), exact)
    half = hidden.bfloat16().requires_grad_()
    loss = frozen_loss(half, weight.bfloat16(), None, wanted)
    assert loss.dtype is torch.float32
    (found,) = torch.autograd.grad(loss.sum(), half)
    assert found.dtype is torch.bfloat16
    assert (found.double() - expected).norm() < 0.02 * expected.norm()


def test_token_nll_is_minus_the_answers_log_probability() -> None:
    logits, wanted = rand(TOKENS, WORDS), torch.tensor([3, 0, 10, 3, 3, 7, 1])
    expected = torch.stack(
        [-row.softmax(0)[w].log() for row, w in zip(logits, wanted, strict=True)]
    )
    assert torch.allclose(token_nll(logits, wanted), expected, atol=1e-12)
    assert token_nll(logits.bfloat16(), wanted).dtype is torch.float32


BATCH = encoder().batch(samples(4, seed=1), [0, 2, 1, 0], seeds=[5, 6, 7, 8])


def now(model: AdaptedModel) -> Pass:
    return stage3_pass(model, BATCH.slots, dropout=0.2)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen3", "smollm3", "gemma2"])
def test_a_models_loss_is_that_of_its_logits(architecture: str) -> None:
    model = adapted(architecture=architecture)
    plain = model.base.config.model_type in answers.PLAIN_HEADS
    assert plain is (architecture != "gemma2")  # which caps its logits
    wanted = trained_factors(model)
    ours = model.answer_nll(BATCH, now(model))
    theirs = token_nll(model.answer_logits(BATCH, now(model)), BATCH.answers)
    assert ours.shape == BATCH.answers.shape
    assert torch.allclose(ours, theirs, atol=1e-12)
    shares = rand(len(ours))
    found = torch.autograd.grad(ours, wanted, shares)
    expected = torch.autograd.grad(theirs, wanted, shares)
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("generic", ["another head", "a trained head"])
def test_other_heads_go_by_their_logits_to_the_same_loss(
    generic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted()
    wanted = trained_factors(model)
    expected = model.answer_nll(BATCH, now(model))
    gradients = torch.autograd.grad(expected.sum(), wanted)

    def refuse(*_: object) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(FrozenHeadLoss, "apply", refuse)
    if generic == "another head":
        monkeypatch.setattr(answers, "PLAIN_HEADS", frozenset())
    else:
        model.base.get_output_embeddings().weight.requires_grad_(True)
    found = model.answer_nll(BATCH, now(model))
    assert torch.allclose(found, expected, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), wanted), gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_rows_loss_is_the_mean_over_its_answer() -> None:
    model = adapted()
    nll = model.answer_nll(BATCH, now(model))
    expected = torch.stack([own.mean() for own in nll.split(BATCH.answer_tokens)])
    assert torch.allclose(model.answer_loss(BATCH, now(model)), expected, atol=1e-12)
