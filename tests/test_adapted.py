"""A whole adapted linear in one function: its equation, token by token in float64, is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from proper_model.kernels.adapted import Routing, Scales, adapted_linear
from proper_model.kernels.layout import Layout
from tests.adapted_case import LENGTHS, NAMES, PARTS, SCALES, Case, P, apart, equation, make

LAYOUT = Layout.of(LENGTHS)
# Of x and base, of everything else, and how near the equation.
PRECISIONS = {
    "float64": (torch.float64, torch.float64, 1e-13),
    "float32": (torch.float32, torch.float32, 2e-6),
    "bfloat16": (torch.bfloat16, torch.float32, 1e-2),
}


def drawn(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return (torch.rand(case.x.shape, generator=generator) > P).double()


def run(case: Case, mask: Tensor | None, scales: Scales, *, detached: bool = False) -> Tensor:
    return adapted_linear(
        case.base,
        case.x,
        LAYOUT,
        mask,
        scales,
        Routing(case.through, case.user, detached),
        **{name: getattr(case, name) for name in NAMES[1:6]},
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("parts", PARTS)
def test_it_is_its_equation(parts: str, dropout: bool, precision: str) -> None:
    dtype, parameters, close = PRECISIONS[precision]
    case = make(PARTS[parts])
    mask = drawn(case) if dropout else None
    scales = SCALES if dropout else Scales(SCALES.own, SCALES.experts, 1.0)
    expected = equation(case, torch.ones_like(case.x) if mask is None else mask, scales)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    narrow = case.narrow(dtype, parameters=parameters)
    found = run(narrow, None if mask is None else mask.to(dtype), scales)
    assert found.dtype is dtype
    (found.to(parameters) * weights).sum().backward()
    assert apart(found, expected) < close
    for name, leaf in case.leaves().items():
        assert apart(narrow.leaves()[name].grad, leaf.grad) < close, name


def test_nothing_flows_back_through_a_detached_router() -> None:
    for detached in (False, True):
        case = make(NAMES)
        run(case, None, Scales(1.0, 1.0, 1.0), detached=detached).square().sum().backward()
        # None as autograd has it: of zeros, AdamW would still decay a weight.
        assert case.through is not None
        assert (case.through.grad is None) is detached


def test_an_embedding_alone_keeps_no_input() -> None:
    """Inputs are what a pass keeps most of; only factors in training need them."""
    case = make(PARTS["experts routed by text and user"])
    for name, kept in (("user", False), ("expert_b", False), ("expert_a", True), ("text", True)):
        for leaf in case.leaves().values():
            leaf.requires_grad_(False).grad = None
        before = case.x.clone().requires_grad_()
        trained = getattr(case, name).requires_grad_()
        held: list[Tensor] = []

        def pack(tensor: Tensor, held: list[Tensor] = held) -> Tensor:
            held.append(tensor)
            return tensor

        given = before * 1.0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = adapted_linear(
                case.base, given, LAYOUT, None, SCALES, Routing(None, case.user),
                expert_a=case.expert_a, expert_b=case.expert_b, text=case.text,
            )  # fmt: skip
        assert any(tensor.data_ptr() == given.data_ptr() for tensor in held) is kept, name
        out.square().sum().backward()
        assert trained.grad is not None, name
        assert bool(before.grad.any()), name


def test_a_second_derivative_is_an_error() -> None:
    """Not a wrong number: what is saved carries no graph."""
    case = make(NAMES)
    (first,) = torch.autograd.grad(
        run(case, None, SCALES).square().sum(), case.x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
