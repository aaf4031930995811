"""An exported folder is read alike by transformers 4 and 5: the fields of both, the same values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from proper_model.base.portable_config import (
    make_portable,
    portable_config,
    portable_tokenizer_config,
)
from tests.exports import merged_of, noisy_release, user_tensors
from tests.tiny import tiny_base

TRANSFORMERS_4 = os.environ.get("PROPER_TRANSFORMERS_4")
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 16.0}
LONG = {
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "longrope": LONG,
}
# By hand, from transformers 4.57's modeling_rope_utils: theta stands apart, the rest under
# `rope_scaling`, none for the default. LongRoPE's factor there is 64 / 32 = 2, whatever `factor`
# says, so what follows from 4 is written out: sqrt(1 + ln 4 / ln 32) = sqrt(1.4).
OF_4: dict[str, dict[str, Any]] = {
    name: {"rope_theta": 5000.0, "rope_scaling": {"rope_type": name, **rope}}
    for name, rope in ROPES.items()
}
del OF_4["default"]["rope_scaling"]
OF_4["longrope"]["original_max_position_embeddings"] = 32
NAMES_OF_4 = (
    "rope_theta",
    "rope_scaling",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_local_base_freq",
)


def written(folder: Path, rope_type: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json of a tiny base as transformers 5 writes it, and after `make_portable`."""
    rope = {"rope_type": rope_type, "rope_theta": 5000.0, **ROPES[rope_type]}
    tiny_base(dtype=torch.float32, rope_parameters=rope).config.save_pretrained(folder)
    before = json.loads((folder / "config.json").read_text())
    make_portable(folder, dtype=torch.bfloat16)
    return before, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("rope_type", sorted(ROPES))
def test_fields_of_both_versions_stand_side_by_side(tmp_path: Path, rope_type: str) -> None:
    before, after = written(tmp_path, rope_type)
    assert not {"rope_theta", "rope_scaling", "torch_dtype"} & set(before)
    old = {name: after.pop(name) for name in NAMES_OF_4 if name in after}
    if rope_type == "longrope":
        assert old["rope_scaling"].pop("attention_factor") == pytest.approx(1.4**0.5, rel=1e-15)
    assert old == OF_4[rope_type]
    assert (after.pop("torch_dtype"), after.pop("dtype")) == ("bfloat16", "bfloat16")
    before.pop("dtype", None)
    assert after == before, "what transformers 5 reads is there as it was"


@pytest.mark.parametrize("rope_type", sorted(ROPES))
def test_transformers_5_reads_the_same_configuration_as_before(
    tmp_path: Path, rope_type: str
) -> None:
    before, _ = written(tmp_path, rope_type)
    read = AutoConfig.from_pretrained(tmp_path).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(before))
    plain = AutoConfig.from_pretrained(tmp_path).to_dict()
    read.pop("original_max_position_embeddings", None)
    read.pop("dtype"), plain.pop("dtype")
    if rope_type == "longrope":
        attention = read["rope_parameters"].pop("attention_factor")
        assert attention == pytest.approx(1.4**0.5)
    assert read == plain


def test_layers_with_a_rope_of_their_own() -> None:
    """Gemma 3: a global and a local base frequency; a scaling of global layers only."""
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    full = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    text = {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}
    both = portable_config({"dtype": "float32", "text_config": text})
    assert both["torch_dtype"] == "float32"
    assert both["text_config"] == {
        **text,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    part = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    assert portable_config({"rope_parameters": part})["partial_rotary_factor"] == 0.25
    assert portable_config({"model_type": "gpt2"}) == {"model_type": "gpt2"}


def test_the_tokenizer_has_a_class_and_special_tokens_that_both_know() -> None:
    five = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<tag>"],
        "eos_token": "</s>",
    }
    assert portable_tokenizer_config(five) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<tag>"],
        "model_input_names": ["input_ids", "attention_mask"],
        "eos_token": "</s>",
    }
    named = {"tokenizer_class": "GemmaTokenizer", "extra_special_tokens": {"image": "<i>"}}
    assert portable_tokenizer_config(named) == named, "read by both as it is"


def exported(folder: Path, rope_type: str) -> tuple[Any, Any]:
    """A merged export with a special token and a chat template; transformers 5's reading of it."""
    rope = {"rope_type": rope_type, "rope_theta": 5000.0, **ROPES[rope_type]}
    release = noisy_release(base=tiny_base(dtype=torch.float32, rope_parameters=rope))
    release.tokenizer.add_special_tokens({"additional_special_tokens": ["<tag>"]})
    release.tokenizer.chat_template = "{{ messages[0].content }}"
    merged_of(folder, release, user_tensors(release), dtype=torch.bfloat16)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_an_export_keeps_tokenizer_and_chat_template(tmp_path: Path) -> None:
    model, tokenizer = exported(tmp_path / "out", "llama3")
    assert model.dtype is torch.bfloat16
    assert tokenizer("w3 <tag> w5")["input_ids"] == [1, 7, 64, 9]
    assert "<tag>" in tokenizer.all_special_tokens
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    assert tokenizer.padding_side == "left"
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (1, 2)


@pytest.mark.skipif(
    TRANSFORMERS_4 is None,
    reason="PROPER_TRANSFORMERS_4 names no folder with transformers 4, its tokenizers and "
    "huggingface-hub (pip install --target FOLDER --no-deps ...)",
)
def test_transformers_4_computes_the_same(tmp_path: Path) -> None:
    ids = [2 + (7 * i) % 60 for i in range(48)]  # past the length that rope was trained for
    loaded = {name: exported(tmp_path / name, name) for name in sorted(ROPES)}
    child = Path(__file__).with_name("transformers_4_child.py")
    folders = [str(tmp_path / name) for name in loaded]
    command = [sys.executable, str(child), str(TRANSFORMERS_4), json.dumps(ids), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for four, (model, tokenizer) in zip(
        json.loads(done.stdout.splitlines()[-1]), loaded.values(), strict=True
    ):
        with torch.no_grad():
            ours = model(input_ids=torch.tensor([ids])).logits[0].float()
        assert torch.allclose(torch.tensor(four["logits"]), ours, atol=1e-5)
        assert four["dtype"] == "torch.bfloat16"
        assert four["tokens"] == tokenizer("w3 <tag> w5")["input_ids"]
        assert set(four["special"]) == set(tokenizer.all_special_tokens)
        assert (four["chat"], four["padding"]) == (tokenizer.chat_template, "left")
        assert four["generated"] > 3
