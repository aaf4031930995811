"""A release's base: what is loaded are the bytes whose hashes were signed, and no other file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_samples import (
    KEY,
    NOW,
    ROOT,
    base_files,
    referring_files,
    sample_files,
    sample_info,
    tensor_file,
    write_files,
)
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from client.releases.bases import verify_base_files
from client.releases.install import install
from client.releases.loading import ReleaseMemory
from proper_model.base import streamed
from proper_model.base.checked import load_checked_base
from proper_model.base.folder import weight_files
from proper_model.base.model_types import MODEL_TYPES
from proper_model.base.outside_config import parse_config
from proper_model.base.reference import reference_base
from proper_model.base.streamed import OtherFileError
from proper_model.bundle.signed_bundle import build_bundle
from proper_model.checks.outside_base import load_base
from proper_model.errors import BaseModelError, BundleForeignError, BundleIntegrityError
from proper_model.settings.profile import BaseWeights
from simulations.synthetic.tiny_base import word_tokenizer
from tests.releases import hashed
from tests.tiny import tiny_base, words

OPENED: list[str] = []
WATCHED: list[str] = []


def _hear(event: str, arguments: Any) -> None:
    if event == "open" and WATCHED and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(WATCHED[0]):
            OPENED.append(os.path.relpath(path, WATCHED[0]))


sys.addaudithook(_hear)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Files opened below the folder that a test puts into WATCHED."""
    OPENED.clear()
    yield OPENED
    WATCHED.clear()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The folder of the base that `referring_files` is over."""
    return write_files(tmp_path / "base", base_files())


def installed(folder: Path, files: dict[str, bytes], reference: Any = None) -> Any:
    bundle = build_bundle(files, sample_info(base=reference), [KEY])
    return install(folder, bundle.all_files(), ROOT, now=NOW).bundle


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny base in shards, with a tokenizer."""
    folder = tmp_path / "base"
    tiny_base(dtype=torch.float32).save_pretrained(folder, max_shard_size="8KB")
    words().save_pretrained(folder)
    return folder


def load(folder: Path, hashes: Any = None) -> Any:
    files = hashed(folder) if hashes is None else hashes
    return load_checked_base(
        parse_config((folder / "config.json").read_bytes()),
        word_tokenizer(["a"]),
        files,
        dtype=torch.float32,
        device=torch.device("cpu"),
        population=None,
        weights=BaseWeights.FULL,
    )


def same(ours: Any, theirs: Any) -> bool:
    mine, other = ours.state_dict(), theirs.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


def test_it_is_the_base_that_training_loads(base: Path) -> None:
    assert same(load(base), load_base(str(base))[0])


@pytest.mark.parametrize("place", ["header", "first", "last"])
def test_every_byte_that_is_read_is_hashed(base: Path, place: str) -> None:
    files = hashed(base)
    path = min(base.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    where = {"header": data.index(b"format") + 1, "first": 8 + header, "last": len(data) - 1}
    data[where[place]] ^= 1
    path.write_bytes(data)
    with pytest.raises(OtherFileError, match=path.name):
        load(base, files)


def test_a_file_that_changes_between_check_and_loading_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the right hash before and after: only what was read counts."""
    files, path = hashed(base), min(base.glob("*.safetensors"))
    right = path.read_bytes()
    start = 8 + int.from_bytes(right[:8], "little")
    real = streamed._Reader.read

    def read(self: Any, *arguments: Any) -> Any:
        with path.open("r+b") as handle:
            handle.seek(start)
            handle.write(bytes(len(right) - start))
        try:
            return real(self, *arguments)
        finally:
            path.write_bytes(right)

    monkeypatch.setattr(streamed._Reader, "read", read)
    with pytest.raises(OtherFileError):
        load(base, files)


def test_names_of_another_making_are_loaded_from_checked_copies(
    base: Path, opened: list[str]
) -> None:
    for path in base.glob("*.safetensors"):
        renamed = {key.removeprefix("model."): t for key, t in load_file(path).items()}
        save_file(renamed, path, {"format": "pt"})
    WATCHED.append(str(base))
    files = hashed(base)
    OPENED.clear()
    assert same(load(base, files), tiny_base(dtype=torch.float32))
    assert {name for name in opened if name.endswith(".json")} == {"config.json"}  # `load` itself
    min(base.glob("*.safetensors")).write_bytes(tensor_file({}))
    with pytest.raises(BaseModelError):
        load(base, files)


def test_a_device_opens_only_what_the_manifest_lists(tmp_path: Path, opened: list[str]) -> None:
    here = installed(tmp_path, sample_files())
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(sample_files()["base/model.safetensors"])
    index = {"weight_map": {"lm_head.weight": str(outside)}}
    for name, content in {
        "base/adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": "evil/model"},
        "base/generation_config.json": {"temperature": 9.0},
        "base/model.safetensors.index.json": index,
        "base/tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["evil.T", None]}},
        "tokenizer/config.json": {"model_type": "bert"},
        "tokenizer/added_tokens.json": {"evil": 3},
    }.items():
        (here.path / name).write_text(json.dumps(content))
    WATCHED.append(str(tmp_path))
    release = ReleaseMemory().load(here, None, threads=1)
    assert torch.equal(release.base.lm_head.weight, torch.full((8, 4), 0.5))
    inside = {name.partition(f"{here.bundle_id}/")[2] for name in opened}
    assert "base/model.safetensors" in inside
    assert inside <= set(here.manifest.files)


def test_an_altered_base_of_a_bundle_is_not_loaded(tmp_path: Path) -> None:
    here = installed(tmp_path, sample_files())
    path = here.path / "base" / "model.safetensors"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleIntegrityError, match="was altered"):
        ReleaseMemory().load(here, None, threads=1)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_altered_base_elsewhere_is_not_loaded(tmp_path: Path, outside: Path, name: str) -> None:
    reference = reference_base(outside, "some/base", "abc")
    here = installed(tmp_path / "host", referring_files("some/base", "abc"), reference)
    release = ReleaseMemory().load(here, str(outside), threads=1)
    merged = release.base.model.layers[0].self_attn.q_proj.weight
    assert torch.equal(merged, torch.full((4, 4), 0.5 * 0.5 * 16))  # B A at alpha 16, rank 1
    path = outside / name
    path.write_bytes(path.read_bytes().replace(b'"llama"', b'"gemma"')[:-1] + b"\1")
    with pytest.raises(BundleForeignError, match=f"{name} is not the file"):
        ReleaseMemory().load(here, str(outside), threads=1)


def test_a_pipe_in_the_place_of_a_base_is_refused_at_once(outside: Path) -> None:
    reference = reference_base(outside, "some/base", "abc")
    (outside / "model.safetensors").unlink()
    os.mkfifo(outside / "model.safetensors")
    with pytest.raises(BundleForeignError):
        verify_base_files(reference, outside)


@pytest.mark.parametrize(
    "named", ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "x.bin", 7]
)
def test_an_index_names_only_files_beside_it(base: Path, named: object) -> None:
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": named}}))
    with pytest.raises(BaseModelError, match=r"index\.json"):
        list(weight_files(str(base), base))
    with pytest.raises(BaseModelError):
        load_base(str(base))


@pytest.mark.parametrize("name", sorted(MODEL_TYPES))
def test_a_base_of_every_known_type_comes_back_from_its_configuration(
    name: str, tmp_path: Path
) -> None:
    """What the kept keys describe is what transformers saved."""
    sizes = {
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 32,
        **{f"{token}_token_id": number for number, token in enumerate(("pad", "bos", "eos"))},
    }
    config = type(AutoConfig.for_model(name))(**sizes, attn_implementation="eager")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    ours, tokens = load(tmp_path), torch.arange(3, 9)[None]
    assert same(ours, model)
    with torch.no_grad():
        assert torch.equal(ours(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert told(ours.config) == told(model.config)


def told(config: Any) -> dict[str, Any]:
    """A configuration without what says nothing of the computation."""
    beside = {"architectures", "dtype", "transformers_version", "_name_or_path"}
    return {key: value for key, value in config.to_dict().items() if key not in beside}
