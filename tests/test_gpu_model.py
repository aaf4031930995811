"""An adapted model on the kernels of a GPU equals the one in einsum; Triton may interpret them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.triton_interpreter
from proper_model.engine.recompute import recomputing
from proper_model.kernels.dropout import hashed_mask, threshold
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import Backend
from proper_model.model import adapted_linear
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.fused_blocks import fused_blocks
from proper_model.model.passes import Pass, base_pass, group_pass, personal_pass
from proper_model.settings.presets import UserRouting
from tests.tiny import adapted, embeddings_of, encoder, samples

ITEMS, SLOTS = samples(4, seed=5), [0, 2, 1, 2]
DEVICE = tests.triton_interpreter.DEVICE


@pytest.fixture(autouse=True)
def masks_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs here draws its dropout as a GPU does."""

    def hashed(x: Tensor, p: float, seeds: Any, layout: Layout, site: int) -> Tensor:
        return hashed_mask(x, threshold(p), torch.tensor(seeds, device=x.device), layout, site)

    monkeypatch.setattr(adapted_linear, "row_masks", hashed)


def both(structure: str, architecture: str = "llama") -> Iterator[AdaptedModel]:
    """The same float32 model twice: in einsum, and on kernels."""
    for backend in (Backend.REFERENCE, Backend.KERNELS):
        model = adapted(structure, architecture=architecture)
        model.base.float().to(DEVICE)
        model.float().to(DEVICE)
        model.lora = model.new_user_lora([0, 1, 2])
        source = adapted(structure, architecture=architecture)
        model.lora.load_state_dict({k: v.float() for k, v in source.lora.state_dict().items()})
        model.backend, model.fuse_base = backend, backend is Backend.KERNELS
        yield model


def gradients(model: AdaptedModel, now: Pass) -> tuple[Tensor, list[Tensor]]:
    """Losses of all rows, and gradients of the users' factors and embeddings."""
    leaves = [*model.lora.parameters()] if now.lora else []
    leaves += [] if now.embeddings is None else [now.embeddings]
    for leaf in leaves:
        leaf.requires_grad_()
    batch = encoder().batch(ITEMS, SLOTS, seeds=[3, 1 << 40, 5, 3], device=DEVICE)
    losses = model.answer_loss(batch, now)
    if leaves:
        (losses * losses.new_tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
    return losses.detach(), [
        torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves
    ]


def stage3(model: AdaptedModel, routing: UserRouting) -> Pass:
    embeddings = embeddings_of(model, 3).float().to(DEVICE)
    slots = torch.tensor(SLOTS, device=DEVICE)
    now = personal_pass(slots, embeddings=embeddings, routing=routing, experts=True)
    now.dropout = 0.25
    return now


def compare(made: list[tuple[Tensor, list[Tensor]]]) -> None:
    (losses, expected), (found_losses, found) = made
    assert torch.allclose(found_losses, losses, rtol=1e-5, atol=1e-6)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6 * float(other.abs().max() + 1))


@pytest.mark.parametrize(
    ("structure", "routing"),
    [
        ("default", UserRouting.SUMMED),
        ("default", UserRouting.USER_AWARE),
        ("paper", UserRouting.LORA_AWARE),
        ("device", UserRouting.USER_AWARE),
        ("released", UserRouting.LORA_AWARE),
    ],
)
def test_stage_3_is_the_same(structure: str, routing: UserRouting) -> None:
    compare([gradients(model, stage3(model, routing)) for model in both(structure)])


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "mistral", "smollm3", "gemma"])
def test_other_families_are_the_same(architecture: str) -> None:
    made = [
        gradients(model, stage3(model, UserRouting.SUMMED))
        for model in both("default", architecture)
    ]
    compare(made)


def test_the_other_passes_are_the_same() -> None:
    """Stage 1, stage 2 with embeddings in training, and adapters without experts."""
    made: list[list[tuple[Tensor, list[Tensor]]]] = []
    for model in both("default"):
        slots = torch.tensor(SLOTS, device=DEVICE)
        embeddings = embeddings_of(model, 3).float().to(DEVICE)
        passes = [
            base_pass(slots),
            group_pass(slots, embeddings),
            personal_pass(slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False),
        ]
        made.append([gradients(model, now) for now in passes])
    for pair in zip(*made, strict=True):
        compare(list(pair))


def test_kernels_are_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above compares nothing if a model quietly takes its other way."""
    *_, model = both("default")
    monkeypatch.setattr(adapted_linear, "project", None)
    norms = [m for m in model.base.modules() if type(m).__name__ == "LlamaRMSNorm"]
    with model.attached():
        assert all("forward" in vars(norm) for norm in norms)
        gradients(model, stage3(model, UserRouting.SUMMED))
    assert norms
    assert not any("forward" in vars(norm) for norm in norms)


def test_bases_open_and_close_in_any_order() -> None:
    """Two models of one family, and two over one base: what is left is the base's own code."""
    from transformers.models.llama import modeling_llama

    plain = modeling_llama.apply_rotary_pos_emb
    *_, one = both("default")
    *_, other = both("default")
    first, second = fused_blocks(one.base), fused_blocks(other.base)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert modeling_llama.apply_rotary_pos_emb is not plain  # the second is still open
    second.__exit__(None, None, None)
    assert modeling_llama.apply_rotary_pos_emb is plain
    with fused_blocks(one.base), fused_blocks(one.base):
        pass
    assert not any("forward" in vars(module) for module in one.base.modules())
    with pytest.raises(KeyError), one.attached():
        raise KeyError
    assert not any("forward" in vars(module) for module in one.base.modules())
    assert modeling_llama.apply_rotary_pos_emb is plain


def test_another_base_of_the_family_keeps_its_precision() -> None:
    """Rotation is a function of the whole family; one in float64 must not be rounded by it."""
    from transformers.models.llama import modeling_llama

    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 5, 8, generator=generator, dtype=torch.float64).to(DEVICE)
    angle = torch.rand(1, 5, 4, generator=generator, dtype=torch.float64).to(DEVICE).repeat(1, 1, 2)
    plain = modeling_llama.apply_rotary_pos_emb(q, q, angle.cos(), angle.sin())
    *_, model = both("default")
    with model.attached():
        rotate = modeling_llama.apply_rotary_pos_emb
        found = rotate(q, q, angle.cos(), angle.sin())
        named = rotate(q, q, angle.cos(), angle.sin(), unsqueeze_dim=1)
    for made in (found, named):
        for one, other in zip(made, plain, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-15)


def test_recomputed_gradients_are_the_same() -> None:
    """Dropout is hashed again when a block is computed again, also in the backward pass alone."""
    made = []
    for recompute in (False, True):
        *_, model = both("default")
        with recomputing(model, active=recompute):
            made.append(gradients(model, stage3(model, UserRouting.SUMMED)))
    (losses, plain), (again, recomputed) = made
    assert torch.equal(losses, again)
    for one, other in zip(plain, recomputed, strict=True):
        assert torch.equal(one, other)
