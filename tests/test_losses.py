"""Constraint loss: all pairs are the oracle of the one-vector form (METHOD 1.6)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proper_model.losses import RoutingMemory, constraint_sum, pair_loss


def routing(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)


def all_pairs(weights: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for u in range(len(weights)):
        for v in range(len(weights)):
            if u != v:
                total = total + F.cosine_similarity(weights[u], weights[v], dim=0)
    return total


def test_one_vector_form_equals_all_pairs_with_its_gradient() -> None:
    ours, theirs = routing(7, 5).requires_grad_(), routing(7, 5).requires_grad_()
    a, b = constraint_sum(ours), all_pairs(theirs)
    assert a.item() == pytest.approx(b.item(), abs=1e-12)
    a.backward()
    b.backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


@pytest.mark.parametrize(("groups", "expected"), [(1, 1.0), (5, (10 / 5 - 1) / 9)])
def test_mean_pairwise_cosine_of_one_hot_users(groups: int, expected: float) -> None:
    one_hot = torch.eye(5, dtype=torch.float64)[torch.arange(10) % groups]
    assert constraint_sum(one_hot).item() / 90 == pytest.approx(expected)


def test_memory_loss_equals_mean_cosine_to_all_other_users() -> None:
    """With every user's vector in memory, the loss of user u is its mean cosine to the others."""
    weights = routing(6, 5)
    memory = RoutingMemory(1, 6, 5)
    mask = torch.ones(6, 1)
    memory.mean = memory.mean.double()
    memory.update(0, weights[:, None], torch.arange(6), mask)
    memory.mark_seen(torch.arange(6))
    for u in range(6):
        loss = memory.loss(0, weights[u][None, None], torch.tensor([u]), mask[:1])
        others = [F.cosine_similarity(weights[u], weights[v], dim=0) for v in range(6) if v != u]
        assert loss.item() == pytest.approx(torch.stack(others).mean().item(), abs=1e-12)


def test_memory_ignores_padding_and_unseen_users() -> None:
    weights = routing(2, 4, 5)
    mask = torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1]])
    memory = RoutingMemory(1, 9, 5)
    slots = torch.tensor([3, 8])
    assert memory.loss(0, weights, slots, mask).item() == 0  # nobody seen yet
    memory.update(0, weights, slots, mask)
    memory.mark_seen(slots)
    spoiled = weights.clone()
    spoiled[0, 0] = 100.0
    assert memory.loss(0, spoiled, slots, mask).item() == pytest.approx(
        memory.loss(0, weights, slots, mask).item(), abs=1e-6
    )
    expected = F.normalize(weights[0, 1:], dim=-1).mean(0).float()
    assert torch.allclose(memory.mean[0, 3], expected, atol=1e-6)


def test_memory_averages_a_users_rows_and_moves_slowly() -> None:
    memory = RoutingMemory(1, 2, 5, momentum=0.9)
    first, second = routing(1, 2, 5), routing(1, 2, 5, seed=1)
    mask, slot = torch.ones(1, 2), torch.tensor([1])
    memory.update(0, first, slot, mask)
    memory.mark_seen(slot)
    memory.update(0, second, slot, mask)
    units = [F.normalize(w, dim=-1).mean(1)[0].float() for w in (first, second)]
    assert torch.allclose(memory.mean[0, 1], 0.9 * units[0] + 0.1 * units[1], atol=1e-6)


def test_pair_loss_is_the_mean_cosine_at_the_same_x() -> None:
    weights, others = routing(2, 3, 5), routing(2, 4, 3, 5, seed=1)
    mask = torch.tensor([[1.0, 1, 1], [0, 1, 1]])
    cosines = [
        F.cosine_similarity(weights[b, t], others[b, k, t], dim=0)
        for b in range(2)
        for t in range(3)
        if mask[b, t]
        for k in range(4)
    ]
    assert pair_loss(weights, others, mask).item() == pytest.approx(
        torch.stack(cosines).mean().item(), abs=1e-12
    )
