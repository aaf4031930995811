"""Tiny tokenizers of the kinds that language models have, trained on a few sentences."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from proper_model.export import gguf_vocabulary

TEXTS = (
    "the film was good and the book was bad, it's John's; they'LL say 1999 or 12345!",
    "a good film by the same hand, 1999!\n\nnew   line\t tab",
    "naïve café über 東京 😀",
) * 4
PROBES = (
    "the film was 1999 good",
    "It's John's; they'LL, 123456 a\n\n\nb",
    "  two  spaces ",
    "naïve 東京 😀 ÿ",
    "tab\t\tx  \n y",
    "!!!...",
)
BYTE_LEVEL = ("gpt-2", "llama-bpe", "qwen2", "smollm")
BYTE_FALLBACK = ("sentencepiece", "gemma")


def tokenizer_of(kind: str) -> Any:
    """Of at most 420 tokens, the caller's own to change; `kind` from the two tuples above."""
    return copy.deepcopy(_trained(kind))


@cache
def _trained(kind: str) -> Any:
    backend, specials = _byte_level(kind) if kind in BYTE_LEVEL else _byte_fallback(kind)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **specials
    )


def _byte_level(kind: str) -> tuple[Tokenizer, dict[str, str]]:
    (cut,) = (cut for cut, name in gguf_vocabulary._CUTS.items() if name == kind)
    backend = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut.endswith("ByteLevel"))
    of_kind = {"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]}
    before = of_kind.get(kind, [pre_tokenizers.Split(Regex(cut), "isolated")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, plain])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend, {"pad_token": "<pad>"}


def _byte_fallback(kind: str) -> tuple[Tokenizer, dict[str, str]]:
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    if kind == "gemma":
        backend.normalizer = replace
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    octets = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *octets],
        limit_alphabet=40,
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    content = json.loads(backend.to_str())  # bytes are ordinary tokens of such a vocabulary
    content["added_tokens"] = content["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(content)), {"unk_token": "<unk>"}
