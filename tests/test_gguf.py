"""GGUF files hold what llama.cpp demands, row for row; with llama.cpp itself, its logits are ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from client.export.formats import Format, check_writable
from client.export.request import BaseBeside
from proper_model.errors import ConfigError, ExportError
from proper_model.export.gguf_model import (
    check_gguf_model,
    write_gguf_adapter,
    write_gguf_model,
)
from proper_model.export.gguf_names import FAMILIES, reordered
from proper_model.export.gguf_vocabulary import vocabulary
from proper_model.export.peft_lora import joined_factors
from proper_model.export.user_fold import fold_release
from tests.exports import (
    gguf_merged_of,
    gguf_of,
    logits_of,
    noisy_release,
    our_logits,
    own_items,
    release_and_user,
    user_tensors,
)
from tests.tiny import tiny_base
from tests.tokenizers_of_kinds import BYTE_FALLBACK, BYTE_LEVEL, PROBES, tokenizer_of

ROWS = 448  # of the embedding table; the tokenizers have fewer tokens
ITEM = own_items()[0]
UNBIASED = ("gemma", "gemma2", "qwen3", "smollm3")
TIED = {"tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def base_of(kind: str = "llama", **changes: Any) -> Any:
    return tiny_base(kind, dtype=torch.float32, vocab_size=ROWS, **changes)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields and tensors of a GGUF, by the library's own reader."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Row by row: a head's coordinate i of the first half, then of the second."""
    size = len(rows) // heads
    order = [
        head * size + half * size // 2 + i
        for head in range(heads)
        for i in range(size // 2)
        for half in (0, 1)
    ]
    return rows[order]


def test_rows_of_queries_and_keys_are_paired_by_head() -> None:
    config = SimpleNamespace(num_attention_heads=2, num_key_value_heads=1)
    rows = torch.arange(8)[:, None]
    query = reordered(rows, "model.layers.0.self_attn.q_proj.weight", FAMILIES["llama"], config)
    assert query.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    key = reordered(rows[:4], "model.layers.0.self_attn.k_proj", FAMILIES["llama"], config)
    assert key.flatten().tolist() == [0, 2, 1, 3]
    for name, family in (("v_proj", "llama"), ("q_proj", "qwen2")):
        same = reordered(rows, f"model.layers.0.self_attn.{name}", FAMILIES[family], config)
        assert same.flatten().tolist() == list(range(8))


@pytest.mark.parametrize("referenced", [False, True])
def test_an_adapter_is_what_the_loader_demands(tmp_path: Path, referenced: bool) -> None:
    pytest.importorskip("gguf")
    base = base_of(num_attention_heads=4, num_key_value_heads=2)
    release = noisy_release(base=base, referenced=referenced)
    factors = joined_factors(release, fold_release(release, user_tensors(release)))
    assert write_gguf_adapter(tmp_path / "a.gguf", base.config, factors) == 24
    fields, tensors = read(tmp_path / "a.gguf")
    assert fields["general.architecture"] == "llama"
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["adapter.lora.alpha"] == 24.0, "llama.cpp scales by alpha over the rank"
    names = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    if referenced:
        names |= {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"}
        names["self_attn.o_proj"] = "attn_output"
    expected = {
        f"blk.{block}.{theirs}.weight": f"model.layers.{block}.{ours}"
        for block in range(2)
        for ours, theirs in names.items()
    }
    assert set(tensors) == {f"{name}.lora_{part}" for name in expected for part in "ab"}
    for name, path in expected.items():
        a, b = factors[path]
        heads = {"q_proj": 4, "k_proj": 2}.get(path.rpartition(".")[2])
        b = b if heads is None else interleaved(b, heads)
        got = [torch.tensor(tensors[f"{name}.lora_{part}"].data) for part in "ab"]
        assert got[0].shape == (24, a.shape[1])
        assert torch.equal(got[0][: len(a)], a.float())
        assert torch.equal(got[1][:, : b.shape[1]], b.float())
        assert not got[0][len(a) :].any()


@pytest.mark.parametrize(
    ("dtype", "file_type", "raw"),
    [(torch.float32, 0, "F32"), (torch.float16, 1, "F16"), (torch.bfloat16, 32, "BF16")],
)
def test_a_model_is_written_tensor_for_tensor(
    tmp_path: Path, dtype: torch.dtype, file_type: int, raw: str
) -> None:
    gguf = pytest.importorskip("gguf")
    base = base_of(num_attention_heads=4, num_key_value_heads=2, rope_parameters=dict(LLAMA3))
    tokenizer = tokenizer_of("gpt-2")
    path = "model.layers.1.mlp.up_proj"
    update = (torch.randn(3, 16, dtype=torch.float64), torch.randn(24, 3, dtype=torch.float64))
    write_gguf_model(tmp_path / "m.gguf", base, tokenizer, dtype=dtype, updates={path: update})
    fields, tensors = read(tmp_path / "m.gguf")
    sizes = {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 16,
        "feed_forward_length": 24,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 4,
        "rope.dimension_count": 4,
        "vocab_size": ROWS,
        "rope.freq_base": 5000.0,
    }
    assert {name: fields[f"llama.{name}"] for name in sizes} == sizes
    assert fields["general.file_type"] == file_type
    assert len(tensors) == len(base.state_dict()) + 1  # the frequencies
    for ours, theirs, heads in (
        ("model.embed_tokens", "token_embd", None),
        ("lm_head", "output", None),
        ("model.norm", "output_norm", None),
        ("model.layers.1.self_attn.q_proj", "blk.1.attn_q", 4),
        ("model.layers.1.self_attn.k_proj", "blk.1.attn_k", 2),
        (path, "blk.1.ffn_up", None),
    ):
        weight = base.state_dict()[f"{ours}.weight"]
        if ours == path:
            weight = weight.double() + update[1] @ update[0]
        if heads is not None:
            weight = interleaved(weight, heads)
        tensor = tensors[f"{theirs}.weight"]
        vector = weight.dim() == 1
        assert tensor.tensor_type.name == ("F32" if vector else raw)
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(data, weight.to(torch.float32 if vector else dtype).float().numpy())
    # Two frequencies: 1, a wave of 6.3 tokens, is below 32 / 4 and stays; the other's is long.
    assert tensors["rope_freqs.weight"].data == pytest.approx([1.0, 8.0])


def test_gemmas_norms_hold_one_more_and_tied_embeddings_stand_once(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    base = base_of("gemma")
    assert base.config.tie_word_embeddings
    write_gguf_model(tmp_path / "m.gguf", base, tokenizer_of("gemma"), dtype=torch.bfloat16)
    fields, tensors = read(tmp_path / "m.gguf")
    assert "output.weight" not in tensors
    weight = base.state_dict()["model.norm.weight"]
    assert np.array_equal(tensors["output_norm.weight"].data, (weight + 1).numpy())
    assert fields["tokenizer.ggml.add_space_prefix"] is False


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, *BYTE_FALLBACK])
def test_tokenizers_that_llama_cpp_knows(kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    tokenizer = tokenizer_of(kind)
    words = vocabulary(tokenizer, ROWS)
    level = kind in BYTE_LEVEL
    assert (words.kind, words.cut) == (("gpt2", kind) if level else ("llama", "default"))
    assert len(words.tokens) == len(words.types) == ROWS
    types = gguf.TokenType
    assert words.tokens[1:3] == ("<s>", "</s>")
    assert words.types[1:3] == (types.CONTROL, types.CONTROL)
    assert words.types[0] == (types.CONTROL if level else types.UNKNOWN)
    assert (words.tokens[-1], words.types[-1]) == (f"[PAD{ROWS - 1}]", types.UNUSED)
    assert (words.ids["bos"], words.ids["eos"]) == (1, 2)
    assert (words.adds_bos, words.adds_eos) == (True, False)
    if level:
        assert words.scores is None
        assert all(merge.count(" ") == 1 for merge in words.merges or ())
    else:
        assert words.scores is not None
        assert (words.tokens[3], words.types[3]) == ("<0x00>", types.BYTE)
        made = [score for score in words.scores if score < 0]
        assert made == sorted(made, reverse=True), "what is merged first stands first"
        assert words.space_prefix is (kind == "sentencepiece")


def changed(kind: str, change: Any) -> Any:
    """The tokenizer of a kind with its tokenizer.json changed."""
    content = json.loads(tokenizer_of(kind).backend_tokenizer.to_str())
    change(content)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


@pytest.mark.parametrize(
    ("kind", "change", "names"),
    [
        ("gpt-2", lambda c: c["model"].update(ignore_merges=True), "merges otherwise"),
        ("llama-bpe", lambda c: c["model"].update(ignore_merges=False), "merges otherwise"),
        ("gpt-2", lambda c: c.update(pre_tokenizer=None), "a way of its own"),
        ("qwen2", lambda c: c["pre_tokenizer"]["pretokenizers"].pop(0), "a way of its own"),
        ("sentencepiece", lambda c: c.update(normalizer=None), "byte fallback and cuts"),
        ("gemma", lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "fallback and cuts"),
    ],
)
def test_other_tokenizers_are_refused_by_name(kind: str, change: Any, names: str) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ExportError, match=names) as caught:
        vocabulary(changed(kind, change), ROWS)
    assert "convert_hf_to_gguf" in (caught.value.hint or "")


def test_a_word_level_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    release, tensors = release_and_user()
    beside = BaseBeside(release.base, release.tokenizer, torch.float32)
    with pytest.raises(ExportError, match="WordLevel") as caught:
        gguf_of(tmp_path / "out", release, tensors, beside=beside)
    assert "without --with-base" in (caught.value.hint or "")
    with pytest.raises(ExportError, match="WordLevel"):
        gguf_merged_of(tmp_path / "out", release, tensors, dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_larger_than_its_model_is_refused() -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ExportError, match="300 rows"):
        vocabulary(tokenizer_of("gpt-2"), 300)


@pytest.mark.parametrize(
    ("kind", "changes", "names"),
    [
        ("mistral", {"sliding_window": 8}, "window of 8"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "window of 8"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5}},
            "attention_factor",
        ),
        ("gemma2", {}, "scaled by 256, not 8"),
        ("gemma2", {"query_pre_attn_scalar": 8, "attn_logit_softcapping": None}, "cap on"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "other blocks than 1 of 2"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "rope in other blocks"),
        # Their files were written, and llama.cpp refused to load them.
        ("smollm3", {"mlp_bias": True}, "mlp_bias in a model of type 'smollm3'"),
        *((kind, {"attention_bias": True}, f"attention_bias .*'{kind}'") for kind in UNBIASED),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    kind: str, changes: dict[str, Any], names: str
) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ExportError, match=names):
        check_gguf_model(base_of(kind, **changes).config, tokenizer_of("gpt-2"))


def test_a_missing_library_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        check_writable(Format.GGUF, tmp_path / "out")
    assert ".[gguf]" in (caught.value.hint or "")
    check_writable(Format.MLX, tmp_path / "out")


def llama_cpp_logits(folder: Path, model: str, adapter: str | None) -> tuple[Any, Tensor]:
    """At the item's answer, with a cache of keys and values in float32."""
    llama_cpp = pytest.importorskip("llama_cpp")
    loaded = llama_cpp.Llama(
        str(folder / model),
        lora_path=None if adapter is None else str(folder / adapter),
        logits_all=True,
        verbose=False,
        n_ctx=64,
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    loaded.eval(list(ITEM.tokens))
    answer = slice(ITEM.prompt_tokens - 1, len(ITEM.tokens) - 1)
    return loaded, torch.tensor(loaded.scores[answer])


@pytest.mark.parametrize(
    ("kind", "changes", "words", "atol"),
    [
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 2}, "gpt-2", 1e-4),
        ("llama", {"attention_bias": True, "mlp_bias": True, **TIED}, "sentencepiece", 1e-4),
        ("llama", {"hidden_size": 64, "rope_parameters": LLAMA3}, "llama-bpe", 1e-4),
        ("mistral", {}, "gpt-2", 1e-4),
        ("qwen2", {}, "qwen2", 1e-4),
        ("qwen3", {}, "qwen2", 1e-4),
        ("gemma", {}, "gemma", 2e-3),  # llama.cpp looks its activation up in float16
        ("gemma2", {"query_pre_attn_scalar": 8, "sliding_window": 8}, "gemma", 2e-3),
        ("gemma3_text", {}, "gemma", 2e-3),
        ("smollm3", {"num_hidden_layers": 4}, "smollm", 1e-4),
    ],
)
def test_llama_cpp_computes_our_logits(
    tmp_path: Path, kind: str, changes: dict[str, Any], words: str, atol: float
) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    tokenizer = tokenizer_of(words)
    for referenced in (False, True):
        release = noisy_release(base=base_of(kind, **changes), referenced=referenced)
        release.tokenizer = tokenizer
        tensors = user_tensors(release)
        public = base_of(kind, **changes) if referenced else release.base
        out = tmp_path / str(referenced)
        gguf_of(out, release, tensors, beside=BaseBeside(public, tokenizer, torch.float32))
        whole = tmp_path / f"{referenced} whole"
        gguf_merged_of(whole, release, tensors, dtype=torch.float32)
        ours = our_logits(release, tensors, ITEM)
        loaded, without = llama_cpp_logits(out, "base.gguf", None)
        assert torch.allclose(without, logits_of(public, ITEM), atol=atol)
        assert not torch.allclose(without, ours, atol=0.05)
        _, adapted = llama_cpp_logits(out, "base.gguf", "adapter.gguf")
        assert torch.allclose(adapted, ours, atol=atol)
        _, merged = llama_cpp_logits(whole, "model.gguf", None)
        assert torch.allclose(merged, ours, atol=atol)
        for text in PROBES:
            assert loaded.tokenize(text.encode(), special=True) == tokenizer(text)["input_ids"]
