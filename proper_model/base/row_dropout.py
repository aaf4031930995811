"""Dropout of stage 1's PEFT model, drawn a sample at a time as everywhere else (`dropout`).

PEFT's own draws one mask for a whole pass from torch's global state, so a step cut otherwise by
memory would train otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from proper_model.kernels.dropout import row_masks
from proper_model.kernels.packing import Batch


class RowDropout(torch.nn.Module):
    """Drops with probability `p` at linear `site` while a batch with seeds is open, else nothing."""

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p, self.site = p, site
        self.batch: Batch | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [1, M, d] of a packed pass -> the same shape, rescaled by 1 / (1 - p)."""
        batch = self.batch
        if batch is None or batch.seeds is None:
            return x
        flat = x.reshape(-1, x.shape[-1])
        mask = row_masks(flat, self.p, batch.seeds, batch.layout, self.site)
        return (flat * mask / (1 - self.p)).view_as(x)

    def extra_repr(self) -> str:
        return f"{self.p}, {self.site}"


def drop_by_row(peft: torch.nn.Module) -> None:
    """Replace the dropout of PEFT's adapters by one that is drawn a row at a time."""
    for site, path in enumerate(_dropouts(peft)):
        parent, _, name = path.rpartition(".")
        before = peft.get_submodule(path)
        assert isinstance(before, torch.nn.Dropout)
        peft.get_submodule(parent).add_module(name, RowDropout(before.p, site))


def _dropouts(peft: torch.nn.Module) -> list[str]:
    return [
        path
        for path, module in peft.named_modules()
        if ".lora_dropout." in path and isinstance(module, torch.nn.Dropout)
    ]


@contextmanager
def dropping(peft: torch.nn.Module, batch: Batch) -> Iterator[None]:
    """Drop by the seeds of `batch`, if it has any, while open."""
    own = [module for module in peft.modules() if isinstance(module, RowDropout)]
    for module in own:
        module.batch = batch
    try:
        yield
    finally:
        for module in own:
            module.batch = None
