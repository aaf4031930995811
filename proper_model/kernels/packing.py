"""Samples to one packed pass: every row's tokens in one line, no padding.

Only an answer and its end carry loss (eq. 4), so a batch also says at which tokens logits are
needed and what they should predict.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.kernels.layout import Layout, queued, routing_dtype


@dataclass(frozen=True)
class Encoded:
    """One tokenized sample: `tokens[:prompt_tokens]` is the prompt, the rest answer and end."""

    tokens: tuple[int, ...]
    prompt_tokens: int

    @property
    def answer_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(frozen=True)
class Batch:
    """Packed rows: R rows, M tokens, K answer tokens.

    Attributes:
        input_ids, position_ids: `[1, M]`.
        prompt_mask: `[M]` bool, true on prompt tokens.
        slots: `[R]`, the user slot of every row.
        layout: where rows lie.
        answers: `[K]` answer tokens, row after row.
        answer_at: `[K]` token whose logits predict each of them, the one before it.
        answer_rows: `[K]` row of each.
        answer_tokens: how many each row has, R of them.
        seeds: dropout seed a row, or None outside training.
    """

    input_ids: Tensor
    position_ids: Tensor
    prompt_mask: Tensor
    slots: Tensor
    layout: Layout
    answers: Tensor
    answer_at: Tensor
    answer_rows: Tensor
    answer_tokens: tuple[int, ...]
    seeds: tuple[int, ...] | None = None

    def by_row(self, values: Tensor) -> Tensor:
        """Sums over every row's answer tokens: [K] -> [R]."""
        return values.new_zeros(len(self.slots)).index_add(0, self.answer_rows, values)


def pack(
    samples: Sequence[Encoded],
    slots: Sequence[int],
    *,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Batch:
    """One batch of samples, each of at least one prompt token, in the given order."""
    lengths = [len(sample.tokens) for sample in samples]
    layout = Layout.of(lengths, device)
    tokens = torch.tensor(array("q", chain.from_iterable(s.tokens for s in samples)))
    prompts = torch.tensor([sample.prompt_tokens for sample in samples])
    counts = [sample.answer_tokens for sample in samples]
    owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    positions = torch.arange(len(tokens)) - torch.tensor(layout.starts())[owner]
    at = (positions >= prompts[owner]).nonzero()[:, 0]  # an answer stands at the end of its row
    return Batch(
        input_ids=queued(tokens[None], device),
        position_ids=queued(positions[None], device),
        prompt_mask=queued(positions < prompts[owner], device),
        slots=queued(torch.tensor(list(slots)), device),
        layout=layout,
        answers=queued(tokens[at], device),
        answer_at=queued(at - 1, device),
        answer_rows=queued(owner[at], device),
        answer_tokens=tuple(counts),
        seeds=None if seeds is None else tuple(seeds),
    )


def budget_chunks(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of `lengths`, shortest first, cut so that a chunk has at most `budget` tokens.

    A sample longer than the budget gets a chunk of its own.
    """
    chunk: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if chunk and tokens + lengths[index] > budget:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(index)
        tokens += lengths[index]
    if chunk:
        yield chunk


def token_nll(logits: Tensor, answers: Tensor) -> Tensor:
    """-log p of answers [K] under logits [K, V]: [K], float32 or wider."""
    return F.cross_entropy(logits.to(routing_dtype(logits)), answers, reduction="none")


def packed_inputs(batch: Batch) -> dict[str, Any]:
    """What a base is called with while `packed_attention` is open."""
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "layout": batch.layout,
        "use_cache": False,
    }
