"""Rival: PEFT's `adapter_names`, one adapter a row of a mixed batch.

PEFT refuses this in training mode, so the model is in eval mode, which gives up dropout. Logits are
taken at answers only.
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.rival_loops import (
    Update,
    copied,
    load_factors,
    peft_factors,
    with_peft,
)
from benchmarks.contenders.world import (
    Factors,
    NotPossibleError,
    Row,
    World,
    row_losses,
    shared_steps,
    start_of,
    step_count,
)
from proper_model.base.sites import find_sites


class PeftMixed:
    """One PEFT adapter a user in one model; every shared pass mixes rows of many users."""

    def __init__(self, world: World) -> None:
        if world.settings.dropout:
            raise NotPossibleError("NoDropout: a model in eval mode has none")
        self.world, self.widths = world, world.widths()
        paths = [site.path for site in find_sites(world.base)]
        self.model, config = with_peft(world)
        names = [str(number) for number in range(len(world.users))]
        for name in names:
            self.model.add_adapter(name, config)
        self.factors = [peft_factors(self.model, paths, name) for name in names]
        for factors in self.factors:  # PEFT leaves all adapters but the first frozen
            for a, b in factors:
                a.requires_grad_()
                b.requires_grad_()
        self.model.eval()
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Train all users together, once from the start."""
        world, settings = self.world, self.world.settings
        with clock.setup():
            updates = []
            for factors, user in zip(self.factors, world.users, strict=True):
                load_factors(factors, start_of(self.widths, world, user))
                updates.append(Update(world, factors, step_count(user, settings)))
        with clock.train():
            for step in shared_steps(world.users, settings):
                for rows in step:
                    self._loss(rows).backward()
                for slot in {row.slot for rows in step for row in rows}:
                    updates[slot].step()
        if world.keep:
            self.trained = {u: copied(factors) for u, factors in enumerate(self.factors)}

    def _loss(self, rows: list[Row]) -> Tensor:
        names = [str(row.slot) for row in rows]
        losses = row_losses(self.model, self.world.padded(rows), adapter_names=names)
        return (losses * losses.new_tensor([row.share for row in rows])).sum()
