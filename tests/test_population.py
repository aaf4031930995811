"""Stage 1 is PEFT's own LoRA: what we ship loads in PeftModel and gives the merged base's logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from proper_model.base.population_lora import (
    attach_population,
    merge_population,
    population_config,
    population_state,
)
from proper_model.errors import BaseModelError
from proper_model.settings.profile import ATTENTION_TARGETS, PopulationSettings
from tests.tiny import randomize, tiny_base

SETTINGS = PopulationSettings(targets=ATTENTION_TARGETS, rank=4, alpha=8.0)
TOKENS = torch.tensor([[3, 9, 27, 5]])


def trained_state() -> dict[str, torch.Tensor]:
    model = attach_population(tiny_base(dtype=torch.float32), SETTINGS, seed=1)
    randomize((p for n, p in model.named_parameters() if "lora_B" in n), seed=4)
    return population_state(model)


def test_merged_base_equals_peft_loading_what_we_ship(tmp_path: Path) -> None:
    state = trained_state()
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(population_config(SETTINGS, "any"))
    base = tiny_base(dtype=torch.float32)
    merged = merge_population(tiny_base(dtype=torch.float32), SETTINGS, state)
    with torch.no_grad():
        plain = base(TOKENS).logits
        theirs = PeftModel.from_pretrained(base, tmp_path)(TOKENS).logits
        ours = merged(TOKENS).logits
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, plain, atol=1e-3)
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_the_start_follows_the_seed() -> None:
    first, again, other = (
        population_state(attach_population(tiny_base(dtype=torch.float32), SETTINGS, seed=s))
        for s in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_adapter_of_another_base_is_refused() -> None:
    state = {name.replace("layers.1", "layers.7"): t for name, t in trained_state().items()}
    with pytest.raises(BaseModelError, match="no place"):
        merge_population(tiny_base(dtype=torch.float32), SETTINGS, state)


def test_targets_the_base_lacks_are_an_error() -> None:
    settings = PopulationSettings(targets=("q_proj",))
    base = tiny_base(dtype=torch.float32)
    for block in base.model.layers:
        block.self_attn.query = block.self_attn.q_proj
        del block.self_attn.q_proj
    with pytest.raises(BaseModelError, match="q_proj"):
        attach_population(base, settings, seed=0)
