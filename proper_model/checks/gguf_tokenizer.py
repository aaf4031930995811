"""A tokenizer out of a GGUF file that makes the tokens its model was trained on.

transformers builds it from the vocabulary, and does not know every way of cutting text before it is
merged: for those it does not know it takes GPT-2's without a word. Then digits or blanks become
other tokens, which no later check sees, because texts still come back whole. So what it lacks is set
here, and names that neither knows are refused.

Source: src/llama-vocab.cpp of llama.cpp, for what each name of `tokenizer.ggml.pre` stands for.
"""

from __future__ import annotations

import json
from typing import Any

from proper_model.base.gguf_header import GgufHeader
from proper_model.errors import BaseModelError

# Every digit by itself, then as GPT-2 cuts.
_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
_AS_GPT2 = frozenset({"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat"})
# A word that is a token is not cut further.
_IGNORE_MERGES = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"tekken"}
)
_BYTE_LEVEL, _SENTENCEPIECE = "gpt2", "llama"


def gguf_tokenizer(name: str, header: GgufHeader, made: Any) -> Any:
    """`made` by transformers from the file `name`, cutting text as llama.cpp does.

    Raises BaseModelError for a way of cutting that is known neither here nor there.
    """
    kind = header.values.get("tokenizer.ggml.model")
    if kind == _SENTENCEPIECE:
        _prefix_blank(header, made.backend_tokenizer)
    if kind != _BYTE_LEVEL:
        return made
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    cut = str(header.values.get("tokenizer.ggml.pre", "default"))
    backend = made.backend_tokenizer
    if cut in _DIGITS:
        plain = ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), plain])
    elif cut not in _AS_GPT2 and not _is_split(backend):
        raise BaseModelError(
            f"{name}: its tokenizer cuts text as '{cut[:40]}', which is not known here, so that text "
            "would silently become other tokens",
            hint="get the model as a folder with config.json, *.safetensors and tokenizer.json",
        )
    backend.model.ignore_merges = cut in _IGNORE_MERGES
    return made


def _prefix_blank(header: GgufHeader, backend: Any) -> None:
    """Put a blank before a text that begins with one, too; transformers' Metaspace does not."""
    from tokenizers.normalizers import Prepend, Replace, Sequence

    before = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if before.get("type") != "Metaspace":
        return
    prefix = [Prepend("▁")] if header.values.get("tokenizer.ggml.add_space_prefix", True) else []
    backend.normalizer = Sequence([*prefix, Replace(" ", "▁")])
    backend.pre_tokenizer = None


def _is_split(backend: Any) -> bool:
    """Whether text is cut by a pattern of its own, not by GPT-2's."""
    before = json.loads(backend.to_str())["pre_tokenizer"] or {}
    return any(step["type"] == "Split" for step in before.get("pretokenizers", ()))
