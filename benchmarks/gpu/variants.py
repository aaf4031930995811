"""Variants of the engine that race each other: a name, what it is, and how it is set up.

To add one, write a function that configures an `Ours` and name it in VARIANTS. It may set
`ours.model.backend`, replace `ours.world.settings`, and set `ours.around` to a function that opens a
context around the training of every round, where it may put modules into `ours.world.base`; what it
changes must be as before when the context closes, since everybody shares the base. Before it is
timed, what it trains is compared with the reference (`agreement`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contenders.ours import Ours
from proper_model.kernels.ops import Backend

REFERENCE = "reference"  # no contender: what all are compared with


@dataclass(frozen=True)
class Variant:
    """How an engine is set up; `what` says it in a few words.

    `part` is one that shows what a part of the engine brings: it races at one sample a step, and
    where all samples are alike.
    """

    what: str
    configure: Callable[[Ours], None]
    part: bool = False


def with_backend(backend: Backend) -> Callable[[Ours], None]:
    """The engine as it is, on one backend."""

    def configure(ours: Ours) -> None:
        ours.model.backend = backend

    return configure


def without_kernels(*, blocks: bool = False) -> Callable[[Ours], None]:
    """PyTorch's own routines, but for the base's norms, rotations and gated units with `blocks`."""

    def configure(ours: Ours) -> None:
        ours.model.backend, ours.model.fuse_base = Backend.GROUPED, blocks
        ours.fused_optimizer = False

    return configure


def kernels(ours: Ours) -> None:
    """The engine as it is on a GPU with Triton."""
    ours.model.backend, ours.model.fuse_base = Backend.KERNELS, True


def kernels_plain_optimizer(ours: Ours) -> None:
    """`kernels`, but for the optimizer."""
    kernels(ours)
    ours.fused_optimizer = False


VARIANTS: dict[str, Variant] = {
    "kernels": Variant("kernels for all of it", kernels),
    "grouped": Variant("PyTorch's routines, grouped products", without_kernels()),
    "blocks": Variant(
        "grouped, kernels for the base's blocks", without_kernels(blocks=True), part=True
    ),
    "plain-optimizer": Variant("kernels but for the optimizer", kernels_plain_optimizer, part=True),
}
