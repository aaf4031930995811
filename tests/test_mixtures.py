"""Two models mixed token by token: log-probabilities, weights and temperatures, against formulas."""

from __future__ import annotations

import pytest
import torch

from proper_model.engine.judging import (
    held_back_log_probs,
    held_back_losses,
    tempered_losses,
)
from proper_model.model.mixture import mixed
from proper_model.model.passes import base_pass
from tests.tiny import adapted, encoder, exact_norms, samples, stage3_pass


def test_mixed_is_the_sum_of_probabilities_and_exact_at_the_ends() -> None:
    a, b = torch.tensor([-1.0, -5.0]).double(), torch.tensor([-2.0, -0.1]).double()
    assert torch.allclose(mixed(a, b, 0.3), (0.3 * a.exp() + 0.7 * b.exp()).log(), atol=1e-15)
    assert torch.equal(mixed(a, b, 0.0), b)
    assert torch.equal(mixed(a, b, 1.0), a)


@pytest.mark.parametrize("tokens", [20, 4000])
def test_losses_of_a_mixture_at_every_temperature(tokens: int) -> None:
    model = adapted()
    exact_norms(model.base)
    rows = [(slot, item) for slot in range(3) for item in samples(2, seed=slot)]
    passes = (lambda slots: stage3_pass(model, slots), base_pass)
    weights = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    found = tempered_losses(model, encoder(), rows, passes, weights, (1.0, 1.7), tokens)
    above, below = (held_back_log_probs(model, encoder(), rows, make, tokens) for make in passes)
    for row, (slot, item) in enumerate(rows):
        batch = encoder().batch([item], [slot])
        p, q = (model.answer_logits(batch, make(batch.slots)).softmax(-1) for make in passes)
        both = weights[row] * p + (1 - weights[row]) * q
        for column, temperature in enumerate((1.0, 1.7)):
            sharp = both ** (1 / temperature)
            own = (sharp / sharp.sum(-1, keepdim=True)).gather(1, batch.answers[:, None])
            assert float(found[row, column]) == pytest.approx(-float(own.log().mean()), abs=1e-10)
        gold = mixed(above[row], below[row], weights[row])
        assert float(found[row, 0]) == pytest.approx(-float(gold.mean()), abs=1e-10)
    losses = held_back_losses(model, encoder(), rows, passes[0], tokens)
    assert torch.allclose(losses, torch.stack([-own.mean() for own in above]), atol=1e-12)
