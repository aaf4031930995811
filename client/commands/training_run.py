"""What every command that trains does around its own step: load, say the cost, train, store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.commands.options import readable_bytes, readable_seconds
from client.person.workspace import Workspace, write_state
from client.terminal.console import progress_bars, say
from proper_model.errors import ConfigError, InterruptedRunError

if TYPE_CHECKING:
    from client.commands.resumable import Histories, Spent
    from client.person.learner import Learner
    from client.person.load_for_training import MemoryChoice
    from client.person.state import PersonalState
    from client.releases.store import InstalledBundle
    from client.vault.opening import Vault
    from proper_model.release.contents import Release

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
    from client.person.state import PersonalState

    return PersonalState(bundle.bundle_id, bundle.version, seed=vault.number("personal seed"))


def stored_state(vault: Vault) -> PersonalState | None:
    """What the vault holds, None before the first adaptation."""
    from client.person.state import decode

    content = vault.read()
    return None if content is None else decode(content.payload)


def load_within(
    workspace: Workspace,
    bundle: InstalledBundle,
    state: PersonalState | None,
    memory: Memory,
) -> tuple[Release, MemoryChoice]:
    """A release with its base held as the options say, else as the adapters were trained."""
    from client.person.load_for_training import choose
    from client.releases.base_facts import base_facts
    from proper_model.engine import return_freed_memory

    choice = choose(
        memory.limit_bytes,
        base_facts(workspace.home, bundle),
        asked=memory.base_weights,
        stored=None if state is None else state.base_weights,
        recompute=memory.recompute,
    )
    if memory.limit_bytes is not None:
        return_freed_memory()
    release = workspace.load(
        bundle, memory_bytes=choice.training_bytes, base_weights=choice.base_weights
    )
    if choice.recompute:
        user = dataclasses.replace(release.settings.user, recompute_activations=True)
        settings = dataclasses.replace(release.settings, user=user)
        release = dataclasses.replace(release, settings=settings)
    return release, choice


@contextmanager
def learner_for(
    workspace: Workspace,
    bundle: InstalledBundle,
    state: PersonalState | None,
    memory: Memory,
) -> Iterator[Learner]:
    """A learner over a release, within the memory the options name."""
    from client.person.learner import Learner

    with progress_bars(lambda phase: PHASES.get(phase, phase)) as show:
        show("loading the model", 0, 0)
        release, choice = load_within(workspace, bundle, state, memory)
        if choice.training_bytes is not None:
            say(
                f"base weights: {choice.base_weights}; training may take "
                f"{readable_bytes(choice.training_bytes)} beside the base"
            )
        yield Learner(release, memory_bytes=choice.training_bytes, progress=show)


def say_cost(
    workspace: Workspace,
    learner: Learner,
    histories: Histories,
    memory: Memory,
    *,
    alone: bool = False,
) -> None:
    """One line before the work: items, time, memory, disk. Raises as `check_limit`.

    Args:
        alone: nothing stored before stays beside what comes of it.
    """
    from client.person.cost import estimate
    from client.person.disk_cost import lacking_bytes

    cost = estimate(learner, histories, folder=workspace.home.vault, alone=alone)
    low, high = readable_seconds(cost.fastest_s), readable_seconds(cost.slowest_s)
    took = low if low == high else f"{low} to {high}"
    gpu = f" and {readable_bytes(cost.gpu_bytes)} of the GPU's" if cost.gpu_bytes else ""
    say(
        f"{cost.items} items: about {took}, {readable_bytes(cost.memory_bytes)} of memory{gpu}, "
        f"{readable_bytes(cost.disk_bytes)} of disk, of which {readable_bytes(cost.kept_bytes)} stay"
    )
    if lacking := lacking_bytes(cost.disk_bytes, workspace.home.vault):
        say(
            f"warning: {readable_bytes(lacking)} of disk more than are free; a full disk ends the "
            "training, and what is stored stays as it is"
        )
    check_limit(cost.memory_bytes, memory)


def check_limit(memory_bytes: int, memory: Memory) -> None:
    """Raise ConfigError if the work would take more than `--max-memory`."""
    if memory.limit_bytes is None or memory_bytes <= memory.limit_bytes:
        return
    raise ConfigError(
        f"this needs {readable_bytes(memory_bytes)} of memory, more than the "
        f"{readable_bytes(memory.limit_bytes)} of --max-memory; nothing was changed",
        hint="a larger limit, --base-weights 4bit, --recompute, or shorter items",
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
    """Run one training step with sealed checkpoints; the state knows how the base was held.

    Raises InterruptedRunError on Ctrl-C; what the vault holds is then what it held before.
    """
    from client.commands import resumable

    key = resumable.work_key(learner, state, histories, what)
    if resume and not resumable.can_resume(vault, key):
        if resumable.leftovers(vault):
            raise ConfigError(
                "what was interrupted is other work: other items, options or release",
                hint="repeat that very command with --resume, or leave --resume out to begin anew",
            )
        say("nothing was interrupted; beginning anew")
    resumable.discard(vault, keep=key if resume else None)
    learner.checkpoint = resumable.checkpoint(vault, key)
    try:
        trained, spent = resumable.measured(step)
        held = learner.release.chosen_weights
        return dataclasses.replace(trained, base_weights=held), spent
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted",
            hint="your adapter is as before; the same command with --resume goes on",
        ) from None


def store(vault: Vault, state: PersonalState, *, what: str, task: str, items: int) -> int:
    """Write the state with a line of history, then drop checkpoints; returns the generation."""
    from client.commands import resumable

    generation = write_state(vault, state.noted(what, task, items))
    resumable.discard(vault)
    return generation
