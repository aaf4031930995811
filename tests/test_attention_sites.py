"""Private LoRAs on linears of attention: PEFT is the oracle, in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from proper_model.base.sites import find_sites
from proper_model.engine.memory_budget import memory_model
from proper_model.engine.trials import TrialSettings
from proper_model.errors import BaseModelError
from proper_model.kernels.ops import Backend
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.presets import Structure, UserRouting, preset
from tests.tiny import (
    batch_of,
    encoder,
    exact_norms,
    loss_alone,
    randomize,
    samples,
    tiny_base,
    trained_factors,
)

EIGHT = dataclasses.replace(preset("default"), rank=8, alpha=8.0)
ITEMS = samples(4, seed=1)
OWNERS = [0, 1, 1, 0]


def exact_base() -> Any:
    """A Llama with fewer keys than queries, in float64 throughout."""
    base = tiny_base(num_attention_heads=4, num_key_value_heads=2)
    exact_norms(base)
    return base


def attention_model(
    targets: Sequence[str], backend: Backend = Backend.FUSED, structure: Structure = EIGHT
) -> AdaptedModel:
    model = AdaptedModel(
        exact_base(),
        structure,
        generator=torch.Generator().manual_seed(0),
        backend=backend,
        targets=targets,
    ).double()
    model.lora = model.new_user_lora([7, 8]).double()
    randomize(model.lora.parameters(), seed=5)
    return model


def own_pass(slots: Tensor) -> Pass:
    return personal_pass(slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False)


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("targets", [("k_proj", "v_proj"), ("q_proj", "v_proj")])
def test_attention_adapters_equal_pefts_in_losses_logits_and_gradients(
    targets: tuple[str, str], backend: Backend
) -> None:
    model = attention_model(targets, backend)
    factors = trained_factors(model)
    batch = batch_of(ITEMS, OWNERS)
    losses = model.answer_loss(batch, own_pass(batch.slots))
    with torch.no_grad():
        logits = model.answer_logits(batch, own_pass(batch.slots))
    gradients = torch.autograd.grad(losses.sum(), factors)
    sites = len(model.sites)
    assert sites == 4
    assert not model.experts
    for user in (0, 1):
        peft: Any = get_peft_model(
            exact_base(),
            LoraConfig(r=8, lora_alpha=8, target_modules=list(targets), lora_dropout=0.0),
        ).double()
        theirs = []
        for number, site in enumerate(model.sites):
            layer = peft.base_model.model.get_submodule(site.path)
            layer.lora_A["default"].weight.data.copy_(model.lora.a[number][user])
            layer.lora_B["default"].weight.data.copy_(model.lora.b[number][user])
            theirs.append(layer)
        rows = [row for row, owner in enumerate(OWNERS) if owner == user]
        expected = torch.stack([loss_alone(peft, ITEMS[row]) for row in rows])
        assert torch.allclose(losses[rows], expected, atol=1e-12, rtol=0)
        for row in rows:
            item = ITEMS[row]
            tokens = torch.tensor([item.tokens])
            alone = peft(input_ids=tokens).logits[0, item.prompt_tokens - 1 : -1]
            own = logits[batch.answer_rows == row]
            assert torch.allclose(own, alone, atol=1e-12, rtol=0)
        weights = [layer.lora_A["default"].weight for layer in theirs]
        weights += [layer.lora_B["default"].weight for layer in theirs]
        for ours, their in zip(
            gradients, torch.autograd.grad(expected.sum(), weights), strict=True
        ):
            assert their.abs().max() > 1e-6
            assert torch.allclose(ours[user], their, atol=1e-12, rtol=0)


def test_a_gate_multiplies_what_passes_through_a_private_lora() -> None:
    model = attention_model(("q_proj", "v_proj"))
    batch = batch_of(ITEMS, OWNERS)
    half = own_pass(batch.slots)
    half.gate = lambda _, x, __: x.new_full((len(x), 1), 0.5)
    with torch.no_grad():
        gated = model.answer_loss(batch, half)
        for b in model.lora.b:
            b *= 0.5
        assert torch.allclose(gated, model.answer_loss(batch, own_pass(batch.slots)), atol=1e-12)


def test_a_base_without_the_named_linears_in_every_block_is_refused() -> None:
    base = tiny_base()
    assert {site.path.rpartition(".")[2] for site in find_sites(base, ["o_proj"])} == {"o_proj"}
    del base.model.layers[1].self_attn.o_proj
    with pytest.raises(BaseModelError, match="found 1 linears in 1 blocks|expected o_proj"):
        find_sites(base, ["o_proj", "qkv_proj"])


def test_memory_is_counted_for_adapters_without_experts() -> None:
    settings = TrialSettings(
        epochs=1,
        batch_size=2,
        dropout=0.0,
        weight_decay=0.0,
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        tokens_per_step=64,
    )
    found = memory_model(attention_model(("k_proj", "v_proj")), encoder(), ITEMS[0], settings)
    # Two blocks: A [8, 16] and B [8, 8] of k and of v; weights, gradient and two moments.
    assert found.slot_bytes == 4 * 4 * 2 * 2 * (8 * 16 + 8 * 8)
    assert found.token_bytes > 0
