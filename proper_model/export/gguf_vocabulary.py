"""A tokenizer as llama.cpp has it in a GGUF, for the kinds that llama.cpp computes alike.

Two kinds are known: byte-level BPE ("gpt2", with the name of how text is cut before merging) and
BPE with byte fallback as SentencePiece makes it ("llama"). All others, word-level ones among them,
are refused by name: text would silently become other tokens.

Source: src/llama-vocab.cpp of llama.cpp; GGUF's specification for the keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proper_model.base.gguf_header import library
from proper_model.errors import ExportError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a byte-level tokenizer cuts text before it merges, by llama.cpp's name for it.
_CUTS = {
    rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|\p{{N}}|{_REST}": "qwen2",
    "ByteLevel": "gpt-2",
    "Digits ByteLevel": "smollm",
}
_ALWAYS_IGNORES_MERGES = {"llama-bpe"}  # a word that is a token is not cut further


@dataclass(frozen=True)
class Vocabulary:
    """What `tokenizer.ggml.*` holds.

    Attributes:
        kind, cut: `model` and `pre`.
        tokens, types: one a row of the embedding table; unused rows are filled.
        scores: of kind "llama"; higher merges first.
        merges: of kind "gpt2".
        ids: by GGUF's names: bos, eos, unk, padding.
        adds_bos, adds_eos: around every text.
        space_prefix: of kind "llama": a blank is put before a text.
    """

    kind: str
    cut: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None
    merges: tuple[str, ...] | None
    ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    space_prefix: bool | None
    chat_template: str | None

    def add_to(self, writer: Any) -> None:
        """Write the keys."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.cut)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        if self.merges is not None:
            writer.add_token_merges(list(self.merges))
        for name, number in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """A Hugging Face tokenizer's, for an embedding table of `rows`.

    Raises ExportError: llama.cpp has no tokenizer that cuts text this way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown("without a tokenizer.json")
    content = json.loads(backend.to_str())
    kind, cut = _kind(content)
    tokens, types = _tokens(tokenizer, content, rows, kind)
    ranks = _ranks(content)
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    around = tokenizer("a")["input_ids"]
    return Vocabulary(
        kind=kind,
        cut=cut,
        tokens=tokens,
        types=types,
        scores=tuple(ranks.get(token, 0.0) for token in tokens) if kind == "llama" else None,
        merges=None if kind == "llama" else tuple(map(_merge, content["model"]["merges"])),
        ids={name: number for name, number in named.items() if number is not None},
        adds_bos=around[:1] == [tokenizer.bos_token_id],
        adds_eos=around[-1:] == [tokenizer.eos_token_id],
        space_prefix=_space_prefix(content) if kind == "llama" else None,
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _kind(content: Mapping[str, Any]) -> tuple[str, str]:
    """`model` and `pre` of GGUF for a tokenizer.json."""
    model = content["model"]
    if model["type"] != "BPE":
        raise _unknown(f"of kind {model['type']}")
    if model.get("byte_fallback"):
        if _space_prefix(content) is None:
            raise _unknown("of kind BPE with byte fallback and cuts of its own")
        return "llama", "default"
    cut = _CUTS.get(_cut_of(_steps(content["pre_tokenizer"], "pretokenizers")))
    if cut is None:
        raise _unknown("of kind BPE that cuts text in a way of its own")
    if bool(model.get("ignore_merges")) != (cut in _ALWAYS_IGNORES_MERGES):
        raise _unknown(f"of kind BPE that cuts text as {cut} and merges otherwise")
    return "gpt2", cut


def _space_prefix(content: Mapping[str, Any]) -> bool | None:
    """Whether a blank is put before a text, as SentencePiece does; None where more is done to it."""
    steps = _steps(content["normalizer"], "normalizers")
    before = _steps(content["pre_tokenizer"], "pretokenizers")
    # Gemma's cut at blanks comes after all of them were replaced: it finds none.
    idle = [step.get("pattern") for step in before] in ([], [{"String": " "}])
    kinds = [step["type"] for step in steps]
    if not idle or kinds not in (["Replace"], ["Prepend", "Replace"]):
        return None
    return bool(kinds[0] == "Prepend")


def _steps(part: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def _cut_of(steps: list[Mapping[str, Any]]) -> str:
    """A key of `_CUTS`, or something that is none."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return ""
    *before, last = steps
    if last.get("use_regex", True):
        digits = [step["type"] == "Digits" and step["individual_digits"] for step in before]
        return " ".join(["Digits"] * len(digits) + ["ByteLevel"]) if all(digits) else ""
    if len(before) != 1 or before[0]["type"] != "Split" or before[0]["behavior"] != "Isolated":
        return ""
    return str(before[0]["pattern"].get("Regex", ""))


def _tokens(
    tokenizer: Any, content: Mapping[str, Any], rows: int, kind: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Token and type of every row."""
    types = library().TokenType
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise ExportError(
            f"the tokenizer has token {max(by_id)}, the model's embedding table {rows} rows",
            hint="export in format peft, over a base whose tokenizer fits its model",
        )
    added = {token["id"]: bool(token["special"]) for token in content["added_tokens"]}
    found = []
    for number in range(rows):
        token = by_id.get(number)
        if token is None:
            found.append((f"[PAD{number}]", types.UNUSED))
        elif number == tokenizer.unk_token_id and kind == "llama":
            found.append((token, types.UNKNOWN))
        elif number in added:
            found.append((token, types.CONTROL if added[number] else types.USER_DEFINED))
        elif kind == "llama" and len(token) == 6 and token.startswith("<0x"):
            found.append((token, types.BYTE))
        else:
            found.append((token, types.NORMAL))
    return tuple(token for token, _ in found), tuple(int(kind) for _, kind in found)


def _ranks(content: Mapping[str, Any]) -> dict[str, float]:
    """Score of every token that a merge makes: what is merged earlier has the higher one."""
    scores: dict[str, float] = {}
    for rank, merge in enumerate(content["model"]["merges"]):
        scores.setdefault(_merge(merge).replace(" ", "", 1), -1.0 - rank)
    return scores


def _merge(merge: str | list[str]) -> str:
    """As older and newer versions of tokenizer.json write it."""
    return merge if isinstance(merge, str) else " ".join(merge)


def _unknown(which: str) -> ExportError:
    return ExportError(
        f"no tokenizer of llama.cpp is known here to cut text as this one does: {which}",
        hint="a LoRA alone needs none: --format gguf without --with-base. llama.cpp's own "
        "convert_hf_to_gguf.py knows more, but no word-level ones: export in format merged for it",
    )
