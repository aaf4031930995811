"""Dropout masks: right rate, independent of place and company, fresh for every sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from proper_model.kernels.dropout import (
    fill_keep_mask,
    hashed_mask,
    mix_seed,
    row_masks,
    threshold,
)
from proper_model.kernels.layout import Layout


def keep_mask(seed: int, tokens: int, width: int, p: float) -> torch.Tensor:
    mask = torch.full((tokens, width), -1.0)
    fill_keep_mask(mask, seed, p)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    return mask


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_rate(p: float) -> None:
    kept = keep_mask(1, 400, 500, p).mean().item()
    assert kept == pytest.approx(1 - p, abs=4 * (p * (1 - p) / 200_000) ** 0.5)


def test_every_lane_of_a_draw_is_used_alike() -> None:
    mask = keep_mask(3, 1000, 400, 0.5)
    for lane in range(4):
        assert mask.flatten()[lane::4].mean().item() == pytest.approx(0.5, abs=0.01)


def test_a_rows_mask_does_not_depend_on_place_or_company() -> None:
    layout = Layout.of([6, 4, 4])
    together = row_masks(torch.ones(14, 8), 0.3, [11, 22, 33], layout, site=5)
    alone = row_masks(torch.ones(4, 8), 0.3, [22], Layout.of([4]), site=5)
    assert torch.equal(together[6:10], alone)
    moved = row_masks(torch.ones(5, 8), 0.3, [44, 22], Layout.of([1, 4]), site=5)
    assert torch.equal(moved[1:], alone)
    assert not torch.equal(together[10:], alone)
    assert set(together.unique().tolist()) == {0.0, 1.0}


def test_every_row_brings_a_seed() -> None:
    with pytest.raises(ValueError, match="zip"):
        row_masks(torch.ones(5, 8), 0.3, [1], Layout.of([1, 4]), site=0)


def test_masks_differ_between_samples_and_linears_at_the_right_rate() -> None:
    x, layout = torch.ones(50, 64), Layout.of([50])
    first = row_masks(x, 0.2, [1], layout, site=0)
    assert not torch.equal(first, row_masks(x, 0.2, [2], layout, site=0))
    assert not torch.equal(first, row_masks(x, 0.2, [1], layout, site=1))
    assert first.mean().item() == pytest.approx(0.8, abs=0.05)


def test_seeds_mix_order_and_values() -> None:
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1)


class _Operations(TorchDispatchMode):
    """Names of all operations while open."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_hashed_mask_takes_nothing_from_the_host() -> None:
    """A tensor made of a list is a copy to the GPU, which waits for its queue."""
    layout, seeds = Layout.of([3, 1, 4]), torch.tensor([5, 1 << 40, 5])
    with _Operations() as seen:
        mask = hashed_mask(torch.ones(8, 16), threshold(0.3), seeds, layout, 2)
    assert "aten::lift_fresh" not in seen.names
    alone = hashed_mask(torch.ones(1, 16), threshold(0.3), seeds[1:2], Layout.of([1]), 2)
    assert torch.equal(mask[3:4], alone)
