"""Memory: what training keeps is predicted from a probe, and a budget decides users and tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from proper_model.budget import memory_model, within
from proper_model.encoding import Encoded
from proper_model.memory import WORKSPACE, MemoryModel, is_out_of_memory, saved_bytes
from proper_model.model import AdaptedModel
from proper_model.personal import personal_pass
from proper_model.trials import TrialSettings
from tests.tiny import adapted, embeddings_of, encoder

SETTINGS = TrialSettings(
    epochs=1,
    batch_size=1,
    dropout=0.1,
    weight_decay=0.0,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    tokens_per_step=4096,
)
SAMPLE = Encoded(tuple([2] * 27 + [3, 4, 1]), 27)


def kept_by(model: AdaptedModel, rows: int) -> int:
    """Bytes that a pass of so many rows keeps, each row another user's, weights not counted."""
    model.lora = model.new_user_lora([0] * rows)
    for factor in model.lora.parameters():
        factor.requires_grad_(True)
    embeddings = embeddings_of(model, rows).float()
    owned = [*model.parameters(), *model.base.parameters(), *model.base.buffers(), embeddings]
    batch = encoder().batch([SAMPLE] * rows, range(rows), seeds=range(rows))
    now = personal_pass(
        batch.slots, embeddings=embeddings, routing=model.structure.user_routing, experts=True
    )
    now.dropout = SETTINGS.dropout
    addresses = {tensor.untyped_storage().data_ptr() for tensor in owned}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model.answer_loss(batch, now)
    found = sum(t.untyped_storage().nbytes() for a, t in kept.items() if a not in addresses)
    del losses
    return found


def test_activations_of_a_wide_batch_are_predicted_within_15_percent() -> None:
    model = adapted()
    predicted = memory_model(model, encoder(), SAMPLE, SETTINGS)
    for rows in (8, 32):
        tokens = rows * len(SAMPLE.tokens)
        assert tokens * predicted.token_bytes == pytest.approx(kept_by(model, rows), rel=0.15)


def test_a_users_state_is_counted_exactly() -> None:
    model = adapted()
    r = model.structure.rank
    numbers = sum(r * (site.d_in + site.d_out) for site in model.sites)
    counted = memory_model(model, encoder(), SAMPLE, SETTINGS)
    assert counted.slot_bytes == 4 * 4 * numbers  # weights, gradient, two moments in float32
    assert counted.trial_bytes == 4 * numbers  # and the best state so far


def test_a_trial_that_waits_costs_its_best_state() -> None:
    model = MemoryModel(slot_bytes=100, token_bytes=10, trial_bytes=25)
    assert model.peak(2, 30, trials=8) == 2 * 100 + 30 * 10 + 8 * 25 + WORKSPACE
    budget = (WORKSPACE + 8 * 25 + 3 * 100 + 40 * 10) * 100 // 85 + 1
    assert model.fit(budget, trials=8, tokens=1000, least_tokens=40) == (3, 40)


def test_recomputing_is_predicted_to_take_less() -> None:
    model = adapted()
    plain = memory_model(model, encoder(), SAMPLE, SETTINGS)
    less = memory_model(model, encoder(), SAMPLE, dataclasses.replace(SETTINGS, recompute=True))
    assert less.token_bytes < 0.8 * plain.token_bytes
    assert less.slot_bytes == plain.slot_bytes


def test_the_probe_leaves_the_users_adapters_alone() -> None:
    model = adapted()
    before = model.lora
    memory_model(model, encoder(), SAMPLE, SETTINGS)
    assert model.lora is before
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_saved_bytes_counts_shared_memory_once() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
    x = torch.ones(10, 4, dtype=torch.float64, requires_grad=True)
    # x @ W^T keeps x for W and W for x; exp keeps its result; the view shares memory with it.

    def product() -> torch.Tensor:
        return (x @ weight.T).exp()

    one = saved_bytes(product)
    assert one == 2 * 10 * 4 * 8 + 4 * 4 * 8
    again = saved_bytes(lambda: product().view(4, 10).mul(x.view(4, 10)))
    assert again == one


@pytest.mark.parametrize(
    ("budget", "slots", "tokens"),
    [
        (10**9, 50, 8192),  # everything fits
        (WORKSPACE * 100 // 85 + 3_000_100, 15, 210),  # users first: (2.55e6 - 200 * 5e3) // 1e5
        (1, 1, 200),  # nothing fits: one user, the longest sample
    ],
)
def test_a_budget_decides_users_first(budget: int, slots: int, tokens: int) -> None:
    model = MemoryModel(slot_bytes=100_000, token_bytes=5_000)
    found = model.fit(budget, trials=50, tokens=8192, least_tokens=200)
    assert found == (slots, tokens)
    if 1 < budget < 10**9:
        assert model.peak(*found, trials=50) <= budget


def test_no_budget_is_no_limit() -> None:
    model = adapted()
    assert within(None, model, encoder(), [SAMPLE], 5, SETTINGS) is SETTINGS
    small = within(1, model, encoder(), [SAMPLE], 5, SETTINGS)
    assert (small.slots, small.tokens_per_step) == (1, len(SAMPLE.tokens))


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(MemoryError())
