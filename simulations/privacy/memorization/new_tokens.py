"""A base with tokens of its own for canaries: they stand in no text, so that training moves nothing else.

A private LoRA does not train the embeddings of tokens, so each new token has its own random row, in the
table and in the head; rows are drawn as the old ones are spread. Source: the new-token canaries of arXiv
2503.06808, which are given to the tokenizer and the table in the same way.
"""

from __future__ import annotations

import hashlib
import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proper_model.base.loading import fingerprint
from proper_model.checks import load_base
from proper_model.errors import BaseModelError
from proper_model.export import write_model_folder
from proper_model.storage.files import make_private_folder
from proper_model.storage.new_folder import new_folder

LETTERS = 6  # of a name after PREFIX; 26^6 names
PREFIX = "canary"


def token_names(count: int) -> tuple[str, ...]:
    """Names of letters alone and of one length: `canaryaaaaaa`, `canaryaaaaab` ..."""
    letters = string.ascii_lowercase
    names = []
    for number in range(count):
        digits = [letters[number // 26**place % 26] for place in reversed(range(LETTERS))]
        names.append(PREFIX + "".join(digits))
    return tuple(names)


def with_new_tokens(base: str, count: int, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The base with so many more tokens, written below `folder` or found there, and their names.

    Raises BaseModelError if the base cannot be loaded, or knows one of the names.
    """
    names = token_names(count)
    model, tokenizer = load_base(base, device=torch.device("cpu"))
    target = (folder / f"canaries-{_label(model, tokenizer, count)}").resolve()
    if not target.is_dir():
        _add(model, tokenizer, names)
        make_private_folder(folder)
        with new_folder(target) as building:
            write_model_folder(building, model, tokenizer, model.state_dict())
    return target, names


def _label(model: Any, tokenizer: Any, count: int) -> str:
    """Says which base, by its weights and words, and how many tokens; not where it lies."""
    said = [fingerprint(model), sorted(tokenizer.get_vocab().items()), count]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def _add(model: Any, tokenizer: Any, names: tuple[str, ...]) -> None:
    """New tokens with random rows; the old rows stay as they are."""
    from transformers import AddedToken

    # The blank before an answer belongs to its token, as it does in most vocabularies.
    tokens = [AddedToken(name, lstrip=True, normalized=False) for name in names]
    before = len(tokenizer)
    if set(names) & set(tokenizer.get_vocab()) or tokenizer.add_tokens(tokens) != len(names):
        raise BaseModelError(
            "the base has tokens that are named as those of canaries are",
            hint="take the base itself, not one that was made for canaries",
        )
    tables = [model.get_input_embeddings().weight.detach().clone()]
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    if not tied:
        tables.append(model.get_output_embeddings().weight.detach().clone())
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    grown = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table, old in zip(grown, tables, strict=False):
            table[before:] = _alike(old[:before], len(names), generator)


def _alike(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random rows with the mean and the deviation that these have in every dimension."""
    noise = torch.randn(count, rows.shape[1], generator=generator)
    return rows.mean(0) + rows.std(0) * noise.to(rows)
