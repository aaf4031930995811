"""Pieces of a pass that one program of a kernel takes: tokens of a single row, at most so many.

Every row has factors of its own, so a piece must not reach into the next row. Rows of any lengths
make one list of pieces, and one launch serves them all.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from proper_model.kernels.layout import Layout, queued

TOKENS = 64  # of a piece
WIDTH = 128  # columns that a program handles at once
LEAST = 16  # a matrix unit's smallest side


def pieces(layout: Layout) -> Tensor:
    """Every piece's row, first token and the token behind it: [3, pieces] int32, on the GPU."""
    found = layout.cached.get("pieces")
    if found is None:
        rows, starts, ends = [], [], []
        for row, (first, length) in enumerate(zip(layout.starts(), layout.lengths, strict=True)):
            for start in range(first, first + length, TOKENS):
                rows.append(row)
                starts.append(start)
                ends.append(min(start + TOKENS, first + length))
        found = queued(torch.tensor([rows, starts, ends], dtype=torch.int32), layout.rows.device)
        layout.cached["pieces"] = found
    return found


@triton.jit
def piece_of(where, count, TOKENS: tl.constexpr):
    """Of a program's piece the row, the tokens [TOKENS], and [TOKENS, 1] which of them there are."""
    piece = tl.program_id(0)
    row = tl.load(where + piece)
    tokens = tl.load(where + count + piece) + tl.arange(0, TOKENS)
    inside = (tokens < tl.load(where + 2 * count + piece))[:, None]
    return row, tokens, inside


def power(width: int) -> int:
    """The smallest power of two that holds `width`, and that a matrix unit takes."""
    return max(LEAST, 1 << (width - 1).bit_length())


def shares(width: int, pieces: int) -> int:
    """Into how many parts a sum over `width` is cut, so that few pieces keep a whole GPU busy."""
    wanted = -(-PROGRAMS // max(1, pieces))
    return max(1, min(wanted, -(-width // WIDTH), MOST_SHARES))


@functools.cache
def program_bytes(device: torch.device) -> int | None:
    """Memory beside a processor that one program may take; None where Triton interprets.

    From 99 KiB on GPUs for displays to 227 KiB on those for training.
    """
    if device.type != "cuda":
        return None
    found = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return int(found["max_shared_mem"])


def stages(step_bytes: int, device: torch.device) -> int:
    """How many steps of a loop a program loads ahead, of which each takes so many bytes; 0: not even one.

    As many as Triton takes by itself, unless they do not fit: then it would compile and not start.
    """
    most = 2 if torch.version.hip else 3
    room = program_bytes(device)
    return most if room is None else min(most, room // step_bytes)


PROGRAMS = 528  # four for each multiprocessor of a large GPU
MOST_SHARES = 8
DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
