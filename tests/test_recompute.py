"""Activation checkpointing changes memory, never a gradient."""

from __future__ import annotations

import pytest
import torch

from proper_model.engine.memory import LiveMemory
from proper_model.engine.recompute import recomputing
from proper_model.errors import BaseModelError
from proper_model.model.adapted_model import AdaptedModel
from tests.tiny import ARCHITECTURES, adapted, encoder, samples, stage3_pass, trained_factors


def loss(model: AdaptedModel) -> torch.Tensor:
    items = samples(3, seed=1)
    batch = encoder().batch(items, [0, 2, 1], seeds=[7, 8, 9])
    return model.answer_loss(batch, stage3_pass(model, batch.slots, dropout=0.2)).sum()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_the_same_with_dropout_on(architecture: str) -> None:
    model = adapted(architecture=architecture)
    factors = trained_factors(model)
    expected = torch.autograd.grad(loss(model), factors)
    with recomputing(model):
        found = torch.autograd.grad(loss(model), factors)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    assert not any(module.training for module in model.base.modules())


def test_it_keeps_much_less() -> None:
    model = adapted()
    trained_factors(model)
    with LiveMemory() as whole:
        first = loss(model)
    with recomputing(model), LiveMemory() as kept:
        second = loss(model)
    assert kept.live < 0.5 * whole.live
    assert torch.allclose(first, second)


def test_switched_off_it_does_nothing() -> None:
    model = adapted()
    with recomputing(model, active=False):
        assert not any(module.training for module in model.base.modules())


def test_a_base_without_such_blocks_is_refused() -> None:
    model = adapted()
    object.__setattr__(model, "base", torch.nn.Linear(2, 2))
    with pytest.raises(BaseModelError, match="checkpointed"), recomputing(model):
        pass
