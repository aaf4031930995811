"""What a base does between its products, by hand-written gradients: transformers' own code is the oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from proper_model.kernels import blocks
from proper_model.kernels.ops import Backend
from tests.tiny import adapted, batch_of, samples, stage3_pass, trained_factors

EPS = 1e-5
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture(params=list(CLOSE), ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    made: torch.dtype = request.param
    return made


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.to(dtype)


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and gradients of both are alike, the oracle's in float64 where it can be."""
    made = []
    for function in (ours, theirs):
        leaves = [one.clone().requires_grad_() for one in inputs]
        y = function(*leaves)
        (y.double() * random(*y.shape, dtype=torch.float64, seed=9)).sum().backward()
        made.append([y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    close = CLOSE[inputs[0].dtype]
    assert len(made[0]) == len(made[1]) == 1 + len(inputs)
    for found, expected in zip(*made, strict=True):
        assert found.dtype is expected.dtype
        apart = (found.double() - expected.double()).abs().max()
        assert apart <= close * (1 + expected.double().abs().max())


@pytest.mark.parametrize("shape", [(1, 7, 6), (3, 6)])
def test_a_norm_is_that_of_transformers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(6, EPS).to(dtype)
    norm.weight = torch.nn.Parameter(random(6, dtype=dtype, seed=1), requires_grad=False)

    def theirs(x: Tensor) -> Tensor:
        if dtype is not torch.float64:
            return torch.as_tensor(norm(x))
        return norm.weight * x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt()  # not by float32

    same(lambda x: blocks.rms_norm(x, norm.weight, EPS), theirs, random(*shape, dtype=dtype))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_rotation_is_that_of_transformers(rows: int, dtype: torch.dtype) -> None:
    angles = random(rows, 5, 3, dtype=torch.float64, seed=2).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    # As projections leave it: heads between the tokens.
    x = random(rows, 5, 2, 6, dtype=dtype).transpose(1, 2)

    def theirs(x: Tensor) -> Tensor:
        return torch.as_tensor(apply_rotary_pos_emb(x, x, cos, sin)[0])

    same(lambda x: blocks.rotate(x, cos, sin), theirs, x)


def test_a_gated_unit_is_its_formula(dtype: torch.dtype) -> None:
    def theirs(gate: Tensor, up: Tensor) -> Tensor:
        return gate * gate.sigmoid() * up

    same(blocks.swiglu, theirs, random(4, 6, dtype=dtype), random(4, 6, dtype=dtype, seed=3))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "smollm3", "gemma"])
def test_a_model_is_the_same_with_them_and_without(architecture: str) -> None:
    """Families with formulas of their own included. Transformers' norms round to float32 in any base."""
    found = []
    for fuse in (True, False):
        model = adapted("default", architecture=architecture)
        model.fuse_base = fuse
        factors = trained_factors(model)
        batch = batch_of(samples(4, seed=5), [0, 2, 1, 2])
        losses = model.answer_loss(batch, stage3_pass(model, batch.slots))
        losses.sum().backward()
        found.append([losses, *(factor.grad for factor in factors)])
        with model.attached():
            norms = [m for m in model.base.modules() if type(m).__name__.endswith("RMSNorm")]
            swapped = fuse and architecture != "gemma"
            assert norms
            assert all(("forward" in vars(norm)) == swapped for norm in norms)
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_norm_in_training_stays_as_it_is() -> None:
    model = adapted("default")
    model.base.model.norm.weight.requires_grad_(True)
    batch = batch_of(samples(4, seed=5), [0, 2, 1, 2])
    model.answer_loss(batch, stage3_pass(model, batch.slots)).sum().backward()
    gradient = model.base.model.norm.weight.grad
    assert gradient is not None
    assert bool(gradient.any())


def test_the_reference_leaves_a_base_as_it_is() -> None:
    model = adapted("default")
    model.backend = Backend.REFERENCE
    with model.attached():
        assert not any("forward" in vars(module) for module in model.base.modules())
