"""A packed batch is every sample by itself: Hugging Face's own models, unpacked, are the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import PLAIN_HEADS
from proper_model.model.passes import base_pass
from proper_model.settings.presets import PRESETS, preset
from tests.tiny import (
    ARCHITECTURES,
    adapted,
    batch_of,
    exact_norms,
    loss_alone,
    samples,
    stage3_pass,
    tiny_base,
    trained_factors,
)


def twin(item: Encoded) -> Encoded:
    """Another sample of the same length."""
    return Encoded((*((t + 31) % 60 + 2 for t in item.tokens[:-1]), 1), item.prompt_tokens)


UNEQUAL = samples(4, seed=1)
ITEMS = (*UNEQUAL, twin(UNEQUAL[3]), twin(UNEQUAL[0]))  # neighbours alike, and rows alike apart
SLOTS = [0, 2, 1, 1, 0, 2]
# Weights this wide make attention far from uniform and logits reach their caps.
WIDE = {"initializer_range": 0.4}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, WIDE) for name in (*ARCHITECTURES, "qwen3", "smollm3")},
    "llama, two queries a key": ("llama", {**WIDE, "num_key_value_heads": 1}),
    "qwen2, two queries a key": ("qwen2", {**WIDE, "num_key_value_heads": 1}),
    "mistral, a window": ("mistral", {**WIDE, "sliding_window": 3}),
    "gemma2, caps and a window": (
        "gemma2",
        {
            **WIDE,
            "sliding_window": 3,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 5,
        },
    ),
}


def model_of(base: Any) -> AdaptedModel:
    generator = torch.Generator().manual_seed(1)
    return AdaptedModel(base, preset("default"), generator=generator).double()


@pytest.mark.parametrize("kind", sorted(BASES))
@pytest.mark.parametrize("order", ["mixed", "sorted"])
def test_a_packed_base_is_hugging_faces_own_one_sample_at_a_time(kind: str, order: str) -> None:
    architecture, changes = BASES[kind]
    model = model_of(tiny_base(architecture, **changes))
    items = ITEMS if order == "mixed" else tuple(sorted(ITEMS, key=lambda i: len(i.tokens)))
    batch = batch_of(items, SLOTS)
    assert len(batch.layout.groups) == (5 if order == "mixed" else 4)
    with torch.no_grad():
        ours = model.answer_loss(batch, base_pass(batch.slots))
        theirs = torch.stack([loss_alone(model.base, item) for item in items])
    assert float(theirs.std()) > 0.1  # rows differ, so that no two could be mixed up
    # Hugging Face normalizes in float32, and eager attention takes its softmax in it.
    assert torch.allclose(ours, theirs, atol=1e-6, rtol=0)


def test_every_plain_head_is_compared_here() -> None:
    assert {architecture for architecture, _ in BASES.values()} >= PLAIN_HEADS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_packed_experts_and_adapters_are_those_of_every_sample_alone(name: str) -> None:
    """The unpacked way, as generation goes: one row, Hugging Face's own attention and logits."""
    model = adapted(name)
    exact_norms(model.base)
    batch, factors = batch_of(ITEMS, SLOTS), trained_factors(model)
    ours = model.answer_loss(batch, stage3_pass(model, batch.slots))
    alone = []
    for item, slot in zip(ITEMS, SLOTS, strict=True):
        with model.attached(), model.running(stage3_pass(model, torch.tensor([slot]))):
            alone.append(loss_alone(model.base, item))
    theirs = torch.stack(alone)
    assert torch.allclose(ours, theirs, atol=1e-12)
    shares = torch.arange(1.0, 7.0, dtype=torch.float64)
    found = torch.autograd.grad(ours, factors, shares)
    expected = torch.autograd.grad(theirs, factors, shares)
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-11)
