"""The base check's verdict on an architecture is the truth: none passes and then fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from proper_model.base.config import empty_model
from proper_model.checks import trial
from proper_model.checks.miniature import block_kinds, miniature
from proper_model.checks.trial import check_rows
from proper_model.errors import BaseModelError
from tests.architectures import VARIANTS, check_kind, config_of, faults, kinds, verdict

# One of every way in which a row may not stay apart or a step may fail.
REFUSED = {
    "falcon_h1": r"change each other's loss by .*'FalconH1Mixer' \('model\.layers\.0\.mamba'\)",
    "qwen3_moe, all layers dense": "an exported adapter, loaded by PEFT, is another model",
    "qwen3_5_text": r"'Qwen3_5GatedDeltaNet' \('model\.layers\.0\.linear_attn'\) carries what it read",
    "recurrent_gemma": r"RecurrentGemmaRglru.* carries what it read in one row into the next",
    "olmo_hybrid": "carries what it read in one row",
    "stablelm": "'StableLmAttention' is not told which token belongs to which row",
    "llama, dynamic rope, rows may reach beyond": "positions or masks of a row depend on the whole",
    "llama, longrope, rows may reach beyond": "positions or masks of a row depend on the whole",
    "granite_swa": "attends with a mask or sinks of its own",
    "gpt2": "found 0 feed-forward linears",
    "gpt_oss": "mixture of experts",
}
WORKING = ["llama, yarn", "llama, dynamic rope, rows stay within"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_wrong_is_refused_by_name(kind: str) -> None:
    with pytest.raises(BaseModelError, match=REFUSED[kind]) as caught:
        check_kind(kind)
    assert caught.value.hint


@pytest.mark.parametrize("kind", WORKING)
def test_what_works_passes(kind: str) -> None:
    check_kind(kind)


def test_what_passes_is_right() -> None:
    kind = "qwen2, windows from layer 3 on"
    check_kind(kind)
    assert faults(kind, layers=4) == []


def test_a_leak_is_measured_as_one() -> None:
    """The measure of the truth sees what the check refuses."""
    said = faults("llama, dynamic rope, rows may reach beyond", layers=2)
    assert any("packed" in fault for fault in said)


@pytest.mark.full
@pytest.mark.parametrize("kind", list(kinds()))
def test_no_architecture_passes_and_then_fails(kind: str) -> None:
    if verdict(kind) is None:
        assert faults(kind) == []


def test_the_table_of_docs_is_of_these_kinds_and_verdicts(repository: Path) -> None:
    lines = (repository / "docs" / "models.md").read_text().splitlines()
    rows = [re.fullmatch(r"\| ([^|]+) \| (works|refused) \| .* ?\|", line) for line in lines]
    listed = {row[1]: row[2] for row in rows if row is not None}
    assert set(VARIANTS) <= set(listed)
    assert all(listed[kind] == "refused" for kind in REFUSED)
    assert all(listed[kind] == "works" for kind in WORKING)


def test_a_miniature_has_a_block_of_every_kind() -> None:
    config = AutoConfig.for_model("smollm3")  # every fourth layer has no rotary positions
    whole = empty_model(config)
    small = miniature(config, whole, longest=1, attention="eager")
    assert block_kinds(small) == block_kinds(whole)[:4]
    assert len(set(block_kinds(small))) == 2
    assert sum(p.numel() for p in small.parameters()) < 5_000_000


def test_a_base_that_is_loaded_is_looked_at_as_well() -> None:
    """A release may have been made where the check was another."""
    check_rows(config_of("llama"))
    with pytest.raises(BaseModelError, match="carries what it read"):
        check_rows(config_of("recurrent_gemma"))


def test_the_trial_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    check_kind("llama")
    with pytest.raises(BaseModelError):
        check_kind("stablelm")
    monkeypatch.setattr(trial, "miniature", None)
    check_kind("llama")
    with pytest.raises(BaseModelError, match="StableLmAttention"):
        check_kind("stablelm")


def test_the_trial_is_made_once_wherever_the_configuration_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "one", tmp_path / "other"):
        config_of("llama").save_pretrained(folder)
        check_rows(AutoConfig.from_pretrained(folder))
        monkeypatch.setattr(trial, "miniature", None)


def broken(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, value: Any) -> str:
    """What the check says of a llama in whose code one thing is otherwise."""
    monkeypatch.setattr(target, name, value)
    trial._refusal.cache_clear()
    with pytest.raises(BaseModelError) as caught:
        check_kind("llama")
    trial._refusal.cache_clear()
    return caught.value.message


def test_a_base_that_reads_its_neighbours_while_it_generates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks that read the batch: a row alone and packed gives the same, a row of several another."""
    block = type(AutoModelForCausalLM.from_config(tiny_llama()).model.layers[0])
    plain = block.forward

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return plain(self, x + x.mean(0, keepdim=True) * (len(x) > 1), *args, **kwargs)

    said = broken(monkeypatch, block, "forward", forward)
    assert "answers generated together differ from each generated by itself" in said


def test_a_base_that_keeps_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(AutoModelForCausalLM.from_config(tiny_llama()))
    plain = kind.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(self, *args, **kwargs)
        output.past_key_values = None
        return output

    said = broken(monkeypatch, kind, "forward", forward)
    assert "generat" in said


def test_an_adapter_that_peft_loads_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    plain = peft.PeftModel.from_pretrained

    def forgetful(base: Any, folder: str, **options: Any) -> Any:
        model = plain(base, folder, **options)
        for name, parameter in model.named_parameters():
            if "lora_B" in name and "down_proj" in name:
                parameter.data.zero_()
        return model

    said = broken(monkeypatch, peft.PeftModel, "from_pretrained", staticmethod(forgetful))
    assert "an exported adapter, loaded by PEFT, is another model" in said


def tiny_llama() -> Any:
    return AutoConfig.for_model(
        "llama", hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
