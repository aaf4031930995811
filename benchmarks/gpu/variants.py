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
    """How an engine is set up; `what` says it in a few words."""

    what: str
    configure: Callable[[Ours], None]


def with_backend(backend: Backend) -> Callable[[Ours], None]:
    """The engine as it is, on one backend."""

    def configure(ours: Ours) -> None:
        ours.model.backend = backend

    return configure


VARIANTS: dict[str, Variant] = {
    "grouped": Variant("the backend of GPUs as it is", with_backend(Backend.GROUPED)),
    "fused": Variant("the backend of CPUs", with_backend(Backend.FUSED)),
}
