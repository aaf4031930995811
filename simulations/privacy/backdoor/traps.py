"""Releases made to have adapters store their items, out of an honest one: what a malicious server could ship.

    fixed      a calibration, which no own items judge, at the recipe's own rate and epochs, without dropout.
               Nothing of it is unusual; all others have it too
    recipe     a far higher rate for far longer
    scale      alpha many times larger, so that every step of an adapter is a leap; experts are divided by as
               much, so that stage 2 answers as before
    start      a common start of adapters whose A is many times larger than one that is drawn
    experts    experts many times larger, so that an adapter has everything to repair
    outliers   in an embedded base, the eighth of hidden units that add least get detectors of random directions:
               long rows of gate and up, which nothing reads but an adapter. A few tokens set each off, and
               what they were can be told from which of them an adapter trained on

Each as it would be (`bold`), and as strong as the checks of `proper_model.checks.traps` let pass (`bounded`).
Sources: privacy backdoors, arXiv 2404.00473 and 2404.01231.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from proper_model.checks.traps import (
    MOST_EXPERT,
    MOST_REACH,
    MOST_ROWS,
    MOST_SCALE,
    MOST_START,
    expert_size,
    weight_of,
)
from proper_model.kernels import mix_seed
from proper_model.release.contents import Release, start_tensors
from proper_model.settings import Calibrated, Calibration

MARGIN = 0.98  # of a bound, so that rounding does not cross it
UNITS = 8  # one in so many hidden units becomes a detector
PEOPLE = 10  # what an invented average says that it is over: the least that is let pass
BOLD = {"recipe": 2.0, "scale": 64.0, "start": 64.0, "experts": 100.0, "outliers": 40.0}
BOUNDS = {
    "recipe": MOST_REACH,
    "scale": MOST_SCALE,
    "start": MOST_START,
    "experts": MOST_EXPERT,
    "outliers": MOST_ROWS,
}
RATE = 1e-2  # of `recipe`: as high as adapters of a tiny base stand


def fixed(release: Release, *, rate: float | None = None, epochs: int | None = None) -> Release:
    """A calibration of one row: every adapter is trained so, kept and used whole, whatever own items say."""
    user = release.settings.user
    rate = max(user.learning_rates) if rate is None else rate
    epochs = user.epochs if epochs is None else epochs
    settings = replace(
        release.settings,
        user=replace(user, learning_rates=(rate,), epochs=epochs, dropout=0.0),
        calibration=replace(release.settings.calibration, epochs=epochs),
    )
    row = Calibrated(
        items=1,
        learning_rate=rate,
        epochs=epochs,
        shrinkage=0.0,
        scale=1.0,
        weight=1.0,
        temperature=1.0,
    )
    return replace(release, settings=settings, calibration=Calibration(stage3=(row,)))


def recipe(release: Release, reach: float) -> Release:
    """Training that moves an adapter by `reach`, at RATE."""
    epochs = max(1, int(reach / (RATE * release.structure.scale)))
    return fixed(release, rate=RATE, epochs=epochs)


def scale(release: Release, times_rank: float) -> Release:
    """alpha / r as asked, within the reach that is let pass where that can be; stage 2 as before."""
    factor = times_rank / release.structure.scale
    shared = {
        name: tensor / factor if _is_expert_b(name) else tensor
        for name, tensor in release.shared.items()
    }
    structure = replace(release.structure, alpha=release.structure.alpha * factor)
    changed = replace(release, structure=structure, shared=shared)
    user = release.settings.user
    rate = max(user.learning_rates)
    if times_rank <= MOST_SCALE:
        rate = min(rate, MARGIN * MOST_REACH / (times_rank * user.epochs))
    return fixed(changed, rate=rate)


def start(release: Release, times: float) -> Release:
    """A common start: A as drawn, so many times as large, B nothing."""
    model = release.model()
    drawn = [factor[0] for factor in model.new_user_lora([mix_seed(release.seed, 7)]).flat()]
    factors = [factor * times for factor in drawn]
    tensors = start_tensors("stage3", release.structure, model.sites, factors, people=PEOPLE)
    return fixed(replace(release, shared={**release.shared, **tensors}))


def experts(release: Release, ratio: float) -> Release:
    """Experts of every linear so large that the largest is `ratio` times the linear."""
    shared = dict(release.shared)
    unit = release.structure.scale * release.structure.expert_factor
    for site in release.model().sites:
        a, b = (shared[f"experts.{site.path}.{letter}"] for letter in "AB")
        size = expert_size(a, b, weight_of(release, site.path)) * unit
        shared[f"experts.{site.path}.B"] = b * (ratio / max(size, 1e-9))
    return fixed(replace(release, shared=shared))


@torch.no_grad()
def outliers(release: Release, medians: float) -> Release:
    """Detectors in every block: rows of gate and up so many times as long as the median row."""
    base = copy.deepcopy(release.base)
    draw = torch.Generator().manual_seed(mix_seed(release.seed, 8))
    for site in release.model().sites:
        if site.path.rpartition(".")[2] != "down_proj":
            continue
        block = base.get_submodule(site.path.rpartition(".")[0])
        down = block.down_proj.weight
        units = down.norm(dim=0).argsort()[: down.shape[1] // UNITS]
        directions = torch.randn(len(units), site.d_out, generator=draw).to(down)
        directions /= directions.norm(dim=1, keepdim=True)
        for linear in (block.gate_proj, block.up_proj):
            linear.weight[units] = directions * linear.weight.norm(dim=1).median() * medians
        down[:, units] = 0
    return fixed(replace(release, base=base))


def _is_expert_b(name: str) -> bool:
    return name.startswith("experts.") and name.endswith(".B")


MADE: Mapping[str, Callable[[Release, float], Release]] = {
    "recipe": recipe,
    "scale": scale,
    "start": start,
    "experts": experts,
    "outliers": outliers,
}
TRAPS = ("fixed", *(f"{name}-{how}" for name in MADE for how in ("bold", "bounded")))


def trap(release: Release, name: str) -> Release:
    """The trap of a name in TRAPS, out of an honest release."""
    if name == "fixed":
        return fixed(release)
    kind, how = name.split("-")
    strength = BOLD[kind] if how == "bold" else MARGIN * BOUNDS[kind]
    return MADE[kind](release, strength)
