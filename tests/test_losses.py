"""Constraint loss: all pairs are the oracle of the one-vector form (docs/method.md 1.6)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from proper_model.kernels.layout import mean_by_row
from proper_model.stages.constraint_loss import RoutingMemory, pair_loss


def routing(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1)


def one_vector(weights: torch.Tensor) -> torch.Tensor:
    """The identity behind the memory: |sum_u v_u|^2 - U."""
    return F.normalize(weights, dim=-1).sum(0).square().sum() - len(weights)


def filled_memory(weights: torch.Tensor) -> RoutingMemory:
    users = torch.arange(len(weights))
    memory = RoutingMemory(1, len(weights), weights.shape[-1])
    memory.mean = memory.mean.double()
    memory.collect(0, weights.detach(), users, users)
    memory.commit()
    return memory


def own_loss(memory: RoutingMemory, weights: torch.Tensor, user: int) -> torch.Tensor:
    """The loss of one vector of one user."""
    return memory.loss(0, weights[user][None], torch.tensor([0]), torch.tensor([user]))


def test_memory_gradient_is_that_of_all_pairs() -> None:
    """Summed over users, the aggregate loss has the gradient of eq. 9 but for a constant factor."""
    ours, theirs = routing(7, 5).requires_grad_(), routing(7, 5).requires_grad_()
    memory = filled_memory(ours)
    losses = [own_loss(memory, ours, u) for u in range(len(ours))]
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
    loss = memory.loss(0, one_hot, torch.arange(10), torch.arange(10))
    assert loss.tolist() == pytest.approx([expected] * 10)
    assert one_vector(one_hot).item() / 90 == pytest.approx(expected)


def test_memory_loss_equals_mean_cosine_to_all_other_users() -> None:
    """With every user's vector in memory, the loss of user u is its mean cosine to the others."""
    weights = routing(6, 5)
    memory = filled_memory(weights)
    for u in range(6):
        loss = own_loss(memory, weights, u)
        others = [F.cosine_similarity(weights[u], weights[v], dim=0) for v in range(6) if v != u]
        assert loss.item() == pytest.approx(torch.stack(others).mean().item(), abs=1e-12)


def test_memory_keeps_rows_of_unequal_length_apart() -> None:
    """Rows of three and four vectors: a user's mean is over its own, and nobody is seen at first."""
    weights, rows = routing(7, 5), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    memory = RoutingMemory(1, 9, 5)
    slots = torch.tensor([3, 8])
    assert not memory.loss(0, weights, rows, slots).any()  # nobody seen yet
    memory.collect(0, weights, rows, slots)
    memory.commit()
    units = F.normalize(weights, dim=-1)
    means = [units[:3].mean(0), units[3:].mean(0)]
    assert torch.allclose(memory.mean[0, 3], means[0].float(), atol=1e-6)
    assert torch.allclose(memory.mean[0, 8], means[1].float(), atol=1e-6)
    untouched = [user for user in range(9) if user not in (3, 8)]
    assert not memory.mean[0, untouched].any()
    terms = [units[token] @ means[0 if token > 2 else 1] for token in range(7)]
    expected = torch.stack([torch.stack(terms[:3]).mean(), torch.stack(terms[3:]).mean()])
    assert torch.allclose(memory.loss(0, weights, rows, slots), expected, atol=1e-6)


def test_memory_averages_a_users_rows_and_moves_slowly() -> None:
    memory = RoutingMemory(1, 2, 5, momentum=0.9)
    first, second = routing(2, 5), routing(2, 5, seed=1)
    row, slot = torch.zeros(2, dtype=torch.long), torch.tensor([1])
    memory.collect(0, first, row, slot)
    memory.commit()
    memory.collect(0, second, row, slot)
    memory.discard()  # a step that ran out of memory
    memory.collect(0, second, row, slot)
    memory.commit()
    units = [F.normalize(w, dim=-1).mean(0).float() for w in (first, second)]
    assert torch.allclose(memory.mean[0, 1], 0.9 * units[0] + 0.1 * units[1], atol=1e-6)


def test_two_rows_of_one_user_count_alike_whatever_their_length() -> None:
    memory = RoutingMemory(1, 2, 5)
    weights = routing(4, 5)
    memory.collect(0, weights, torch.tensor([0, 1, 1, 1]), torch.tensor([1, 1]))
    memory.commit()
    units = F.normalize(weights, dim=-1)
    expected = (units[0] + units[1:].mean(0)) / 2
    assert torch.allclose(memory.mean[0, 1], expected.float(), atol=1e-6)


def test_a_step_moves_the_means_once_however_many_passes_it_has() -> None:
    weights = routing(4, 5)
    whole, cut = RoutingMemory(1, 3, 5), RoutingMemory(1, 3, 5)
    owners = torch.tensor([1, 2, 1, 1])
    for _ in range(2):
        whole.collect(0, weights, torch.arange(4), owners)
        whole.commit()
        for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
            size = part.stop - part.start
            cut.collect(0, weights[part], torch.arange(size), owners[part])
        cut.commit()
    assert torch.equal(whole.mean, cut.mean)
    assert cut.seen.tolist() == [False, True, True]


def test_pair_loss_is_the_mean_cosine_at_the_same_x() -> None:
    weights, others = routing(5, 5), routing(4, 5, 5, seed=1)
    cosines = [
        F.cosine_similarity(weights[token], others[k, token], dim=0)
        for token in range(5)
        for k in range(4)
    ]
    assert pair_loss(weights, others).mean().item() == pytest.approx(
        torch.stack(cosines).mean().item(), abs=1e-12
    )


def test_mean_by_row_is_each_rows_own() -> None:
    values = routing(6, 5)
    found = mean_by_row(values, torch.tensor([1, 0, 1, 2, 2, 2]), 3)
    expected = [values[1], (values[0] + values[2]) / 2, values[3:].mean(0)]
    assert torch.allclose(found, torch.stack(expected), atol=1e-12)
