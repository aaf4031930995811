"""The adapted model: attach and detach, what each stage reproduces, parameter counts, folding."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from proper_model.answering.routing_reader import routing_weights
from proper_model.base.loading import fingerprint
from proper_model.base.sites import find_sites
from proper_model.errors import BaseModelError, ConfigError
from proper_model.export.user_fold import fold_user, mixture
from proper_model.model.adapted_model import AdaptedLinear, AdaptedModel
from proper_model.model.passes import Pass, base_pass, group_pass
from proper_model.settings.presets import PRESETS, RouterText, Structure, preset
from simulations.reporting.parameters import BaseSizes, count_parameters
from tests.tiny import (
    ARCHITECTURES,
    adapted,
    batch_of,
    embeddings_of,
    samples,
    stage3_pass,
    tiny_base,
)

BATCH = batch_of(samples(3, seed=1), [0, 2, 1])


def losses(model: AdaptedModel, now: Pass) -> torch.Tensor:
    with torch.no_grad():
        return model.answer_loss(BATCH, now)


def stage3(model: AdaptedModel, embeddings: torch.Tensor) -> Pass:
    return stage3_pass(model, BATCH.slots, embeddings)


def plain(model: AdaptedModel) -> torch.Tensor:
    return losses(model, base_pass(BATCH.slots))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attaches_to_dense_bases_and_detaches_bit_identically(architecture: str) -> None:
    model = adapted(architecture=architecture)
    before = fingerprint(model.base)
    embeddings = embeddings_of(model, 3)
    with model.attached():
        assert isinstance(model.base.get_submodule(model.sites[0].path), AdaptedLinear)
    untouched = plain(model)
    changed = losses(model, stage3(model, embeddings))
    assert not torch.allclose(untouched, changed)
    assert fingerprint(model.base) == before
    assert not any(isinstance(m, AdaptedLinear) for m in model.base.modules())
    assert torch.equal(plain(model), untouched)


def test_refuses_fused_and_mixture_bases_with_a_clear_error() -> None:
    import transformers as hf

    sizes: dict[str, Any] = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
    }
    with pytest.raises(BaseModelError, match="gate_up_proj"):
        find_sites(hf.Phi3ForCausalLM(hf.Phi3Config(**sizes)))
    with pytest.raises(BaseModelError, match="mixture of experts"):
        find_sites(hf.MixtralForCausalLM(hf.MixtralConfig(**sizes, num_local_experts=2)))
    gpt2 = hf.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(BaseModelError, match="expected gate_proj"):
        find_sites(hf.GPT2LMHeadModel(gpt2))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_zero_expert_b_reproduces_the_base(name: str) -> None:
    model = adapted(name)
    for expert in model.experts:
        expert.b.zero_()
    assert torch.allclose(
        losses(model, group_pass(BATCH.slots, embeddings_of(model, 3))), plain(model), atol=1e-12
    )


@pytest.mark.parametrize("name", ["default", "device"])
def test_zero_user_b_reproduces_stage_2(name: str) -> None:
    model = adapted(name)
    for b in model.lora.b:
        b.data.zero_()
    embeddings = embeddings_of(model, 3)
    assert torch.allclose(
        losses(model, stage3(model, embeddings)),
        losses(model, group_pass(BATCH.slots, embeddings)),
        atol=1e-12,
    )


def test_paper_preset_with_zero_user_b_is_the_uniform_mixture() -> None:
    """Eq. 12 alone has zero logits at B_u = 0: the model starts from an average of experts."""
    model = adapted("paper")
    for b in model.lora.b:
        b.data.zero_()
    embeddings = embeddings_of(model, 3)
    started = losses(model, stage3(model, embeddings))
    for router in model.routers:
        router.text.zero_()
        router.user.zero_()
    uniform = losses(model, group_pass(BATCH.slots, embeddings))
    assert torch.allclose(started, uniform, atol=1e-12)


def test_whose_row_it_is_matters() -> None:
    model = adapted()
    embeddings = embeddings_of(model, 3)
    ours = losses(model, stage3(model, embeddings))
    now = stage3(model, embeddings)
    now.slots = torch.tensor([2, 0, 1])
    swapped = losses(model, now)
    assert not torch.allclose(ours[:2], swapped[:2])
    assert torch.allclose(ours[2], swapped[2], atol=1e-12)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_routing_weights_can_be_read(name: str) -> None:
    model = adapted(name)
    embeddings = embeddings_of(model, 3)
    weights = routing_weights(model, BATCH, stage3(model, embeddings))
    assert weights.shape == (len(model.sites), 3, 5)
    assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]))
    item = samples(3, seed=1)[0]
    alone = batch_of((item,), [int(BATCH.slots[0])])
    now = stage3(model, embeddings)
    now.slots = alone.slots
    assert torch.allclose(routing_weights(model, alone, now)[:, 0], weights[:, 0], atol=1e-5)


POOLED = dataclasses.replace(preset("default"), router_text=RouterText.POOLED, name="pooled")


def test_a_batch_leaves_its_callers_pass_as_it_was() -> None:
    model = adapted(POOLED)
    now = stage3(model, embeddings_of(model, 3))
    before = dataclasses.replace(now, pooled={})
    losses(model, now)
    routing_weights(model, BATCH, now)
    assert vars(now) == vars(before)


def test_pooled_router_never_sees_the_answer() -> None:
    model = adapted(POOLED)
    embeddings = embeddings_of(model, 3)

    def routed(batch: Any) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        now = group_pass(batch.slots, embeddings)
        now.observer = lambda site, weights, rows, others: seen.append(weights)
        with torch.no_grad():
            model.answer_loss(batch, now)
        return torch.stack(seen)

    item = samples(1, seed=4)[0]
    other_answer = dataclasses.replace(item, tokens=(*item.tokens[: item.prompt_tokens], 9, 8, 1))
    same_length = dataclasses.replace(
        item, tokens=(*item.tokens[: item.prompt_tokens], *[5] * (item.answer_tokens - 1), 1)
    )
    assert torch.allclose(routed(batch_of((item,), [0])), routed(batch_of((same_length,), [0])))
    assert torch.allclose(
        routed(batch_of((item,), [0])), routed(batch_of((other_answer,), [0])), atol=1e-6
    )


SIZES = {
    "llama-2-7b": (BaseSizes(4096, 11008, 32), 5_799_936, 4_177_920),
    "llama-3.2-1b": (BaseSizes(2048, 8192, 16), 1_966_080, 1_474_560),
    "qwen2.5-0.5b": (BaseSizes(896, 4864, 24), 1_658_880, 1_274_880),
    "smollm2-135m": (BaseSizes(576, 1536, 30), 760_320, 547_200),
}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_counts_match_the_papers_shapes(name: str) -> None:
    sizes, user, router = SIZES[name]
    counts = count_parameters(sizes, preset("default"))
    assert (counts.user_lora, counts.lora_routers) == (user, router)


def test_counts_of_the_papers_other_figures() -> None:
    sizes = SIZES["llama-2-7b"][0]
    five = count_parameters(sizes, preset("default"))
    assert five.experts == 28_999_680
    assert five.text_routers == 3_072_000
    assert 100 * five.user_lora == 579_993_600
    for experts, expected in ((2, 11_599_872), (8, 46_399_488)):
        structure = dataclasses.replace(preset("default"), experts=experts)
        assert count_parameters(sizes, structure).experts == expected


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_counts_equal_a_built_model(name: str) -> None:
    users = 3
    model = adapted(name, users=users)
    counts = count_parameters(BaseSizes(16, 24, 2), model.structure)
    assert sum(p.numel() for p in model.lora.parameters()) == users * counts.user_lora
    assert sum(p.numel() for p in model.experts.parameters()) == counts.experts
    assert embeddings_of(model, users).numel() == users * counts.user_embedding
    shared = sum(p.numel() for p in model.parameters()) - users * counts.user_lora
    assert shared == (
        counts.experts + counts.text_routers + counts.user_routers + counts.lora_routers
    )


def test_device_preset_folds_exactly() -> None:
    model = adapted("device")
    embeddings = embeddings_of(model, 3)
    expected = losses(model, stage3(model, embeddings))
    for row, item in enumerate(samples(3, seed=1)):
        slot = int(BATCH.slots[row])
        base = tiny_base()
        for path, (a, b) in fold_user(model, embeddings[slot], slot).items():
            linear = base.get_submodule(path)
            linear.weight.data += model.structure.scale * b @ a
        batch = batch_of((item,), [0])
        fresh = AdaptedModel(base, model.structure, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            folded = fresh.answer_loss(batch, base_pass(batch.slots))[0]
        assert folded.item() == pytest.approx(expected[row].item(), abs=1e-6)


def test_folding_is_refused_where_routing_reads_tokens() -> None:
    model = adapted("default")
    with pytest.raises(ConfigError, match="routes by token"):
        mixture(model, embeddings_of(model, 1)[0])


def test_one_expert_with_any_router_is_plain_lora() -> None:
    structure: Structure = dataclasses.replace(preset("default"), experts=1, name="one")
    model = adapted(structure)
    first = losses(model, group_pass(BATCH.slots, embeddings_of(model, 3)))
    second = losses(model, group_pass(BATCH.slots, embeddings_of(model, 3, seed=8)))
    assert torch.allclose(first, second, atol=1e-12)
