"""Memory: what training keeps is predicted from a probe, and a budget decides users and tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from proper_model.engine import memory
from proper_model.engine.memory import (
    WORKSPACE,
    LiveMemory,
    MemoryModel,
    bytes_a_token,
    is_out_of_memory,
    peak_bytes,
)
from proper_model.engine.memory_budget import memory_model, within
from proper_model.engine.recompute import recomputing
from proper_model.engine.trials import TrialSettings
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from tests.tiny import adapted, embeddings_of, encoder, stage3_pass, trained_factors

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


def peak_of(model: AdaptedModel, rows: int, *, recompute: bool, item: Encoded = SAMPLE) -> int:
    """Bytes of one training pass at its peak, each row another user's, gradients not counted."""
    model.lora = model.new_user_lora([0] * rows)
    factors = trained_factors(model)
    for factor in factors:
        factor.grad = torch.zeros_like(factor)
    embeddings = embeddings_of(model, rows).float()
    batch = encoder().batch([item] * rows, range(rows), seeds=range(rows))
    now = stage3_pass(model, batch.slots, embeddings, dropout=SETTINGS.dropout)
    with model.attached(), recomputing(model, active=recompute), LiveMemory() as live:
        model.answer_loss(batch, now).sum().backward(inputs=factors)
    return live.peak


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("length", [30, 300])
def test_a_wide_batch_is_predicted_within_15_percent(length: int, recompute: bool) -> None:
    """Long rows too, whose attention grows with the square of their length."""
    model = adapted()
    item = Encoded(tuple([2] * (length - 3) + [3, 4, 1]), length - 3)
    settings = dataclasses.replace(SETTINGS, recompute=recompute)
    predicted = memory_model(model, encoder(), item, settings).token_bytes
    for rows in (8, 32):
        found = peak_of(model, rows, recompute=recompute, item=item)
        assert rows * length * predicted == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_probe_takes_two_rows_and_no_more(recompute: bool) -> None:
    model = adapted()
    with LiveMemory() as live:
        memory_model(model, encoder(), SAMPLE, dataclasses.replace(SETTINGS, recompute=recompute))
    assert live.peak < 1.5 * peak_of(model, 2, recompute=recompute)


def test_live_memory_by_hand() -> None:
    x = torch.ones(1000, dtype=torch.float64)
    with LiveMemory() as live:
        y = x.exp().exp().exp()  # two at once, then one
        x.view(10, 100).mul_(2)  # memory that was there before
        y[:10].add_(1)
    assert (live.peak, live.live) == (2 * 8000, 8000)
    weight = torch.ones(1000, dtype=torch.float64, requires_grad=True)

    def run() -> None:
        (weight.exp() * weight).sum().backward()

    # exp is kept; its product dies with the sum; back: two gradients of weight, one of exp.
    assert 3 * 8000 <= peak_bytes(run, x.device) < 4.1 * 8000


def test_a_probe_without_room_for_two_rows_leaves_room_for_one() -> None:
    def run(rows: int) -> None:
        if rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    token = bytes_a_token(run, 30, torch.device("cpu"))
    found = MemoryModel(slot_bytes=100, token_bytes=token).fit(
        10**12, trials=9, tokens=8192, least_tokens=30
    )
    assert found == (1, 30)


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
    assert small.tokens_judged == len(SAMPLE.tokens) < SETTINGS.tokens_judged


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(MemoryError())


@pytest.mark.parametrize(
    ("budget", "largest", "expected"),
    [
        (None, 1 << 40, [(-3, 1 << 30), (-1, 1 << 30)]),
        (None, 1 << 25, [(-3, 1 << 30), (-3, 1 << 25), (-1, 1 << 25)]),
        (None, 0, [(-3, 1 << 30), (-3, 1 << 25)]),
        (1 << 30, 1 << 25, [(-3, 1 << 17), (-1, 1 << 17)]),
    ],
    ids=["kept", "of an older C library", "refused", "given back within a budget"],
)
def test_what_the_c_library_is_told_of_freed_memory(
    monkeypatch: pytest.MonkeyPatch, budget: int | None, largest: int, expected: list[object]
) -> None:
    """Settings -3 and -1 are M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; 0 is a refusal (mallopt(3))."""
    told = []

    class Library:
        def mallopt(self, setting: int, value: int) -> int:
            told.append((setting, value))
            return int(value <= largest)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Library())
    memory.manage_freed_memory(budget)
    assert told == expected


def test_a_system_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.manage_freed_memory(None)
    memory.manage_freed_memory(1)
