"""From a contender's kind to the contender."""

from __future__ import annotations

from benchmarks.contenders.ours import Ours, OursForward
from benchmarks.contenders.rival_loops import NaiveMoe, PeftLoop
from benchmarks.contenders.rival_mixed import PeftMixed
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.world import Contender, World
from benchmarks.limit import Limit, StockLimit
from benchmarks.rival_trainer import HfTrainer


def make_contender(world: World) -> Contender:
    """The contender that `world.spec` names; it takes the world's base for itself."""
    match world.spec.kind:
        case "trainer":
            return HfTrainer(world)
        case "peft-loop":
            return PeftLoop(world)
        case "naive-moe":
            return NaiveMoe(world)
        case "vmap":
            return Vmap(world)
        case "peft-mixed":
            return PeftMixed(world, training=True, gradients=True)
        case "peft-mixed-eval":
            return PeftMixed(world, training=False, gradients=True)
        case "peft-mixed-forward":
            return PeftMixed(world, training=False, gradients=False)
        case "ours":
            return Ours(world, experts=False)
        case "ours-moe":
            return Ours(world, experts=True)
        case "ours-forward":
            return OursForward(world, experts=False)
        case "limit":
            return Limit(world)
        case "limit-stock":
            return StockLimit(world)
    raise AssertionError(world.spec.kind)  # a spec of another kind cannot be made
