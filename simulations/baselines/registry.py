"""All methods to compare with, by the name they have in tables, and what each is defined for.

Reading the list imports no method: an arm's module is loaded when the arm is made. A method is added
by a line in `ARMS` and, where it is not for every task, one in `_LIMITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from proper_model.errors import ConfigError
from proper_model.tasks import Task

if TYPE_CHECKING:
    from simulations.baselines.arm import Arm
    from simulations.baselines.prompted import PromptedArm


def fits(name: str, task: Task) -> str | None:
    """Why an arm is not defined for a task; None: it is. Raises ConfigError for an unknown name.

    What only the data show (no text that several people rated) is said by `Arm.predict`.
    """
    check_names([name])
    limit = _LIMITS.get(name)
    return None if limit is None else limit(task)


def make(name: str) -> Arm:
    """A new arm. Raises ConfigError for an unknown name."""
    check_names([name])
    return ARMS[name]()


def prompted(name: str) -> PromptedArm:
    """An arm that puts something of the person before every question. Raises ConfigError for any other."""
    from simulations.baselines.prompted_arms import PROMPTED

    check_names([name])
    if name not in PROMPTED:
        raise ConfigError(f"'{name}' asks with no prompt", hint=f"known: {', '.join(PROMPTED)}")
    return PROMPTED[name]


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError if one of them is no arm of the registry."""
    unknown = sorted(set(names) - set(ARMS))
    if unknown:
        raise ConfigError(
            "unknown methods: " + ", ".join(unknown), hint=f"known: {', '.join(ARMS)}"
        )


def _floor(name: str) -> Arm:
    from simulations.baselines.floor_arms import FLOORS

    return FLOORS[name]


def _oppu(name: str) -> Arm:
    from simulations.baselines.oppu import OPPU

    return OPPU[name]


def _per_pcs() -> Arm:
    from simulations.baselines.per_pcs import PerPcs

    return PerPcs()


def _hypernetwork() -> Arm:
    from simulations.baselines.hypernetwork import Hypernetwork

    return Hypernetwork()


def _labels(task: Task, *, ordinal: bool) -> str | None:
    from simulations.baselines.floors import no_floor

    return no_floor(task.kind, ordinal=ordinal)


_FLOORS = ("majority", "own-majority", "tfidf")
_ORDINAL_FLOORS = ("item-mean", "item-offset", "own-mean", "own-median", "gaussian", "factors")
_PROMPTED = (
    *("icl", "rag-1", "rag-2", "rag-4", "full-history", "pag-counted", "pag-written"),
    # Trained and asked with items before; then trained without, and only asked with something.
    *("oppu-mlp+rag-1", "stage3+rag-1", "oppu-mlp+rag-4", "stage3+rag-4"),
    *("oppu-mlp+rag-1-asked", "stage3+rag-1-asked", "oppu-mlp+rag-4-asked", "stage3+rag-4-asked"),
    *("oppu-mlp+pag-asked", "stage3+pag-asked"),
)
_OPPU = (
    *("oppu-kv", "oppu-qv", "oppu-kv+rag-1", "oppu-qv+rag-1"),
    *("oppu-kv+rag-4", "oppu-qv+rag-4"),
)

ARMS: Mapping[str, Callable[[], Arm]] = {
    **{name: partial(_floor, name) for name in (*_FLOORS, *_ORDINAL_FLOORS)},
    **{name: partial(prompted, name) for name in _PROMPTED},
    **{name: partial(_oppu, name) for name in _OPPU},
    "per-pcs": _per_pcs,
    "hypernetwork": _hypernetwork,
}
_LIMITS: Mapping[str, Callable[[Task], str | None]] = {
    **{name: partial(_labels, ordinal=False) for name in _FLOORS},
    **{name: partial(_labels, ordinal=True) for name in _ORDINAL_FLOORS},
}
