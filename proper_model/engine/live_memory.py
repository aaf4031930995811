"""The most memory that tensors take at once while something runs.

On a GPU its allocator tells. On a CPU every operation's results are followed until they are freed,
so that temporaries of the backward pass count as well as what autograd keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that `run()` takes at its peak, beyond what there was before."""
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
