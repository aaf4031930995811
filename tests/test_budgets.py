"""Budgets of pooled stages and of inference, and going on with less where memory ran out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from proper_model.answering.pass_memory import inference_tokens
from proper_model.engine.judging import held_back_losses
from proper_model.engine.memory import WORKSPACE, bytes_a_token, in_parts, tokens_within
from proper_model.engine.pooled_settings import PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from tests.tiny import adapted, embeddings_of, encoder, samples

FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
ITEMS = samples(10, seed=4)
SETTINGS = PooledSettings(
    epochs=2,
    batch_size=5,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    tokens_per_step=4096,
    patience=1,
    seed=3,
    early_stopping=False,
)


def limited(model: AdaptedModel, tokens: int) -> Callable[..., Tensor]:
    """`answer_loss` on a machine whose memory holds so many tokens."""
    real = model.answer_loss

    def answer_loss(batch: Batch, now: Any) -> Tensor:
        if batch.input_ids.numel() > tokens:
            raise RuntimeError(FULL)
        return real(batch, now)

    return answer_loss


def test_in_parts_halves_until_it_fits_and_keeps_the_order() -> None:
    done: list[int] = []

    def run(items: Sequence[int]) -> None:
        if len(items) > 3:
            raise RuntimeError(FULL)
        done.extend(items)

    in_parts(range(13), run, torch.device("cpu"))
    assert done == list(range(13))


@pytest.mark.parametrize("message", [FULL, "shapes cannot be multiplied"])
def test_in_parts_gives_up_on_one_item_and_on_other_errors(message: str) -> None:
    asked: list[int] = []

    def run(items: Sequence[int]) -> None:
        asked.append(len(items))
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message.partition(":")[0]):
        in_parts([1, 2], run, torch.device("cpu"))
    assert asked == ([2, 1] if message == FULL else [2])


def test_held_back_losses_survive_a_small_memory() -> None:
    model = adapted()
    embeddings = embeddings_of(model, 3)
    rows = [(i % 3, item) for i, item in enumerate(ITEMS)]

    def judge() -> Tensor:
        return held_back_losses(
            model, encoder(), rows, lambda slots: group_pass(slots, embeddings), 4096
        )

    expected = judge()
    model.answer_loss = limited(model, 40)  # type: ignore[method-assign]
    assert torch.allclose(judge(), expected, atol=1e-12)
    model.answer_loss = limited(model, 3)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="allocate memory"):
        judge()


def pooled_training(model: AdaptedModel, **knobs: Any) -> tuple[PooledTraining, Tensor]:
    """A tiny stage 2 without constraint: it trains the embeddings of two users."""
    table = embeddings_of(model, 2).detach().clone().requires_grad_(True)

    def batch_loss(batch: Batch) -> tuple[Tensor, None]:
        now = group_pass(batch.slots, table)
        now.dropout = 0.2
        return model.answer_loss(batch, now), None

    training = PooledTraining(
        encoder(),
        [(i % 2, item) for i, item in enumerate(ITEMS)],
        torch.optim.AdamW([table], lr=1e-2),
        batch_loss,
        lambda _: torch.ones(1),
        SETTINGS,
        device=torch.device("cpu"),
        **knobs,
    )
    return training, table


def test_a_pooled_stage_takes_a_step_again_in_smaller_passes() -> None:
    model = adapted()
    whole, expected = pooled_training(model)
    whole.run()
    model.answer_loss = limited(model, 30)  # type: ignore[method-assign]
    training, table = pooled_training(model)
    training.run()
    assert training.tokens_per_step <= 30
    assert torch.allclose(table, expected, atol=1e-12)
    model.answer_loss = limited(model, 3)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="allocate memory"):
        pooled_training(model)[0].run()


def test_a_pooled_stage_keeps_to_its_budget() -> None:
    """The tokens of a pass follow from what one token keeps and from the trained tensors."""
    model = adapted()
    free, table = pooled_training(model)
    assert free.tokens_per_step == SETTINGS.tokens_per_step
    longest = max(len(item.tokens) for item in ITEMS)
    item = max(ITEMS, key=lambda item: len(item.tokens))

    def run(rows: int) -> None:
        batch = encoder().batch([item] * rows, [0] * rows, seeds=range(rows))
        free.batch_loss(batch)[0].sum().backward()
        table.grad = None

    token = bytes_a_token(run, longest, torch.device("cpu"))
    fixed = 4 * table.numel() * table.element_size()
    budget = int((WORKSPACE + fixed + 3 * longest * token) / 0.85) + 100
    bound, _ = pooled_training(model, memory_bytes=budget)
    assert bound.tokens_per_step == pytest.approx(3 * longest, rel=0.02)
    assert bound.tokens_per_step == bound.judge_tokens  # validation has no more room
    assert free.judge_tokens == 4 * free.tokens_per_step
    starved, _ = pooled_training(model, memory_bytes=1)
    assert starved.tokens_per_step == longest


def test_tokens_within_a_budget_by_hand() -> None:
    # 85 % of the budget less workspace is 850; less 250 is 600: 60 tokens of 10 bytes.
    budget = (WORKSPACE + 850) * 100 // 85 + 1
    assert tokens_within(budget, 250, 10, tokens=8192, least=5) == 60
    assert tokens_within(budget, 250, 10, tokens=50, least=5) == 50
    assert tokens_within(100, 250, 10, tokens=8192, least=5) == 5


def test_inference_counts_cache_activations_and_adapters() -> None:
    model = adapted(users=2)
    most = 10**6

    def tokens(budget: int | None, users: int = 0, passes: int = 1) -> int:
        return inference_tokens(budget, model, users=users, longest=20, tokens=most, passes=passes)

    assert tokens(None) == most
    # d=16, f=24, 2 blocks, 2 heads of width 8, float64: cache 2*2*16, live 8*16 + 4*24, scores 2*2*20.
    numbers = 64 + 128 + 96 + 80
    budget = 10**8
    logits = 64 * 64  # of 64 rows' one answer token each; twice while their loss is computed
    usable = int(0.85 * budget) - WORKSPACE - 2 * 8 * logits
    assert tokens(budget) == usable // (8 * numbers)
    adapter = sum(model.structure.rank * (s.d_in + s.d_out) for s in model.sites)
    assert tokens(budget, users=5) == (usable - 5 * 4 * adapter) // (8 * numbers)
    assert tokens(1) == 20
    # Two passes: each with a cache of its own; of both logits, log-probabilities and these weighed.
    usable = int(0.85 * budget) - WORKSPACE - 7 * 8 * logits
    assert tokens(budget, passes=2) == usable // (8 * (numbers + 64))
