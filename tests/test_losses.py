"""Constraint loss: all pairs are the oracle of the one-vector form (METHOD 1.6)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proper_model.losses import RoutingMemory, pair_loss


def routing(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)


def one_vector(weights: torch.Tensor) -> torch.Tensor:
    """The identity behind the memory: |sum_u v_u|^2 - U."""
    return F.normalize(weights, dim=-1).sum(0).square().sum() - len(weights)


def filled_memory(weights: torch.Tensor) -> RoutingMemory:
    users = len(weights)
    memory = RoutingMemory(1, users, weights.shape[-1])
    memory.mean = memory.mean.double()
    memory.update(0, weights.detach()[:, None], torch.arange(users), torch.ones(users, 1))
    memory.mark_seen(torch.arange(users))
    return memory


def test_memory_gradient_is_that_of_all_pairs() -> None:
    """Summed over users, the aggregate loss has the gradient of eq. 9 but for a constant factor."""
    ours, theirs = routing(7, 5).requires_grad_(), routing(7, 5).requires_grad_()
    memory = filled_memory(ours)
    mask = torch.ones(1, 1)
    losses = [
        memory.loss(0, ours[u][None, None], torch.tensor([u]), mask) for u in range(len(ours))
    ]
    torch.stack(losses).sum().backward()
    pairs = [
        F.cosine_similarity(theirs[u], theirs[v], dim=0)
        for u in range(7)
        for v in range(7)
        if u != v
    ]
    total = torch.stack(pairs).sum()
    assert total.item() == pytest.approx(one_vector(theirs).item(), abs=1e-12)
    total.backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    # Each pair counts twice in eq. 9, once from either side; a memory holds the other side still.
    assert torch.allclose(ours.grad * 2 * 6, theirs.grad, atol=1e-12)


@pytest.mark.parametrize(("groups", "expected"), [(1, 1.0), (5, (10 / 5 - 1) / 9)])
def test_loss_of_one_hot_users_is_their_mean_pairwise_cosine(groups: int, expected: float) -> None:
    one_hot = torch.eye(5, dtype=torch.float64)[torch.arange(10) % groups]
    memory = filled_memory(one_hot)
    mask = torch.ones(10, 1)
    loss = memory.loss(0, one_hot[:, None], torch.arange(10), mask)
    assert loss.item() == pytest.approx(expected)
    assert one_vector(one_hot).item() / 90 == pytest.approx(expected)


def test_memory_loss_equals_mean_cosine_to_all_other_users() -> None:
    """With every user's vector in memory, the loss of user u is its mean cosine to the others."""
    weights = routing(6, 5)
    memory, mask = filled_memory(weights), torch.ones(6, 1)
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
