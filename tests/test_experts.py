"""Experts: the concatenated pair of products against a plain loop, and the invariances."""

from __future__ import annotations

import torch

from proper_model.experts import Experts


def make(experts: int, seed: int = 0) -> Experts:
    generator = torch.Generator().manual_seed(seed)
    module = Experts(10, 6, experts, 4, generator).double()
    with torch.no_grad():
        module.b.copy_(torch.randn(module.b.shape, generator=generator))
    return module


def inputs(experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(2, 3, 10, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, 3, experts, generator=generator, dtype=torch.float64).softmax(-1)
    return x, weights


def test_mixture_equals_a_loop_over_experts_and_tokens() -> None:
    module = make(5)
    x, weights = inputs(5)
    out = module(x, weights)
    for row in range(2):
        for token in range(3):
            expected = torch.zeros(6, dtype=torch.float64)
            for n in range(5):
                expected += weights[row, token, n] * module.b[n] @ (module.a[n] @ x[row, token])
            assert torch.allclose(out[row, token], expected, atol=1e-12)


def test_one_expert_is_plain_lora() -> None:
    module = make(1)
    x, weights = inputs(1)
    assert torch.allclose(module(x, weights), x @ (module.b[0] @ module.a[0]).T, atol=1e-12)


def test_permuting_experts_with_their_weights_changes_nothing() -> None:
    module, order = make(5), torch.tensor([3, 1, 4, 0, 2])
    x, weights = inputs(5)
    before = module(x, weights)
    with torch.no_grad():
        module.a.copy_(module.a[order].clone())
        module.b.copy_(module.b[order].clone())
    assert torch.allclose(module(x, weights[..., order]), before, atol=1e-12)
    assert not torch.allclose(module(x, weights), before)  # the weights must move along


def test_fresh_experts_change_nothing() -> None:
    fresh = Experts(10, 6, 5, 4, torch.Generator().manual_seed(0)).double()
    x, weights = inputs(5)
    assert not fresh(x, weights).any()


def test_broadcast_weights_of_a_user_router() -> None:
    module = make(5)
    x, weights = inputs(5)
    constant = weights[:, :1]
    assert torch.allclose(module(x, constant), module(x, constant.expand(2, 3, 5)), atol=1e-12)
