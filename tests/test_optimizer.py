"""Stacked AdamW: torch's AdamW and clip_grad_norm_ are the oracle, user by user."""

from __future__ import annotations

import pytest
import torch

from proper_model.engine.optimizer import StackedAdamW, linear_schedule


def gradient(step: int, user: int, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + user)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * (1 + user)


@pytest.fixture(params=[True, False], ids=["by slot", "stacked"])
def by_slot(request: pytest.FixtureRequest) -> bool:
    """One fused call a slot, as on a CPU; or operations on the stacks, as on a GPU without Triton."""
    return bool(request.param)


def test_every_user_equals_torch_adamw_with_unequal_steps_and_clipping(by_slot: bool) -> None:
    shapes = [(2, 3), (4,)]
    start = [torch.randn(3, *s, dtype=torch.float64) for s in shapes]
    stacked = [t.clone().requires_grad_(True) for t in start]
    ours = StackedAdamW(stacked, weight_decay=0.01, max_grad_norm=0.5)
    assert ours.by_slot
    ours.by_slot = by_slot
    alone = [[t[u].clone().requires_grad_(True) for t in start] for u in range(3)]
    rates = torch.tensor([1e-2, 3e-3, 5e-2], dtype=torch.float64)
    theirs = [torch.optim.AdamW(alone[u], lr=float(rates[u]), weight_decay=0.01) for u in range(3)]
    for step in range(30):
        active = torch.tensor([True, step % 2 == 0, step < 10])
        for p, shape in zip(stacked, shapes, strict=True):
            p.grad = torch.stack([gradient(step, u, shape) for u in range(3)])
        ours.step(rates, active, ours.gradient_norms())
        for u in range(3):
            if active[u]:
                for p, shape in zip(alone[u], shapes, strict=True):
                    p.grad = gradient(step, u, shape)
                torch.nn.utils.clip_grad_norm_(alone[u], 0.5)
                theirs[u].step()
    for i in range(2):
        for u in range(3):
            assert torch.allclose(stacked[i][u], alone[u][i], atol=1e-12, rtol=0)
    assert ours.steps.tolist() == [30, 15, 10]


def test_an_inactive_user_does_not_change_by_a_bit_even_with_a_bad_gradient(by_slot: bool) -> None:
    p = torch.randn(2, 5).requires_grad_(True)
    before = p.detach().clone()
    optimizer = StackedAdamW([p], weight_decay=0.1, max_grad_norm=1.0)
    optimizer.by_slot = by_slot
    p.grad = torch.stack([torch.full((5,), float("nan")), torch.ones(5)])
    optimizer.step(
        torch.tensor([0.1, 0.1]), torch.tensor([False, True]), optimizer.gradient_norms()
    )
    assert torch.equal(p[0], before[0])
    assert p[1].isfinite().all()
    assert not torch.equal(p[1], before[1])


def test_what_has_no_gradient_stays_and_memory_in_another_order_is_no_obstacle(
    by_slot: bool,
) -> None:
    p, left = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in "pl")
    expected = torch.nn.Parameter(p[1].clone())
    g = torch.randn(2, 4, 3, dtype=torch.float64)
    stacks = [p.clone().requires_grad_(), left.clone().requires_grad_()]
    turned = p.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    for first in (stacks[0], turned):
        optimizer = StackedAdamW([first, stacks[1]], weight_decay=0.1, max_grad_norm=100.0)
        assert optimizer.by_slot is first.is_contiguous()
        optimizer.by_slot = optimizer.by_slot and by_slot
        first.grad = g.transpose(1, 2)
        rates = torch.full((2,), 0.1, dtype=torch.float64)
        optimizer.step(rates, torch.tensor([False, True]), optimizer.gradient_norms())
        assert torch.equal(stacks[1], left)
    expected.grad = g[1].T.clone()
    torch.optim.AdamW([expected], lr=0.1, weight_decay=0.1).step()
    for first in (stacks[0], turned):
        assert torch.equal(first[0], p[0])
        assert torch.allclose(first[1], expected, rtol=0, atol=1e-12)


def test_schedule_rises_then_falls_to_zero() -> None:
    factors = [linear_schedule(step, 10, 2) for step in range(11)]
    assert factors[2] == 1.0
    assert factors[0] < factors[1] < factors[2]
    assert all(a > b for a, b in zip(factors[2:], factors[3:], strict=False))
    assert factors[10] == 0.0
