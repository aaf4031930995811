"""The low-rank operations: loops over users, experts and tokens are the oracle of every backend."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from proper_model.ops import Backend, down, up

ROWS, TOKENS, WIDE, OUT, RANK, EXPERTS = 5, 7, 11, 6, 4, 3
PARTS = [(True, True), (True, False), (False, True)]  # user LoRA, experts


@dataclass
class Case:
    """Inputs of one adapted linear; rows 1 and 2 are the same user's."""

    base: torch.nn.Linear
    x: Tensor
    mask: Tensor | None
    user_a: Tensor | None
    user_b: Tensor | None
    expert_a: Tensor | None
    expert_b: Tensor | None
    weights: Tensor

    def run(self, backend: Backend) -> Tensor:
        y, p, q = down(backend, self.base, self.x, self.mask, self.user_a, self.expert_a)
        if q is not None:
            q = q * self.weights[..., None]
        return up(backend, y, p, q, self.user_b, self.expert_b)

    def leaves(self) -> list[Tensor]:
        parts = (self.x, self.user_a, self.user_b, self.expert_a, self.expert_b, self.weights)
        return [part for part in parts if part is not None and part.requires_grad]


def make(
    user: bool = True, experts: bool = True, *, dropout: bool = True, bias: bool = True
) -> Case:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float64)
        return made.requires_grad_(True)

    base = torch.nn.Linear(WIDE, OUT, bias=bias).double().requires_grad_(False)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(random(*parameter.shape))
    mask = (random(ROWS, TOKENS, WIDE) > -0.5).double() if dropout else None
    slots = torch.tensor([2, 0, 0, 1, 2])
    return Case(
        base,
        random(ROWS, TOKENS, WIDE),
        mask,
        random(3, RANK, WIDE).detach()[slots].requires_grad_(True) if user else None,
        random(3, OUT, RANK).detach()[slots].requires_grad_(True) if user else None,
        random(EXPERTS, RANK, WIDE) if experts else None,
        random(EXPERTS, OUT, RANK) if experts else None,
        random(ROWS, TOKENS, EXPERTS),
    )


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize(("user", "experts"), PARTS)
def test_every_token_equals_the_equation(backend: Backend, user: bool, experts: bool) -> None:
    case = make(user, experts)
    out = case.run(backend)
    assert case.mask is not None
    for row in range(ROWS):
        for token in range(TOKENS):
            x = case.x[row, token]
            dropped = x * case.mask[row, token]
            expected = case.base(x)
            if case.user_a is not None and case.user_b is not None:
                expected = expected + case.user_b[row] @ (case.user_a[row] @ dropped)
            if case.expert_a is not None and case.expert_b is not None:
                for n in range(EXPERTS):
                    low = case.expert_a[n] @ dropped
                    expected = expected + case.weights[row, token, n] * (case.expert_b[n] @ low)
            assert torch.allclose(out[row, token], expected, atol=1e-12)


@pytest.mark.parametrize(("user", "experts"), PARTS)
@pytest.mark.parametrize("dropout", [True, False])
def test_fused_gradients_are_the_references(user: bool, experts: bool, dropout: bool) -> None:
    case = make(user, experts, dropout=dropout)
    seed = torch.randn(ROWS, TOKENS, OUT, generator=torch.Generator().manual_seed(1)).double()
    wanted = case.leaves() if experts else [leaf for leaf in case.leaves() if leaf.dim() != 4]
    wanted = [leaf for leaf in wanted if experts or leaf is not case.weights]
    expected = torch.autograd.grad(case.run(Backend.REFERENCE), wanted, seed)
    found = torch.autograd.grad(case.run(Backend.FUSED), wanted, seed)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_fused_gradients_pass_finite_differences() -> None:
    case = make()
    leaves = case.leaves()

    def run(*values: Tensor) -> Tensor:
        x, user_a, user_b, expert_a, expert_b, weights = values
        changed = Case(case.base, x, case.mask, user_a, user_b, expert_a, expert_b, weights)
        return changed.run(Backend.FUSED)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", Backend)
def test_a_first_layer_without_gradient_to_its_input(backend: Backend) -> None:
    case = make(dropout=False)
    case.x = case.x.detach()
    assert case.user_a is not None
    (gradient,) = torch.autograd.grad(case.run(backend).sum(), case.user_a)
    assert gradient.abs().sum() > 0


def test_frozen_experts_get_no_gradient_and_change_no_other() -> None:
    trained, frozen = make(), make()
    assert frozen.expert_a is not None
    assert frozen.expert_b is not None
    frozen.expert_a.requires_grad_(False)
    frozen.expert_b.requires_grad_(False)
    for case in (trained, frozen):
        case.run(Backend.FUSED).square().sum().backward()
    assert frozen.expert_a.grad is None
    assert trained.user_a is not None
    assert frozen.user_a is not None
    assert trained.user_a.grad is not None
    assert frozen.user_a.grad is not None
    assert torch.equal(trained.user_a.grad, frozen.user_a.grad)


@pytest.mark.parametrize("backend", Backend)
def test_another_kind_of_linear_keeps_its_own_gradient(backend: Backend) -> None:
    """Quantized linears are modules of their own; here one that computes x W^T another way."""

    class Other(torch.nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    plain, other = make(bias=False), make(bias=False)
    weight = plain.base.weight.detach()
    expected = torch.autograd.grad(plain.run(backend).square().sum(), plain.leaves())
    other.base = Other(weight)  # type: ignore[assignment]
    found = torch.autograd.grad(other.run(backend).square().sum(), other.leaves())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("backend", Backend)
def test_permuting_experts_with_their_weights_changes_nothing(backend: Backend) -> None:
    case, order = make(user=False), torch.tensor([2, 0, 1])
    before = case.run(backend)
    assert case.expert_a is not None
    assert case.expert_b is not None
    case.expert_a, case.expert_b = case.expert_a[order], case.expert_b[order]
    assert not torch.allclose(case.run(backend), before)  # the weights must move along
    case.weights = case.weights[..., order]
    assert torch.allclose(case.run(backend), before, atol=1e-12)


@pytest.mark.parametrize("backend", Backend)
def test_one_weight_a_row_is_the_same_for_all_its_tokens(backend: Backend) -> None:
    case = make(user=False)
    case.weights = case.weights[:, :1]
    before = case.run(backend)
    case.weights = case.weights.expand(ROWS, TOKENS, EXPERTS)
    assert torch.allclose(case.run(backend), before, atol=1e-12)


@pytest.mark.parametrize("backend", Backend)
def test_bfloat16_compute_with_float32_adapters(backend: Backend) -> None:
    """Adapters and their gradients stay float32; outputs agree to bfloat16's 8 bits."""
    case = make()
    exact = case.run(Backend.REFERENCE).detach()
    half = make()
    half.base = half.base.bfloat16()
    half.x = half.x.detach().bfloat16().requires_grad_(True)
    half.mask = None if half.mask is None else half.mask.bfloat16()
    half.weights = half.weights.detach().bfloat16()
    for name in ("user_a", "user_b", "expert_a", "expert_b"):
        setattr(half, name, getattr(half, name).detach().float().requires_grad_(True))
    out = half.run(backend)
    assert out.dtype is torch.bfloat16
    assert (out.double() - exact).norm() < 0.02 * exact.norm()
    out.float().sum().backward()
    assert half.user_a is not None
    assert half.user_a.grad is not None
    assert half.user_a.grad.dtype is torch.float32
