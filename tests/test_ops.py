"""The low-rank operations: loops over rows, experts and tokens are the oracle of every backend."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from proper_model.kernels import ops
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import Backend, add_low_rank, project

WIDE, OUT, RANK, EXPERTS = 11, 6, 4, 3
LAYOUT = Layout.of([3, 7, 7, 1, 5])  # groups of one row and of two
TOKENS = [(row, token) for token, row in enumerate(LAYOUT.rows.tolist())]
PARTS = [(True, True), (True, False), (False, True)]  # user LoRA, experts
LEAVES = ("x", "user_a", "user_b", "expert_a", "expert_b", "text", "weights")
HAND_WRITTEN = [backend for backend in Backend if backend is not Backend.REFERENCE]


@dataclass
class Case:
    """Inputs of one adapted linear; rows 1 and 3 are the same user's.

    Experts are weighted by weights + softmax(text logits), so that gradients pass through the text logits.
    """

    base: torch.nn.Module
    x: Tensor
    mask: Tensor | None
    user_a: Tensor | None
    user_b: Tensor | None
    expert_a: Tensor | None
    expert_b: Tensor | None
    text: Tensor | None
    weights: Tensor | None

    def run(self, backend: Backend) -> Tensor:
        low = project(
            backend,
            self.base,
            self.x,
            self.mask,
            LAYOUT,
            user_a=self.user_a,
            expert_a=self.expert_a,
            text=self.text,
        )
        expert_low = low.expert_low
        if expert_low is not None:
            assert self.weights is not None
            weights = self.weights
            if low.text_logits is not None:
                weights = weights + low.text_logits.softmax(-1)
            expert_low = expert_low * weights[..., None].to(expert_low.dtype)
        return add_low_rank(
            backend,
            low.base_out,
            LAYOUT,
            user_low=low.user_low,
            expert_low=expert_low,
            user_b=self.user_b,
            expert_b=self.expert_b,
        )

    def leaves(self) -> list[Tensor]:
        parts = [getattr(self, name) for name in LEAVES]
        return [part for part in parts if part is not None and part.requires_grad]


def make(
    user: bool = True,
    experts: bool = True,
    *,
    dropout: bool = True,
    bias: bool = True,
    text: bool = True,
) -> Case:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator, dtype=torch.float64)
        return made.requires_grad_(True)

    base = torch.nn.Linear(WIDE, OUT, bias=bias).double().requires_grad_(False)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(random(*parameter.shape))
    count = len(TOKENS)
    mask = (random(count, WIDE) > -0.5).double() if dropout else None
    slots = torch.tensor([2, 0, 1, 0, 2])  # the two of one group differ
    return Case(
        base,
        random(count, WIDE),
        mask,
        random(3, RANK, WIDE).detach()[slots].requires_grad_(True) if user else None,
        random(3, OUT, RANK).detach()[slots].requires_grad_(True) if user else None,
        random(EXPERTS, RANK, WIDE) if experts else None,
        random(EXPERTS, OUT, RANK) if experts else None,
        random(EXPERTS, WIDE) if experts and text else None,
        random(count, EXPERTS) if experts else None,
    )


def one_token(case: Case, row: int, token: int) -> Tensor:
    """The equation of one token."""
    x = case.x[token]
    dropped = x if case.mask is None else x * case.mask[token]
    expected: Tensor = case.base(x)
    if case.user_a is not None and case.user_b is not None:
        expected = expected + case.user_b[row] @ (case.user_a[row] @ dropped)
    if case.expert_a is not None and case.expert_b is not None:
        assert case.weights is not None
        weights = case.weights[token]
        if case.text is not None:
            weights = weights + (case.text @ x).softmax(0)  # the router sees no mask
        for n in range(EXPERTS):
            low = case.expert_a[n] @ dropped
            expected = expected + weights[n] * (case.expert_b[n] @ low)
    return expected


def literal(case: Case) -> Tensor:
    return torch.stack([one_token(case, row, token) for row, token in TOKENS])


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize(("user", "experts"), PARTS)
def test_every_token_and_gradient_equals_the_equation(
    backend: Backend, dropout: bool, user: bool, experts: bool
) -> None:
    case = make(user, experts, dropout=dropout)
    out, expected = case.run(backend), literal(case)
    assert torch.allclose(out, expected, atol=1e-12)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
    found = torch.autograd.grad(out, case.leaves(), seed)
    theirs = torch.autograd.grad(expected, case.leaves(), seed)
    for ours, other in zip(found, theirs, strict=True):
        assert torch.allclose(ours, other, atol=1e-11)


@pytest.mark.parametrize("backend", Backend)
def test_logits_of_the_text_router_are_exact_whatever_is_dropped(backend: Backend) -> None:
    case = make()
    assert case.text is not None
    low = project(backend, case.base, case.x, case.mask, LAYOUT, text=case.text)
    assert low.user_low is None
    assert low.expert_low is None
    assert low.text_logits is not None
    expected = torch.stack([case.text @ case.x[token] for _, token in TOKENS])
    assert torch.allclose(low.text_logits, expected, atol=1e-12)


@pytest.mark.parametrize("dropout", [True, False])
def test_fused_gradients_pass_finite_differences(dropout: bool) -> None:
    case = make(dropout=dropout)

    def run(*values: Tensor) -> Tensor:
        return replace(case, **dict(zip(LEAVES, values, strict=True))).run(Backend.FUSED)

    assert torch.autograd.gradcheck(run, case.leaves(), fast_mode=True)


@pytest.mark.parametrize("backend", Backend)
def test_a_first_layer_without_gradient_to_its_input(backend: Backend) -> None:
    case = make(dropout=False)
    case.x = case.x.detach()
    expected = torch.autograd.grad(literal(case).sum(), case.leaves())
    found = torch.autograd.grad(case.run(backend).sum(), case.leaves())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-11)


@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_frozen_experts_get_no_gradient_and_change_no_other(backend: Backend) -> None:
    trained, frozen = make(), make()
    for part in (frozen.expert_a, frozen.expert_b, frozen.text):
        assert part is not None
        part.requires_grad_(False)
    for case in (trained, frozen):
        case.run(backend).square().sum().backward()
    for part in (frozen.expert_a, frozen.expert_b, frozen.text):
        assert part is not None
        assert part.grad is None
    for name in ("x", "user_a", "user_b"):
        ours, theirs = getattr(frozen, name).grad, getattr(trained, name).grad
        assert ours is not None
        assert torch.equal(ours, theirs)


class Other(torch.nn.Module):
    """Quantized linears are modules of their own; here one that computes x W^T another way."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("dropout", [True, False])
def test_another_kind_of_linear_keeps_its_own_gradient(backend: Backend, dropout: bool) -> None:
    plain, other = (make(bias=False, dropout=dropout) for _ in range(2))
    assert isinstance(plain.base, torch.nn.Linear)
    other.base = Other(plain.base.weight.detach())
    expected = torch.autograd.grad(literal(plain).square().sum(), plain.leaves())
    found = torch.autograd.grad(other.run(backend).square().sum(), other.leaves())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("backend", Backend)
def test_permuting_experts_with_their_weights_changes_nothing(backend: Backend) -> None:
    case, order = make(user=False), torch.tensor([2, 0, 1])
    before = case.run(backend)
    assert case.expert_a is not None
    assert case.expert_b is not None
    assert case.text is not None
    assert case.weights is not None
    case.expert_a, case.expert_b = case.expert_a[order], case.expert_b[order]
    assert not torch.allclose(case.run(backend), before)  # the weights must move along
    case.weights, case.text = case.weights[..., order], case.text[order]
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
    assert half.weights is not None
    half.weights = half.weights.detach().float()
    for name in ("user_a", "user_b", "expert_a", "expert_b", "text"):
        setattr(half, name, getattr(half, name).detach().float().requires_grad_(True))
    out = half.run(backend)
    assert out.dtype is torch.bfloat16
    assert (out.double() - exact).norm() < 0.02 * exact.norm()
    exact_gradients = torch.autograd.grad(case.run(Backend.REFERENCE).sum(), case.leaves())
    seed = torch.ones_like(out)
    wanted = [getattr(half, name) for name in LEAVES[:-1]]
    found = torch.autograd.grad(out, wanted, seed)
    for name, leaf, ours, theirs in zip(
        LEAVES[:-1], wanted, found, exact_gradients[:-1], strict=True
    ):
        assert ours.dtype is leaf.dtype, name
        assert (ours.double() - theirs).norm() < 0.03 * theirs.norm(), name


def test_a_product_for_all_rows_is_the_one_of_every_group_in_float32() -> None:
    """`grouped` falls back to groups in float64: only narrower inputs reach its own product."""
    found = []
    for backend in (Backend.FUSED, Backend.GROUPED):
        case = make()
        assert isinstance(case.base, torch.nn.Linear)
        case.base = case.base.float()
        for name in (*LEAVES, "mask"):
            setattr(case, name, getattr(case, name).detach().float().requires_grad_(name in LEAVES))
        out = case.run(backend)
        found.append([out, *torch.autograd.grad(out.square().sum(), case.leaves())])
    for name, fused, grouped in zip(("out", *LEAVES), *found, strict=True):
        assert torch.allclose(grouped, fused, atol=1e-4, rtol=1e-4), name


def test_a_gpu_on_which_triton_does_not_start_has_other_routines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No C compiler is an error of Triton's, not of ours; what is too old is not asked."""
    starts = ops._starts_kernels.__wrapped__
    device = torch.device("cuda", 0)
    monkeypatch.setattr(ops, "has_triton", lambda: True)
    monkeypatch.setattr(ops, "_starts_kernels", starts)
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    with pytest.warns(RuntimeWarning, match="C compiler"):
        assert Backend.best_on(device) is Backend.GROUPED
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert Backend.best_on(device) is Backend.GROUPED
    monkeypatch.setattr(ops, "_starts_kernels", lambda _: True)
    assert Backend.best_on(device) is Backend.KERNELS
