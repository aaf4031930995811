"""How much memory training takes, and what fits into what there is.

    peak = base + K * (user state) + tokens * (activations a token)
         + trials * (best state) + workspace

for K users that train at once. The user state is exact: weights, gradient and AdamW's two moments of one slot. The best state of
every trial is kept in host memory, which on a CPU is the same memory. Activations are what a pass
forward and backward takes at its peak, counted on a small probe rather than guessed from the
architecture (docs/performance.md 2). `benchmarks.memory` compares all this with a process's real peak.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Item = TypeVar("Item")

# Weights, gradient, first and second moment.
STATES = 4
# What malloc.h calls the two settings, and the size from which freed blocks are given back where memory is short.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE_BLOCK = 1 << 17
# The same where it is not, the largest first: versions of glibc differ in what they take.
HUGE_BLOCKS = 1 << 30, 1 << 25
# Rows of the two probes whose difference is counted.
PROBE_ROWS = (1, 2)
# What libraries and the allocator take beside tensors: measured, about the same for all sizes.
WORKSPACE = 8 << 20
# What stays free for the allocator's fragments and the optimizer's own temporaries.
RESERVE = 0.15


@dataclass(frozen=True)
class MemoryModel:
    """Bytes of one host's training, beside the base itself."""

    slot_bytes: int
    token_bytes: int
    trial_bytes: int = 0

    def peak(self, slots: int, tokens: int, trials: int) -> int:
        """Bytes beyond the base: `slots` resident users of `trials`, `tokens` in a forward pass."""
        resident = slots * self.slot_bytes + trials * self.trial_bytes
        return resident + tokens * self.token_bytes + WORKSPACE

    def fit(self, budget: int, *, trials: int, tokens: int, least_tokens: int) -> tuple[int, int]:
        """Slots and tokens a step within `budget` bytes, at most `trials` and `tokens`.

        Users come first: a user more in a shared pass saves more than a token more. At least one
        user and `least_tokens`, the longest sample, remain whatever the budget says.
        """
        usable = int(budget * (1 - RESERVE)) - trials * self.trial_bytes - WORKSPACE
        slots = max(1, min(trials, (usable - least_tokens * self.token_bytes) // self.slot_bytes))
        fixed = slots * self.slot_bytes + trials * self.trial_bytes
        return slots, tokens_within(
            budget, fixed, self.token_bytes, tokens=tokens, least=least_tokens
        )


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that tensors take at once during `run()`, beyond what there was before.

    A GPU's allocator knows; on a CPU every operation's results are followed until they are freed, so
    that temporaries of the backward pass count as well as what autograd keeps.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with LiveMemory() as live:
        run()
    return int(live.peak)


class LiveMemory(TorchDispatchMode):
    """Follows storages that operations make while it is open.

    Attributes:
        live: bytes of those that still exist; peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            self._follow(tensor, new=False)  # was there before, or is known already
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            self._follow(tensor, new=True)
        return result

    def _follow(self, tensor: object, *, new: bool) -> None:
        if not isinstance(tensor, Tensor) or tensor.is_sparse:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - what tells two storages apart
        if key in self._known:
            return
        size = storage.nbytes() if new else 0

        def freed(_: Any) -> None:
            self._known.pop(key, None)
            self.live -= size

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def bytes_a_token(run: Callable[[int], object], length: int, device: torch.device) -> int:
    """Peak bytes for one token more, `run(rows)` being a pass of rows of `length` and back again.

    The difference of two passes, in which what does not grow cancels. Where a GPU has no room for
    the second, so many bytes that no budget has room for more than one row.
    """
    try:
        few, more = (peak_bytes(lambda rows=rows: run(rows), device) for rows in PROBE_ROWS)  # type: ignore[misc]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        few, more = 0, sys.maxsize
    release_memory(device)
    return max(1, -(-(more - few) // ((PROBE_ROWS[1] - PROBE_ROWS[0]) * length)))


def tokens_within(budget: int, fixed: int, token_bytes: int, *, tokens: int, least: int) -> int:
    """Tokens of one pass that fit `budget` bytes beside `fixed` ones: `least` to `tokens`."""
    usable = int(budget * (1 - RESERVE)) - fixed - WORKSPACE
    return max(least, min(tokens, usable // token_bytes))


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's own error and for a failed allocation on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU's allocator raises a plain RuntimeError, with either wording.
    said = str(error) if isinstance(error, RuntimeError) else ""
    return "can't allocate memory" in said or "not enough memory" in said


def in_parts(
    items: Sequence[Item], run: Callable[[Sequence[Item]], None], device: torch.device
) -> None:
    """`run(items)`; where memory runs out, the same for one half and then the other.

    `run` must leave nothing behind when it fails. One item that does not fit is an error.
    """
    try:
        run(items)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error) or len(items) < 2:
            raise
    # Outside the handler: the exception holds the failed pass's memory.
    release_memory(device)
    middle = len(items) // 2
    in_parts(items[:middle], run, device)
    in_parts(items[middle:], run, device)


def return_freed_memory() -> None:
    """Have the C library give large freed blocks back at once, where it can be asked (glibc).

    Left alone it keeps blocks of up to 32 MiB for later, and a training step's many sizes leave
    it holding a third more than is in use. Asking costs page faults, so only a process that has
    a budget asks.
    """
    _give_back((LARGE_BLOCK,))


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks for the next step, where it can be asked (glibc).

    A step allocates the same large tensors again and again. Left alone the C library returns many of
    them, and the system fills each with zeros anew: up to a fifth of a step's time over a small base.
    For processes that train many people and have no budget.
    """
    _give_back(HUGE_BLOCKS)


def manage_freed_memory(budget: int | None) -> None:
    """`return_freed_memory` in a process that has a budget, `keep_freed_memory` in one that has none."""
    if budget is None:
        keep_freed_memory()
    else:
        return_freed_memory()


def _give_back(sizes: Sequence[int]) -> None:
    """From which size on freed blocks are given back: the first of these that the C library takes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for size in sizes:
        # Not the second without the first: either alone stops glibc from adjusting the other.
        if mallopt(_M_MMAP_THRESHOLD, size):
            mallopt(_M_TRIM_THRESHOLD, size)
            return


def release_memory(device: torch.device) -> None:
    """Give back what a failed step still holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int | None:
    """Memory that training may still take on a GPU; None on a CPU, where the user decides."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)
