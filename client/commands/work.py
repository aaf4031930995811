"""What every command that trains does around its own step: load, say the cost, train, store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.commands.options import readable_bytes, readable_seconds
from client.console import progress_bars, say
from client.workspace import Workspace, write_state
from proper_model.errors import ConfigError, InterruptedRunError

if TYPE_CHECKING:
    from client.bundle_store import InstalledBundle
    from client.learning import Learner
    from client.personal_state import PersonalState
    from client.training import Histories, Spent
    from client.vault import Vault

PHASES = {
    "embedding": "finding your embedding",
    "adapter": "training your adapter",
    "update": "training with your new items",
    "stage 1": "asking the population's model",
    "stage 2": "asking the group's model",
    "stage 3": "asking your model",
}


@dataclass(frozen=True)
class Memory:
    """What the options say about memory."""

    limit_bytes: int | None = None
    base_weights: str | None = None
    recompute: bool = False


def new_state(bundle: InstalledBundle, vault: Vault) -> PersonalState:
    """A person before the first adaptation, with a seed of their own.

    It is the same whenever the same vault is asked: an interrupted first adaptation can be resumed.
    """
    from client.personal_state import PersonalState

    return PersonalState(bundle.bundle_id, bundle.version, seed=vault.number("personal seed"))


def stored_state(vault: Vault) -> PersonalState | None:
    """What the vault holds, None before the first adaptation."""
    from client.personal_state import decode

    content = vault.read()
    return None if content is None else decode(content.payload)


@contextmanager
def learner_for(workspace: Workspace, bundle: InstalledBundle, memory: Memory) -> Iterator[Learner]:
    """A learner over a release, within the memory the options name."""
    from client.bundles import base_bytes
    from client.learning import Learner
    from client.memory_choice import choose
    from proper_model.memory import return_freed_memory

    choice = choose(
        memory.limit_bytes,
        base_bytes(workspace.home, bundle),
        base_weights=memory.base_weights,
        recompute=memory.recompute,
    )
    if memory.limit_bytes is not None:
        return_freed_memory()
        say(
            f"base weights: {choice.base_weights}; training may take "
            f"{readable_bytes(choice.training_bytes or 0)} beside the base"
        )
    with progress_bars(lambda phase: PHASES.get(phase, phase)) as show:
        show("loading the model", 0, 0)
        release = workspace.load(bundle, base_weights=choice.base_weights)
        learner = Learner(release, memory_bytes=choice.training_bytes, progress=show)
        if choice.recompute:
            learner.with_user_settings(recompute_activations=True)
        yield learner


def say_cost(learner: Learner, histories: Histories) -> None:
    """One line before the work: items, time, memory, disk."""
    from client.cost import estimate

    cost = estimate(learner, histories)
    low, high = readable_seconds(cost.fastest_s), readable_seconds(cost.slowest_s)
    took = low if low == high else f"{low} to {high}"
    say(
        f"{cost.items} items: about {took}, {readable_bytes(cost.memory_bytes)} of memory, "
        f"{readable_bytes(cost.disk_bytes)} of disk"
    )


def train(
    vault: Vault,
    learner: Learner,
    state: PersonalState,
    histories: Histories,
    what: str,
    step: Callable[[], PersonalState],
    *,
    resume: bool,
) -> tuple[PersonalState, Spent]:
    """Run one training step with sealed checkpoints.

    Raises InterruptedRunError on Ctrl-C; what the vault holds is then what it held before.
    """
    from client import training

    key = training.work_key(learner, state, histories, what)
    if resume and not training.can_resume(vault, key):
        if training.leftovers(vault):
            raise ConfigError(
                "what was interrupted is other work: other items, options or release",
                hint="repeat that very command with --resume, or leave --resume out to begin anew",
            )
        say("nothing was interrupted; beginning anew")
    training.discard(vault, keep=key if resume else None)
    learner.checkpoint = training.checkpoint(vault, key)
    try:
        return training.measured(step)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted",
            hint="your adapter is as before; the same command with --resume goes on",
        ) from None


def store(vault: Vault, state: PersonalState, *, what: str, task: str, items: int) -> int:
    """Write the state with a line of history, then drop checkpoints; returns the generation."""
    from client import training

    generation = write_state(vault, dataclasses.replace(state).noted(what, task, items))
    training.discard(vault)
    return generation
