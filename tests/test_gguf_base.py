"""A base out of a GGUF is the model that went in; what is no such file is refused and leaves nothing."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from proper_model.base.gguf_header import read_gguf_header
from proper_model.base.source import is_made_from, source_of
from proper_model.checks import base as base_check
from proper_model.checks import (
    base_beside,
    check_base,
    gguf_base,
    write_gguf_base,
)
from proper_model.checks.gguf_tokenizer import gguf_tokenizer
from proper_model.errors import BaseModelError, DataError, StorageError
from proper_model.export.gguf_model import write_gguf_model
from proper_model.settings.profile import StageSettings
from simulations.setup.options import RunOptions
from simulations.setup.prepare import prepare
from tests.tiny import tiny_base
from tests.tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, PROBES, tokenizer_of

gguf = pytest.importorskip("gguf")
ROWS = 448
SETTINGS = StageSettings(name="any")
TEXTS = (*PROBES, "12 345  67", "a1b22c333", "  12", "x\r\n\r\ny", "e\u0301 \u00e9 \u200b")


def write(path: Path, kind: str = "llama", words: str = "smollm", **changes: Any) -> Any:
    """A tiny model of a kind in a GGUF; returns it."""
    changes.setdefault("dtype", torch.float32)
    dtype = changes.pop("dtype")
    base = tiny_base(kind, dtype=torch.float32, vocab_size=ROWS, **changes)
    tokenizer = tokenizer_of(words)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    write_gguf_model(path, base, tokenizer, dtype=dtype)
    return base


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(path)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trial run of the base check, which other tests look at."""
    without_trial(monkeypatch)


def without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gguf_base, base_check):
        monkeypatch.setattr(module, "check_architecture", lambda *_: None)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        return model.float()(input_ids=ids).logits


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 128}),  # transformers takes its published sizes of heads
        ("gemma2", {"head_dim": 256}),
    ],
)
def test_what_went_in_comes_out_number_for_number(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    words = "gemma" if kind.startswith("gemma") else "qwen2" if kind.startswith("q") else "smollm"
    base = write(tmp_path / "m.gguf", kind, words, **changes)
    assert write_gguf_base(tmp_path / "m.gguf", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype is torch.float32, "as it is stored"
    stored = base.state_dict()
    assert {
        name: torch.equal(t, stored[name]) for name, t in model.state_dict().items()
    } == dict.fromkeys(stored, True)
    assert torch.equal(logits(model), logits(base))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("words", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_texts_become_the_tokens_of_the_tokenizer_that_went_in(tmp_path: Path, words: str) -> None:
    write(
        tmp_path / "m.gguf",
        "gemma2" if words == "gemma" else "llama",
        words,
        **({"head_dim": 256} if words == "gemma" else {}),
    )
    write_gguf_base(tmp_path / "m.gguf", tmp_path / "out")
    before, after = tokenizer_of(words), AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert after(text)["input_ids"] == before(text)["input_ids"], repr(text)
        if words in BYTE_LEVEL:
            ids = after(text, add_special_tokens=False)["input_ids"]
            assert after.decode(ids) == text
    assert (after.bos_token, after.eos_token) == ("<s>", "</s>")
    assert set(after.all_special_tokens) >= {"<s>", "</s>"}
    merging = after.backend_tokenizer.model.ignore_merges
    assert merging == before.backend_tokenizer.model.ignore_merges == (words == "llama-bpe")
    ids = after("<s>a</s>", add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2)
    assert after.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[hi]"


def test_the_folder_is_one_that_a_run_starts_from(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_gguf_base(good, tmp_path / "out", {"license": "Apache-2.0"})
    assert (
        check_base(str(tmp_path / "out"), SETTINGS).shape.numbers == read_gguf_header(good).numbers
    )
    without_trial(monkeypatch)  # it has passed once
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"quantization_config", "_model_name_or_path", "_name_or_path"} & set(config)
    source = source_of(tmp_path / "out") or {}
    assert (source["name"], source["license"]) == ("out", "Apache-2.0")
    # Without the chat template it is another folder.
    with pytest.raises(StorageError, match="something else already"):
        write_gguf_base(good, tmp_path / "out", chat=False)
    write_gguf_base(good, tmp_path / "plain", chat=False)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template is None
    # Another time it is there already; something else in its place is left alone.
    assert not write_gguf_base(good, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(StorageError, match="something else already"):
        write_gguf_base(good, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kind", "dtype"), [("Q8_0", "bfloat16"), ("Q4_1", "bfloat16")])
def test_packed_numbers_are_unpacked_as_the_library_does_and_rounded_once(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    path = tmp_path / "m.gguf"
    base = write(path, hidden_size=32, intermediate_size=64, num_attention_heads=2)
    packed = repacked(path, tmp_path / "packed.gguf", gguf.GGMLQuantizationType[kind])
    assert read_gguf_header(packed).dtype == dtype
    write_gguf_base(packed, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype is torch.bfloat16
    reader = gguf.GGUFReader(packed)
    (up,) = (t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    unpacked = torch.tensor(gguf.quants.dequantize(up.data, up.tensor_type))
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, unpacked.bfloat16())
    exact = base.model.layers[1].mlp.up_proj.weight
    assert (unpacked - exact).abs().max() < 0.1 * exact.abs().max()


def repacked(path: Path, target: Path, kind: Any) -> Path:
    """A GGUF with its matrices packed."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        if len(tensor.shape) > 1 and tensor.shape[0] % 32 == 0:
            writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data)
    for step in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{step}_to_file")()
    writer.close()
    return target


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old)
        return data.replace(old, new)

    return change


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (cut(0), "no GGUF file"),
        (lambda _: b"PK\x03\x04" + bytes(99), "no GGUF file"),
        (cut(0.002), "ends within its description"),
        (cut(0.1), "ends within its description"),
        (cut(0.97), "cut short"),
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "version"),
        (lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:], "tensors"),
        (lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:], "keys"),
        (
            swapped(
                text("general.architecture"), struct.pack("<Q", 1 << 50) + b"general.architecture"
            ),
            "characters",
        ),
        (swapped(text("llama"), text("lamma")), "architecture 'lamma'"),
        (swapped(text("llama"), text("phi3\0")), "architecture 'phi3\\?'"),
        (swapped(text("smollm"), text("smellm")), "cuts text as 'smellm'"),
        (swapped(text("gpt2"), text("gpt7")), "the tokenizer of a GGUF"),
        (swapped(text("blk.1.ffn_up.weight"), text("blk.1.ffn_xx.weight")), "lacks 1 tensors"),
        (swapped(text("model"), text("adapt")), "of type 'adapt'"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_a_file_that_cannot_be_a_base_is_refused_and_leaves_nothing(
    good: Path, tmp_path: Path, change: Callable[[bytes], bytes], names: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(change(good.read_bytes()))
    for make in (lambda: write_gguf_base(bad, tmp_path / "out"), lambda: base_beside(str(bad))):
        with pytest.raises(BaseModelError, match=names) as caught:
            make()
        assert "bad.gguf" in caught.value.message
        assert caught.value.hint
        assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_model_that_no_run_can_start_from_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "m.gguf", "llama", hidden_size=16)
    monkeypatch.setattr(gguf_base, "_model", None)

    def refuse(*_: object) -> None:
        raise BaseModelError("is itself a mixture of experts", hint="take a dense one")

    monkeypatch.setattr(gguf_base, "check_architecture", refuse)
    with pytest.raises(BaseModelError, match=r"m\.gguf: is itself a mixture"):
        write_gguf_base(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_scaled_positions_that_would_be_left_out_are_refused(tmp_path: Path) -> None:
    """As in a GGUF of Llama 3: transformers reads it, and computes something else."""
    rope = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
    write(tmp_path / "m.gguf", rope_parameters=rope)
    with pytest.raises(BaseModelError, match="positions"):
        write_gguf_base(tmp_path / "m.gguf", tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_beside_the_file_it_is_made_once_for_its_content(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(good.read_bytes())
    said: list[str] = []
    first = base_beside(str(file), lambda phase, *_: said.append(phase))
    assert "unpacking the weights" in said
    said.clear()
    assert base_beside(str(file), lambda phase, *_: said.append(phase)) == first
    assert said == ["reading the file"]
    assert Path(first).name.startswith("m-")
    write(file, seed=1)
    assert base_beside(str(file)) != first


@pytest.mark.usefixtures("quick")
def test_a_run_takes_a_gguf_as_its_base(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(good.read_bytes())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "user_others.json").write_text("[")  # comes after the base
    options = RunOptions(
        data=str(tmp_path / "data"),
        out=tmp_path / "out",
        task="LaMP_3",
        base=str(file),
        profile="demo",
    )
    with pytest.raises(DataError):
        prepare(options.runs()[0], lambda *_: None)
    assert is_made_from(next(tmp_path.glob("m-*")), read_sha256(file))
    file.write_bytes(good.read_bytes()[:-1])
    with pytest.raises(BaseModelError, match="cut short"):
        prepare(options.runs()[0], lambda *_: None)
    assert not options.out.exists()


def read_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_one_that_was_interrupted_or_had_no_room(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(gguf_base, "_source", stop)
    with pytest.raises((KeyboardInterrupt, StorageError)):
        write_gguf_base(good, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_before_anything_is_unpacked(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="1,000 are free"):
        write_gguf_base(good, tmp_path / "out")


def test_a_tokenizer_that_splits_in_a_way_transformers_knows_is_taken() -> None:
    header = type("Header", (), {"values": {"tokenizer.ggml.model": "gpt2"}})
    for cut_, made in (("tekken", "qwen2"), ("gpt-2", "gpt-2")):
        header.values["tokenizer.ggml.pre"] = cut_
        assert gguf_tokenizer("m.gguf", header, tokenizer_of(made))  # type: ignore[arg-type]
