"""A checkpoint that reads images too is used for its language model, from loading to export."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from bundle_samples import CREATED, KEY, NOW, ROOT
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file

from client.export.request import BaseBeside
from client.home import Home
from client.person.workspace import Workspace
from client.releases.install import install
from client.releases.loading import ReleaseMemory
from coordinator.publish import publish
from proper_model.base.config import is_nested, language_part, size
from proper_model.base.folder import base_folder
from proper_model.base.reference import reference_base
from proper_model.base.sizes import read_shape
from proper_model.checks.base import check_base, find_base
from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError
from proper_model.export.peft_lora import peft_adapter
from proper_model.export.user_fold import fold_release
from proper_model.federation.machine import useful_threads
from proper_model.release.contents import release_to_files
from proper_model.settings.shipped_profiles import load_profile
from simulations.setup.costs import measure
from simulations.setup.estimate import Shape
from tests.exports import (
    PUBLIC,
    logits_of,
    mlx_of,
    noisy_release,
    our_logits,
    own_items,
    peft_of,
    user_tensors,
)
from tests.releases import release_in_memory
from tests.tiny import VOCABULARY

ITEM = own_items()[0]
TOKENS = torch.tensor([[1, 5, 9, 13, 8, 7]])
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 8,
    "initializer_range": 0.3,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def nested_config() -> Any:
    return hf.Gemma3Config(
        text_config=TEXT,
        vision_config=VISION,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nested") / "base"
    torch.manual_seed(0)
    hf.Gemma3ForConditionalGeneration(nested_config()).eval().save_pretrained(folder)
    noisy_release().tokenizer.save_pretrained(folder)
    return folder


def whole(folder: Path) -> Any:
    """As everybody else loads it."""
    return hf.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def renamed(folder: Path, to: Path, **prefixes: str) -> Path:
    """The same checkpoint, its language model's tensors under other names."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    old = load_file(folder / "model.safetensors")
    new = {}
    for name, tensor in old.items():
        for before, after in prefixes.items():
            name = name.replace(before.replace("__", "."), after)
        new[name] = tensor.clone()
    save_file(new, to / "model.safetensors", {"format": "pt"})
    return to


def test_the_language_model_is_the_whole_checkpoints_on_text(folder: Path, tmp_path: Path) -> None:
    base, _ = load_base(str(folder))
    assert type(base) is hf.Gemma3ForCausalLM
    with torch.no_grad():
        expected = whole(folder)(input_ids=TOKENS).logits
        assert torch.allclose(base(input_ids=TOKENS).logits, expected, atol=1e-5)
        # As transformers 5 keeps them in memory, and as some of its checkpoints are stored.
        other = renamed(folder, tmp_path / "b", language_model__model__="model.language_model.")
        assert "model.language_model.norm.weight" in load_file(other / "model.safetensors")
        again, _ = load_base(str(other))
        assert torch.equal(again(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)


def test_it_passes_the_check_and_is_measured_as_what_is_used(folder: Path) -> None:
    check_base(str(folder), load_profile("demo"))
    config = nested_config()
    assert is_nested(config)
    assert not is_nested(config.get_text_config())
    assert size(config, "hidden_size") == 16
    base, _ = load_base(str(folder))
    numbers = sum(p.numel() for p in base.parameters())
    shape = Shape.of(find_base(str(folder)))
    assert (shape.base.numbers, shape.layers, shape.hidden, shape.ffn) == (numbers, 2, 16, 24)
    found = read_shape([base_folder(str(folder)) / "model.safetensors"])
    assert (found.numbers, found.mapped_bytes) == (numbers, 0)
    assert measure(config, tokens=4, batch=1, dtype=torch.float32, threads=1).forward > 0


def test_other_names_are_refused_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    other = renamed(folder, tmp_path / "b", language_model__model__="talker.")
    said = f"{re.escape(str(other))}.*cannot be loaded by itself"
    with pytest.raises(BaseModelError, match=said):
        check_base(str(other), load_profile("demo"))
    with pytest.raises(BaseModelError, match=said):
        load_base(str(other))


@pytest.mark.parametrize("kind", ["emu3", "mllama"])
def test_a_language_model_that_is_none_alone_is_refused_by_name(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    base = renamed(folder, tmp_path / "b")
    hf.AutoConfig.for_model(kind).save_pretrained(base)
    said = f"type '{kind}' cannot be built as a causal"
    with pytest.raises(BaseModelError, match=said) as caught:
        check_base(str(base), load_profile("demo"))
    assert caught.value.hint


def test_names_without_nesting_are_left_alone() -> None:
    plain = {"model.layers.0.mlp.up_proj.weight": 1, "lm_head.weight": 2, "odd": 3}
    assert language_part(plain) == plain
    nested = {
        "model.vision_tower.x": 1,
        "model.language_model.norm.weight": 2,
        "lm_head.weight": 3,
        "language_model.lm_head.weight": 4,
    }
    assert language_part(nested) == {"model.norm.weight": 2, "lm_head.weight": 4}


def referring_release(folder: Path) -> Any:
    """A noisy release over the public checkpoint, as a device reads it."""
    release = noisy_release("device", base=load_base(str(folder))[0], referenced=True)
    return release_in_memory(release_to_files(release, base=PUBLIC), folder)


def test_a_release_over_it_comes_back_and_exports_to_the_public_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    release = referring_release(folder)
    tensors = user_tensors(release)
    adapter = peft_adapter(release, fold_release(release, tensors), base_name="any")
    save_file(dict(adapter.tensors), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter.config))
    theirs = PeftModel.from_pretrained(whole(folder), tmp_path).eval()
    loaded = [name for name, _ in theirs.named_parameters() if "lora_" in name]
    assert len(loaded) == len(adapter.tensors)  # none in the vision tower
    for item in own_items():
        ours = our_logits(release, tensors, item)
        assert torch.allclose(ours, logits_of(theirs, item), atol=1e-4)
        assert not torch.allclose(ours, logits_of(whole(folder), item), atol=1e-2)


def exported(folder: Path, out: Path, write: Any, *, beside: bool) -> torch.Tensor:
    """A release over the public checkpoint, exported; our logits of ITEM."""
    base, tokenizer = load_base(str(folder))
    release = referring_release(folder)
    tensors = user_tensors(release)
    alone = BaseBeside(base, tokenizer, torch.float32) if beside else None
    write(out, release, tensors, beside=alone)
    return our_logits(release, tensors, ITEM)


def test_beside_its_base_an_adapter_is_for_the_language_model_alone(
    folder: Path, tmp_path: Path
) -> None:
    ours = exported(folder, tmp_path / "out", peft_of, beside=True)
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.model_type == "gemma3_text"
    assert torch.allclose(ours, logits_of(theirs, ITEM), atol=1e-4)


@pytest.mark.parametrize("beside", [False, True])
def test_an_adapter_for_mlx_has_the_names_of_its_base(
    folder: Path, tmp_path: Path, beside: bool
) -> None:
    out = tmp_path / "out"
    ours = exported(folder, out, mlx_of, beside=beside)
    start = "model.layers." if beside else "language_model.model.layers."
    assert all(name.startswith(start) for name in load_file(out / "adapters.safetensors"))
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    # Its reader of the whole takes the vocabulary's size from the top, where few checkpoints say it.
    model, _ = utils.load_model(
        out / "base" if beside else folder, model_config={"vocab_size": VOCABULARY}
    )
    model = utils.load_adapters(model, str(out))
    model.eval()
    logits = torch.tensor(np.array(model(mx.array([list(ITEM.tokens)]))))
    assert torch.allclose(logits[0, ITEM.prompt_tokens - 1 : -1], ours, atol=1e-4)


@pytest.mark.parametrize("embedded", [True, False])
def test_what_is_published_over_it_is_what_a_device_computes(
    folder: Path, tmp_path: Path, embedded: bool
) -> None:
    base, _ = load_base(str(folder))
    trained = noisy_release("device", base=base, referenced=True)
    counts = {"prototype_counts": torch.zeros(0).long(), "mean_embedding_count": torch.tensor(12)}
    trained = dataclasses.replace(trained, shared={**trained.shared, **counts})
    reference = None if embedded else reference_base(folder, PUBLIC.name, PUBLIC.revision)
    files = release_to_files(trained, base=None if embedded else PUBLIC)
    if embedded:
        assert json.loads(files["base/config.json"])["model_type"] == "gemma3_text"
    else:
        files["base/config.json"] = (folder / "config.json").read_bytes()
    done = publish(
        files, tmp_path / "release", [KEY], created=CREATED, valid_for_days=30, base=reference
    )
    here = install(tmp_path / "home", done.path, ROOT, now=NOW).bundle
    device = ReleaseMemory().load(here, None if embedded else str(folder), threads=1)
    with torch.no_grad():
        ours, theirs = (r.base(input_ids=TOKENS).logits for r in (device, trained))
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert not torch.allclose(ours, whole(folder)(input_ids=TOKENS).logits, atol=1e-2)
    outer = "model." if embedded else "model.language_model."
    assert getattr(device.base, "outer_path", "model.") == outer


def test_no_size_of_a_base_is_read_past_the_helper(repository: Path) -> None:
    """`config.hidden_size` fails where the language model's configuration is nested."""
    direct = re.compile(
        r"config\.(hidden_size|num_hidden_layers|num_attention_heads|vocab_size|head_dim|"
        r"intermediate_size|max_position_embeddings|(eos|bos|pad)_token_id)\b"
    )
    found = [
        f"{path.name}: {match[0]}"
        for package in ("proper_model", "client", "coordinator", "simulations")
        for path in sorted((repository / package).rglob("*.py"))
        if not path.name.startswith(("gguf_", "mlx_"))  # of a loaded base, which is never nested
        for match in direct.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_program_for_one_person_asks_the_helper_for_its_threads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a nested configuration is at its top."""
    release = SimpleNamespace(base=SimpleNamespace(config=nested_config()))
    monkeypatch.setattr(ReleaseMemory, "load", lambda *_, **__: release)
    manifest = SimpleNamespace(base_reference=None)
    bundle: Any = SimpleNamespace(bundle_id="", warnings=(), manifest=manifest, is_own=False)
    threads = torch.get_num_threads()
    try:
        assert Workspace(Home(tmp_path)).load(bundle) is release
        assert torch.get_num_threads() == useful_threads(16)
    finally:
        torch.set_num_threads(threads)
