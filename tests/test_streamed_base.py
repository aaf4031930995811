"""A base loaded a tensor at a time is the one transformers loads, and its bytes are as counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from proper_model.base.folder import weight_files
from proper_model.base.loading import Population, fingerprint
from proper_model.base.population_lora import attach_population, merge_population, population_state
from proper_model.base.quantized import import_library, quantize_base
from proper_model.base.sizes import BaseShape, read_shape
from proper_model.checks import outside_base
from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError
from proper_model.settings.profile import BaseWeights, PopulationSettings
from tests.tiny import randomize, tiny_base, words

SETTINGS = PopulationSettings(rank=2, alpha=4.0)
CASES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen2", {}),  # biases
    ("qwen3", {}),
    ("mistral", {}),
    ("gemma", {}),
    ("gemma2", {}),
    ("smollm3", {}),
]
needs_packing = pytest.mark.skipif(import_library() is None, reason="bitsandbytes is not installed")
WEIGHTS = [
    BaseWeights.FULL,
    pytest.param(BaseWeights.EIGHT_BIT, marks=needs_packing),
    pytest.param(BaseWeights.FOUR_BIT, marks=needs_packing),
]


def saved(
    folder: Path, architecture: str = "llama", stored: torch.dtype = torch.float32, **options: Any
) -> str:
    tiny_base(architecture, dtype=stored, **options).save_pretrained(folder)
    words().save_pretrained(folder)
    return str(folder)


def population_of(base: Any) -> dict[str, torch.Tensor]:
    model = attach_population(base, SETTINGS, seed=1)
    randomize((p for n, p in model.named_parameters() if "lora_" in n), seed=4)
    state = population_state(model)
    model.unload()
    return state


@pytest.mark.parametrize(("architecture", "options"), CASES)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_it_is_the_base_that_transformers_loads(
    architecture: str, options: dict[str, Any], stored: torch.dtype, tmp_path: Path
) -> None:
    name = saved(tmp_path, architecture, stored, **options)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        ours, _ = load_base(name, dtype=dtype)
        theirs = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).eval()
        assert fingerprint(ours) == fingerprint(theirs)
        buffers = dict(theirs.named_buffers())
        assert buffers.keys() == dict(ours.named_buffers()).keys()
        for path, buffer in ours.named_buffers():
            assert torch.equal(buffer, buffers[path]), path
        ends = (ours.get_input_embeddings().weight, ours.get_output_embeddings().weight)
        assert (ends[0] is ends[1]) == ours.config.tie_word_embeddings
        assert not ours.training
    tokens = torch.arange(2, 12)[None]
    ours, _ = load_base(name)
    theirs = AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("architecture", "options"), CASES[:3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_and_packed_on_the_way_it_is_what_it_was_afterwards(
    architecture: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    weights: BaseWeights,
    tmp_path: Path,
) -> None:
    name = saved(tmp_path, architecture, torch.bfloat16, **options)
    state = population_of(tiny_base(architecture, dtype=torch.float32, **options))
    after = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    after = quantize_base(merge_population(after, SETTINGS, state).to(dtype), weights)
    ours, _ = load_base(name, dtype=dtype, population=Population(SETTINGS, state), weights=weights)
    assert fingerprint(ours) == fingerprint(after)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("architecture", "options"), CASES)
def test_the_bytes_of_a_held_base_are_those_predicted(
    architecture: str, options: dict[str, Any], weights: BaseWeights, tmp_path: Path
) -> None:
    """The file is bfloat16, computed is in float32: its size on disk says nothing."""
    name = saved(tmp_path, architecture, torch.bfloat16, **options)
    shape = read_shape(weight_files(name, tmp_path))
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = load_base(name, dtype=dtype, weights=weights)
        held = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in model.state_dict(keep_vars=True).values()
        }
        assert shape.held_bytes(weights, dtype.itemsize) == sum(held.values())
    assert shape.numbers == sum(p.numel() for p in tiny_base(architecture, **options).parameters())


def test_numbers_by_hand() -> None:
    """Two linears of 6 x 64 and an embedding of 10 x 64; 4 bits: 192 bytes and 6 magnitudes each."""
    shapes = {
        "model.embed_tokens.weight": (10, 64),
        "model.layers.0.mlp.up_proj.weight": (6, 64),
        "model.layers.1.mlp.up_proj.weight": (6, 64),
        "model.layers.0.input_layernorm.weight": (64,),
    }
    shape = BaseShape.of(shapes)
    assert shape == BaseShape((384, 384), 704)
    assert shape.held_bytes(BaseWeights.FULL, 4) == 4 * (768 + 704)
    assert shape.held_bytes(BaseWeights.FULL, 2) == 2 * (768 + 704)
    assert shape.held_bytes(BaseWeights.EIGHT_BIT, 4) == 2 * (384 + 24) + 4 * 704
    assert shape.held_bytes(BaseWeights.FOUR_BIT, 4) == 2 * (192 + 24) + 4 * 704
    assert shape.product_bytes(BaseWeights.FOUR_BIT, 4) == 4 * 384
    assert shape.product_bytes(BaseWeights.FULL, 4) == 0
    mapped = BaseShape.of(shapes, mapped_bytes=1000)
    assert mapped.loading_bytes(BaseWeights.FOUR_BIT, 4) == 4 * (768 + 704) + 1000


def test_shards_are_read_one_by_one(tmp_path: Path) -> None:
    tiny_base(dtype=torch.float32).save_pretrained(tmp_path, max_shard_size="8KB")
    words().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert fingerprint(load_base(str(tmp_path))[0]) == fingerprint(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    )


def test_names_of_another_making_are_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of the model without its head names no `model.`; loading maps its names."""
    name = saved(tmp_path)
    expected = fingerprint(load_base(name)[0])
    path = tmp_path / "model.safetensors"
    renamed = {key.removeprefix("model."): t for key, t in load_file(path).items()}
    save_file(renamed, path, {"format": "pt"})
    mapped = []
    real = outside_base.mapped
    monkeypatch.setattr(outside_base, "mapped", lambda *a: mapped.append(1) or real(*a))
    assert fingerprint(load_base(name)[0]) == expected
    assert mapped
    shape = read_shape([path])
    assert shape.mapped_bytes == path.stat().st_size
    full = shape.held_bytes(BaseWeights.FULL, 4)
    assert shape.loading_bytes(BaseWeights.FOUR_BIT, 4) == full + path.stat().st_size


def test_a_population_lora_of_another_base_is_refused(tmp_path: Path) -> None:
    name = saved(tmp_path)
    state = population_of(tiny_base(dtype=torch.float32, num_hidden_layers=3))
    with pytest.raises(BaseModelError, match="tensors this base has no place for"):
        load_base(name, population=Population(SETTINGS, state))
    state = population_of(tiny_base(dtype=torch.float32, hidden_size=32))
    with pytest.raises(BaseModelError, match="another shape"):
        load_base(name, population=Population(SETTINGS, state))


def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    name = saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BaseModelError, match="cut off"):
        load_base(name)
    path.write_bytes(b"\x10")
    with pytest.raises(BaseModelError, match="safetensors"):
        load_base(name)
