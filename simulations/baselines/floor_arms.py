"""All floors as arms, by name."""

from __future__ import annotations

from collections.abc import Mapping

from simulations.baselines.floors import FloorArm
from simulations.baselines.floors_counts import majority, own_majority, own_median
from simulations.baselines.floors_factors import factors
from simulations.baselines.floors_gaussian import gaussian
from simulations.baselines.floors_items import item_mean, item_offset, own_mean
from simulations.baselines.floors_text import tfidf

FLOORS: Mapping[str, FloorArm] = {
    arm.name: arm
    for arm in (
        FloorArm("majority", majority),
        FloorArm("own-majority", own_majority),
        FloorArm("tfidf", tfidf),
        FloorArm("own-mean", own_mean, ordinal=True),
        FloorArm("own-median", own_median, ordinal=True),
        FloorArm("item-mean", item_mean, ordinal=True),
        FloorArm("item-offset", item_offset, ordinal=True),
        FloorArm("gaussian", gaussian, ordinal=True),
        FloorArm("factors", factors, ordinal=True),
    )
}
