"""LoRA: PEFT is the oracle; stacked users are checked one at a time."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.model.user_lora import UserLora, init_factor_a
from proper_model.settings.presets import UserRouting, preset
from tests.tiny import batch_of, loss_alone, randomize, samples, tiny_base


def test_start_of_a_matches_pefts_distribution() -> None:
    a = init_factor_a((200, 64), torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(64, 32, bias=False)
    model = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=200, target_modules=["0"]))
    theirs = next(p for n, p in model.named_parameters() if "lora_A" in n)
    assert a.abs().max() <= 1 / math.sqrt(64)
    assert a.std().item() == pytest.approx(theirs.std().item(), rel=0.03)
    assert abs(a.mean().item()) < 0.003


def test_user_lora_equals_peft_on_every_ffn_linear() -> None:
    structure = preset("default")
    model = AdaptedModel(tiny_base(), structure, generator=torch.Generator().manual_seed(0))
    model.double()
    model.lora = model.new_user_lora([7]).double()
    randomize(model.lora.parameters(), seed=5)
    items = samples(3, seed=1)
    assert len({len(item.tokens) for item in items}) > 1
    batch = batch_of(items, [0, 0, 0])
    now = Pass(
        slots=batch.slots, experts=False, lora=True, embeddings=None, routing=UserRouting.USER_AWARE
    )
    with torch.no_grad():
        ours = model.answer_loss(batch, now)
    peft = get_peft_model(
        tiny_base(),
        LoraConfig(
            r=structure.rank,
            lora_alpha=structure.alpha,
            target_modules=["gate_proj", "up_proj", "down_proj"],
            lora_dropout=0.0,
        ),
    ).double()
    peft.eval()
    with torch.no_grad():
        for number, site in enumerate(model.sites):
            layer = peft.base_model.model.get_submodule(site.path)
            layer.lora_A["default"].weight.copy_(model.lora.a[number][0])
            layer.lora_B["default"].weight.copy_(model.lora.b[number][0])
        theirs = torch.stack([loss_alone(peft, item) for item in items])
    assert torch.allclose(ours, theirs, atol=1e-6, rtol=0)


def test_a_users_start_depends_on_its_seed_not_on_its_slot() -> None:
    widths = [(8, 6), (6, 8)]
    first = UserLora(widths, 2, 4, [10, 20])
    swapped = UserLora(widths, 2, 4, [20, 10])
    for ours, theirs in zip(first.a, swapped.a, strict=True):
        assert torch.equal(ours[0], theirs[1])
        assert not torch.equal(ours[0], ours[1])
    assert all(not b.any() for b in first.b)
