"""Products with frozen weights: float64 is the oracle of every way to them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from proper_model.kernels import products
from proper_model.kernels.products import (
    FrozenLinear,
    frozen_linear,
    linear,
    serves,
    transposed_product,
)
from proper_model.model.adapted_linear import AdaptedLinear
from tests.tiny import adapted

TOKENS, WIDE, OUT = 9, 12, 5
# Relative error of a product of 12 terms.
ERRORS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=[True, False], ids=["onednn", "pytorch"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not products.ONEDNN:
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(products, "ONEDNN", request.param)
    monkeypatch.setattr(products, "LEAST", 1)  # the products here are small
    return bool(request.param)


@pytest.fixture(params=list(ERRORS), ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    made: torch.dtype = request.param
    return made


def rand(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def close(found: Tensor, expected: Tensor) -> bool:
    """Near the float64 product of the same numbers."""
    error = (found.double() - expected).abs().max() / expected.abs().max()
    return bool(error < ERRORS[found.dtype])


def strided(x: Tensor) -> dict[str, Tensor]:
    """The same matrix in several memory layouts."""
    rows, columns = x.shape
    wide = torch.zeros(rows, 2 * columns, dtype=x.dtype)
    wide[:, ::2] = x
    inner = torch.zeros(rows + 2, columns + 3, dtype=x.dtype)
    inner[1:-1, 2:-1] = x
    found = {
        "plain": x,
        "transposed": x.T.contiguous().T,
        "every second": wide[:, ::2],
        "a part": inner[1:-1, 2:-1],
    }
    assert all(torch.equal(view, x) for view in found.values())
    assert sum(view.is_contiguous() for view in found.values()) == 1
    return found


@pytest.mark.parametrize("biased", [True, False])
def test_linear_is_the_product_whatever_the_strides(
    onednn: bool, dtype: torch.dtype, biased: bool
) -> None:
    x, weight = rand(TOKENS, WIDE, dtype=dtype), rand(OUT, WIDE, dtype=dtype, seed=1)
    bias = rand(OUT, dtype=dtype, seed=2) if biased else None
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected = expected + bias.double()
    assert serves(x) is (onednn and dtype is torch.float32)
    for how, left in strided(x).items():
        for other, right in strided(weight).items():
            found = linear(left, right, bias)
            assert found.dtype is dtype
            assert close(found, expected), (how, other)


def test_small_products_are_not_worth_a_call_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(products, "serves", lambda x: asked.append("large") is None and False)
    weight = torch.zeros(OUT, WIDE)
    for tokens, called in ((TOKENS - 1, []), (TOKENS, ["large"])):
        asked.clear()
        monkeypatch.setattr(products, "LEAST", TOKENS * WIDE * OUT)
        linear(torch.zeros(tokens, WIDE), weight)
        assert asked == called


def test_a_product_has_memory_of_its_own(onednn: bool) -> None:
    """Callers write into what they get."""
    x = rand(TOKENS, WIDE, dtype=torch.float32)
    weight, bias = torch.eye(WIDE), torch.zeros(WIDE)
    before = x.clone()
    linear(x, weight, bias).fill_(7)
    assert torch.equal(x, before)
    assert torch.equal(weight, torch.eye(WIDE))
    assert not bias.any()


def test_a_transposed_product_sums_over_the_long_dimension(
    onednn: bool, dtype: torch.dtype
) -> None:
    a, b = rand(TOKENS, OUT, dtype=dtype), rand(TOKENS, WIDE, dtype=dtype, seed=1)
    expected = a.double().T @ b.double()
    for left in strided(a).values():
        for right in strided(b).values():
            assert close(transposed_product(left, right), expected)


@pytest.mark.parametrize("biased", [True, False])
def test_gradients_of_a_frozen_linear_reach_its_input_only(
    onednn: bool, dtype: torch.dtype, biased: bool
) -> None:
    x = rand(2, TOKENS, WIDE, dtype=dtype).requires_grad_()
    weight = rand(OUT, WIDE, dtype=dtype, seed=1).requires_grad_()
    bias = rand(OUT, dtype=dtype, seed=2).requires_grad_() if biased else None
    y = frozen_linear(x, weight, bias)
    exact = x.detach().double().requires_grad_()
    expected = torch.nn.functional.linear(
        exact, weight.detach().double(), None if bias is None else bias.detach().double()
    )
    assert close(y.detach(), expected.detach())
    seed = rand(*y.shape, dtype=dtype, seed=3)
    y.backward(seed)
    expected.backward(seed.double())
    assert x.grad is not None
    assert exact.grad is not None
    assert close(x.grad, exact.grad)
    assert weight.grad is None
    assert bias is None or bias.grad is None


def test_its_gradient_takes_any_strides(onednn: bool) -> None:
    x = rand(TOKENS, WIDE, dtype=torch.float32).requires_grad_()
    weight = rand(OUT, WIDE, dtype=torch.float32, seed=1)
    seed = rand(TOKENS, OUT, dtype=torch.float32, seed=2)
    for view in strided(seed).values():
        (found,) = torch.autograd.grad(frozen_linear(x, weight, None), x, view)
        assert close(found, seed.double() @ weight.double())


def test_gradients_pass_finite_differences() -> None:
    x, weight, bias = (
        rand(*shape, dtype=torch.float64, seed=n)
        for n, shape in enumerate([(2, 3, WIDE), (OUT, WIDE), (OUT,)])
    )
    assert torch.autograd.gradcheck(
        lambda value: frozen_linear(value, weight, bias), x.requires_grad_()
    )


def test_every_linear_is_exchanged_while_attached_and_the_original_after(onednn: bool) -> None:
    model = adapted(architecture="qwen2")  # whose attention has biases
    model.base.float()
    before = dict(model.base.named_modules())
    state = copy.deepcopy(model.base.state_dict())
    paths = {site.path for site in model.sites}
    linears = {path for path, module in before.items() if type(module) is torch.nn.Linear}
    x = rand(TOKENS, 16, dtype=torch.float32)
    with model.attached():
        inside = dict(model.base.named_modules())
        for path in linears:
            if path in paths:
                assert isinstance(inside[path], AdaptedLinear)
            elif onednn:
                assert isinstance(inside[path], FrozenLinear)
                if before[path].in_features == 16:
                    assert close(inside[path](x), before[path].double()(x.double()))
                    before[path].float()
            else:
                assert inside[path] is before[path]
        assert set(state) <= {name.replace(".base.", ".") for name in model.base.state_dict()}
    after = dict(model.base.named_modules())
    assert after.keys() == before.keys()
    assert all(after[path] is before[path] for path in before)
    assert model.base.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[name]) for name, t in model.base.state_dict().items())


def test_originals_come_back_after_an_error() -> None:
    model = adapted()
    model.base.float()
    before = dict(model.base.named_modules())

    def fail() -> None:
        with model.attached():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = dict(model.base.named_modules())
    assert all(after[path] is module for path, module in before.items())
