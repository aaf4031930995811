"""Dropout masks: right rate, independent of company and padding, fresh for every sample."""

from __future__ import annotations

import pytest
import torch

from proper_model.dropout import fill_keep_mask, mix_seed, row_masks


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


def test_a_rows_mask_does_not_depend_on_padding_or_company() -> None:
    x = torch.ones(2, 6, 8)
    together = row_masks(x, 0.3, [11, 22], [6, 4], site=5)
    alone = row_masks(torch.ones(1, 9, 8), 0.3, [22], [4], site=5)
    assert torch.equal(together[1, 2:], alone[0, 5:])
    assert not together[1, :2].any()


def test_masks_differ_between_samples_and_linears_at_the_right_rate() -> None:
    x = torch.ones(1, 50, 64)
    first = row_masks(x, 0.2, [1], [50], site=0)
    assert not torch.equal(first, row_masks(x, 0.2, [2], [50], site=0))
    assert not torch.equal(first, row_masks(x, 0.2, [1], [50], site=1))
    assert first.mean().item() == pytest.approx(0.8, abs=0.05)


def test_seeds_mix_order_and_values() -> None:
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= s < 2**63 for s in seeds)
    assert mix_seed(1, 2) != mix_seed(2, 1)
