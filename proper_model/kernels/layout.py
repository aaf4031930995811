"""Where the rows of a pass lie among its tokens.

A pass holds M tokens in one line, row after row, nothing between them. Neighbouring rows of one
length form a group, whose tokens are a [rows, length] rectangle, so that work which differs by row
(attention, a user's own factors) is one batched product a group, and all other work is one product
over all M tokens. Rows of unequal length need no padding; sorted by length they form few groups.

Letters: R rows, M tokens, Q vectors, each of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Neighbouring rows of one length: `rows` of them from row `first`, from token `start` on."""

    first: int
    rows: int
    start: int
    length: int

    @property
    def tokens(self) -> slice:
        """Its tokens among all M."""
        return slice(self.start, self.start + self.rows * self.length)

    def of_rows(self, values: Tensor) -> Tensor:
        """This group's part of [R, ...] as a view."""
        alone = values.shape[0] == self.rows  # the pass has this group only
        return values if alone else values[self.first : self.first + self.rows]

    def rectangle(self, tokens: Tensor) -> Tensor:
        """This group's part of [M, d] as a view [rows, length, d]."""
        alone = tokens.shape[0] == self.rows * self.length
        return (tokens if alone else tokens[self.tokens]).view(self.rows, self.length, -1)


@dataclass(frozen=True)
class Layout:
    """All groups of a pass.

    Attributes:
        lengths: tokens a row, R of them.
        groups: in the order of their tokens.
        rows: `[M]` row of every token.
        ends: `[R]` int32, the token behind each row.
        cached: what kernels have derived from it.
    """

    lengths: tuple[int, ...]
    groups: tuple[Group, ...]
    rows: Tensor
    ends: Tensor
    cached: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Layout:
        """The layout of rows of these lengths, in this order."""
        groups = []
        first = start = 0
        for length, same in groupby(lengths):
            count = len(list(same))
            groups.append(Group(first, count, start, length))
            first, start = first + count, start + count * length
        repeats = torch.tensor(lengths)
        rows = queued(torch.arange(len(lengths)).repeat_interleave(repeats), device)
        ends = queued(repeats.cumsum(0).to(torch.int32), device)
        return cls(tuple(lengths), tuple(groups), rows, ends)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def bounds(self) -> Tensor:
        """Where rows begin and the last one ends, `[R + 1]` int32; made once a pass, for all blocks."""
        found = self.cached.get("bounds")
        if found is None:
            found = self.cached["bounds"] = F.pad(self.ends, (1, 0))
        return found

    def starts(self) -> list[int]:
        """The first token of every row."""
        found, start = [], 0
        for length in self.lengths:
            found.append(start)
            start += length
        return found


def queued(values: Tensor, device: torch.device | str) -> Tensor:
    """A copy on a device; one on a GPU is made by its queue, and the CPU does not wait for it."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def mean_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Means of values [Q, N] over those of each of `count` rows: [count, N]; rows [Q] says whose."""
    sums = values.new_zeros(count, values.shape[1]).index_add(0, rows, values)
    entries = values.new_zeros(count).index_add(0, rows, torch.ones_like(values[:, 0]))
    return sums / entries[:, None]


def routing_dtype(x: Tensor) -> torch.dtype:
    """Precision of routing: float32, or float64 when the model itself runs in float64."""
    return torch.promote_types(x.dtype, torch.float32)
