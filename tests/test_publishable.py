"""What a device would refuse, or read otherwise, is refused before anything is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from proper_model.base.config import empty_model, text_config
from proper_model.base.model_types import MODEL_TYPES
from proper_model.checks import publishable
from proper_model.checks.publishable import check_config, check_folder, check_saved_tokenizer
from proper_model.errors import BaseModelError
from proper_model.text.tokenizer_check import check_tokenizer
from simulations.synthetic.tiny_base import word_tokenizer
from tests.architectures import config_of
from tests.test_nested_base import TEXT, VISION, nested_config

SIZES = {key: value for key, value in TEXT.items() if key != "sliding_window_pattern"}


def vision_of(kind: str, text: str) -> Any:
    vision = {**VISION, "model_type": "pixtral"} if kind == "mistral3" else VISION
    return hf.AutoConfig.for_model(
        kind, text_config={**SIZES, "model_type": text}, vision_config=vision
    )


def check(config: Any, raw: dict[str, Any] | None = None) -> None:
    check_config(config, empty_model(config), None if raw is None else json.dumps(raw).encode())


@pytest.fixture
def referring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every base is one that releases refer to."""
    monkeypatch.setattr(publishable, "LARGEST_EMBEDDED_PARAMETERS", 0)


def test_a_language_model_out_of_any_checkpoint_may_be_embedded() -> None:
    check(vision_of("mistral3", "mistral"))
    check(vision_of("aya_vision", "cohere2"))
    check(nested_config())
    with pytest.raises(BaseModelError, match="type 'diffllama', and devices take no release over"):
        check(hf.DiffLlamaConfig(**SIZES))


@pytest.mark.usefixtures("referring")
def test_a_checkpoint_that_devices_do_not_know_is_no_base_to_refer_to() -> None:
    check(nested_config())
    check(nested_config().get_text_config())
    for kind, text in (("mistral3", "mistral"), ("aya_vision", "cohere2")):
        with pytest.raises(BaseModelError, match=f"type '{kind}', and devices .* refers to it"):
            check(vision_of(kind, text))


@pytest.mark.usefixtures("referring")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.M"}}, "auto_map asks for code"),
        ({"use_bidirectional_attention": True}, None),  # no such key in this type
        ({"quantization_config": {"quant_method": "gptq"}}, "packed already"),
        ({"rms_norm_eps": 0.5}, "another configuration: rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "rope_parameters"),
        ({"use_cache": False, "unsloth_version": "1", "architectures": None}, None),
    ],
)
def test_the_file_that_is_referred_to_says_what_is_trained(
    change: dict[str, Any], says: str | None
) -> None:
    config = hf.LlamaConfig(**SIZES)
    raw = {**json.loads(config.to_json_string()), **change}
    if says is None:
        check(config, raw)
        return
    with pytest.raises(BaseModelError, match=says):
        check(config, raw)


def test_what_says_nothing_of_the_model_is_no_matter() -> None:
    check(hf.LlamaConfig(**SIZES, use_cache=False, unsloth_version="1", auto_map={"a": "b.C"}))
    for rope in ({"rope_type": "default", "rope_theta": 7.0}, None):
        check(hf.LlamaConfig(**SIZES, rope_parameters=rope))
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "rope_theta": 5e5,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    check(hf.LlamaConfig(**SIZES, rope_parameters=llama3))


def test_files_that_devices_would_not_read(tmp_path: Path, referring: None) -> None:
    model = torch.nn.Linear(1, 1)
    for name in ("config.json", "model-00001-of-00001.safetensors", "tokenizer.json", "README.md"):
        (tmp_path / name).touch()
    check_folder(tmp_path, model)
    (tmp_path / "consolidated.safetensors").touch()
    check_folder(tmp_path, model)
    for name, says in (
        ("model.fp16.safetensors", r"model\.fp16\.safetensors, which some program would read"),
        ("adapter_config.json", r"adapter_config\.json"),
        ("model.safetensors", "both whole and in shards"),
        ("model-00001-of-00002.safetensors", "shard"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(BaseModelError, match=says) as caught:
            check_folder(tmp_path, model)
        assert caught.value.hint
        (tmp_path / name).unlink()


def test_a_small_base_is_saved_anew_whatever_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "odd.safetensors").touch()
    check_folder(tmp_path, torch.nn.Linear(1, 1))


def test_a_control_token_without_a_row_is_no_harm_on_either_side() -> None:
    """As Gemma 3's token for pictures in its smallest checkpoint; no text makes it."""
    tokenizer = word_tokenizer(["a", "b"])
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert len(tokenizer) == rows + 1
    check_tokenizer("base", tokenizer, rows)
    check_saved_tokenizer(tokenizer, rows)
    tokenizer.add_tokens(["c"])
    for refuse in (lambda: check_tokenizer("base", tokenizer, rows + 1),
                   lambda: check_saved_tokenizer(tokenizer, rows + 1)):  # fmt: skip
        with pytest.raises(BaseModelError, match="no row among the model's"):
            refuse()


def test_a_tokenizer_that_no_file_describes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = word_tokenizer(["a", "b"])
    plain = type(tokenizer).save_pretrained

    def forgetful(self: Any, folder: Path, **options: Any) -> Any:
        files = plain(self, folder, **options)
        (Path(folder) / "tokenizer.json").unlink()
        return files

    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save_pretrained", forgetful)
        with pytest.raises(BaseModelError, match=r"tokenizer\.json: missing"):
            check_saved_tokenizer(tokenizer, len(tokenizer))
    check_saved_tokenizer(tokenizer, len(tokenizer))


def test_a_tokenizer_that_is_another_one_when_it_is_loaded() -> None:
    tokenizer = word_tokenizer(["a", "b"])

    class Backwards(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, text: str, **options: Any) -> Any:
            return super().__call__(text[::-1] + "a", **options)

    tokenizer.__class__ = Backwards
    with pytest.raises(BaseModelError, match="other tokens of the same text"):
        check_saved_tokenizer(tokenizer, len(tokenizer))


def test_the_table_of_docs_is_of_types_that_devices_know(repository: Path) -> None:
    lines = (repository / "docs" / "models.md").read_text().splitlines()
    rows = [re.fullmatch(r"\| ([^|]+) \| works \| ?.*\|", line) for line in lines]
    types = {text_config(config_of(row[1])).model_type for row in rows if row is not None}
    assert types == MODEL_TYPES
