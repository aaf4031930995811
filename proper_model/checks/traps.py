"""Would this release make a private adapter store the items that train it, word for word?

A publisher who means harm cannot read a device, but can ship what makes a leaked or stolen adapter tell
more: a recipe that trains far too long, a scale that makes every step a leap, starts or a base in which few
items set off a few numbers each (privacy backdoors, arXiv 2404.00473 and 2404.01231). Signed bytes do not
help against who signs. So a device compares with what honest releases need:

    reach     rate * epochs * s    how far training can move a product B A, as Adam moves a number by
                                   about the rate a step
    s         alpha / r            of the private LoRA
    experts   |s B_n A_n| / |W|    what an expert adds beside the linear it stands at
    starts    |A| / |A drawn|      where private LoRAs begin
    base      the longest row of gate and up, in medians; of an embedded base alone, since one that is
              referred to is public, and its hashes are signed

Bounds are several times what shipped profiles and trained releases have, so a trap within them remains
possible: it gains less (docs/privacy.md, backdoored releases). What is not looked at: the base's other
weights, and templates.

Letters: N experts, r rank, i and o widths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from proper_model.base.quantized import QuantizedLinear
from proper_model.base.sites import find_sites
from proper_model.bundle.file_names import BASE, RECIPE, SHARED
from proper_model.errors import BundleFormatError
from proper_model.release.contents import STARTED_ARMS, Release
from proper_model.release.recipe import Recipe
from proper_model.settings.calibration import Calibration
from proper_model.settings.presets import Structure
from proper_model.settings.profile import StageSettings

MOST_SCALE = 16.0
MOST_REACH = 0.5
MOST_EXPERT = 10.0
MOST_START = 8.0
MOST_ROW = 16.0  # SmolLM2-135M has single rows of 9.7 medians
MOST_ROWS = 4.0  # of one row in a hundred: 3 there, 1.6 in bases of a few million parameters
_HINT = "adapters over it could store your items word for word: tell the publisher, do not adapt"


def reach_of(
    structure: Structure, settings: StageSettings, calibration: Calibration | None
) -> float:
    """How far a device's training may move B A by the recipe, in units of A's start."""
    user = settings.user
    pairs = [(rate, user.epochs) for rate in user.learning_rates]
    if calibration is not None:
        rows = (*calibration.stage3, *calibration.oppu_mlp)
        pairs += [(row.learning_rate, row.epochs) for row in rows]
    return max(rate * epochs for rate, epochs in pairs) * structure.scale


def check_training(recipe: Recipe) -> None:
    """Raise BundleFormatError for a recipe whose private training is far beyond any that is needed."""
    structure = recipe.structure
    if structure.scale > MOST_SCALE:
        raise BundleFormatError(
            f"{RECIPE}: structure.alpha is {structure.scale:g} times the rank, expected at most "
            f"{MOST_SCALE:g} times",
            hint=_HINT,
        )
    reach = reach_of(structure, recipe.settings, recipe.calibration)
    if reach > MOST_REACH:
        raise BundleFormatError(
            f"{RECIPE}: learning rate times epochs times alpha / rank of private adapters is "
            f"{reach:.3g}, expected at most {MOST_REACH:g}",
            hint=_HINT,
        )


def check_weights(release: Release, *, embedded: bool) -> None:
    """Raise BundleFormatError for shared weights, or an embedded base's, far from any that trained.

    One pass over the feed-forward's weights, on the device that holds them.
    """
    for site in find_sites(release.base):
        path, weight = site.path, weight_of(release, site.path)
        for name, found, most in _ratios(release.shared, path, weight, release.structure):
            if found > most:
                raise BundleFormatError(
                    f"{SHARED}: {name} of {path} are {found:.3g} times as large as expected, at most "
                    f"{most:g} is usual",
                    hint=_HINT,
                )
        if not embedded:
            continue
        longest, hundredth = long_rows(path, weight)
        for name, found, most in (
            ("a row", longest, MOST_ROW),
            ("one row in a hundred", hundredth, MOST_ROWS),
        ):
            if found > most:
                raise BundleFormatError(
                    f"{BASE}: {name} of {path} is {found:.3g} times as long as the median, expected "
                    f"at most {most:g} times",
                    hint=_HINT,
                )


def weight_of(release: Release, path: str) -> Tensor:
    """A linear's weight [o, i], unpacked where the base is quantized."""
    module = release.base.get_submodule(path)
    if isinstance(module, QuantizedLinear):
        return module.unpacked(torch.float32)
    weight: Tensor = module.weight.detach()
    return weight


def long_rows(path: str, weight: Tensor) -> tuple[float, float]:
    """Of what fills the hidden units, gate and up, the longest row and the 99th percentile, in medians.

    Of other linears 1 and 1.
    """
    if path.rpartition(".")[2] == "down_proj":
        return 1.0, 1.0
    rows = weight.float().norm(dim=1).sort().values
    rows = rows / rows.median().clamp(min=1e-30)
    return float(rows[-1]), float(rows[int(0.99 * (len(rows) - 1))])


def _ratios(
    shared: Mapping[str, Tensor], path: str, weight: Tensor, structure: Structure
) -> Iterator[tuple[str, float, float]]:
    """Name, size and bound of what stands at one linear."""
    if f"experts.{path}.A" in shared:
        a, b = (shared[f"experts.{path}.{letter}"] for letter in "AB")
        found = expert_size(a, b, weight) * structure.scale * structure.expert_factor
        yield "experts", found, MOST_EXPERT
    for arm in STARTED_ARMS:
        if f"starts.{arm}.{path}.A" in shared:
            start = start_size(shared[f"starts.{arm}.{path}.A"])
            yield f"starts of {arm}", start, MOST_START


def expert_size(a: Tensor, b: Tensor, weight: Tensor) -> float:
    """The largest |B_n A_n| / |W|, Frobenius norms: A [N, r, i], B [N, o, r], W [o, i]."""
    inner_a = torch.einsum("nri,nsi->nrs", a.float(), a.float())
    inner_b = torch.einsum("nor,nos->nrs", b.float(), b.float())
    squares = (inner_b * inner_a).sum(dim=(1, 2))  # |B A|^2 = tr(B'B AA')
    largest = math.sqrt(max(0.0, float(squares.max())))
    return largest / max(1e-30, float(weight.float().norm()))


def start_size(a: Tensor) -> float:
    """|A| over that of a factor as it is drawn, uniform in +-1 / sqrt(i): A [r, i]."""
    return float(a.double().norm()) / math.sqrt(a.shape[0] / 3)
