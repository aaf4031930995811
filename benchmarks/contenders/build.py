"""From a workload and a contender's spec to a world and the contender that trains in it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.contenders.ours import Limit, Ours
from benchmarks.contenders.rival_loops import NaiveMoe, PeftLoop
from benchmarks.contenders.rival_mixed import PeftMixed
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.sizes import build_base, shape_of
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import LONGEST, Workload, make_users
from benchmarks.contenders.world import Contender, World
from proper_model.trials import TrialSettings

CONTENDERS: dict[str, Callable[[World], Contender]] = {
    "naive-moe": NaiveMoe,
    "peft-loop": PeftLoop,
    "peft-mixed-eval": PeftMixed,
    "vmap": Vmap,
    "ours": lambda world: Ours(world, experts=False),
    "ours-moe": lambda world: Ours(world, experts=True),
    "limit": Limit,
}


def make_contender(world: World) -> Contender:
    """The contender that `world.spec` names; it takes the world's base for itself."""
    return CONTENDERS[world.spec.kind](world)


def build_world(
    work: Workload,
    spec: Spec,
    *,
    device: torch.device,
    users: int | None = None,
    dropout: float = 0.0,
    keep: bool = False,
) -> World:
    """A world for one contender; `users` trains only the first of the workload's."""
    base = build_base(
        work.size,
        dtype=spec.torch_dtype,
        device=device,
        seed=work.seed,
        attention=spec.attention,
        positions=max(LONGEST, work.tokens),
    )
    settings = TrialSettings(
        epochs=1,
        batch_size=spec.batch,
        dropout=dropout,
        weight_decay=0.01,
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        tokens_per_step=spec.tokens_per_step,
    )
    chosen = make_users(work, shape_of(work.size).vocabulary)[:users]
    return World(spec, base, chosen, work.seed, settings, keep=keep)
