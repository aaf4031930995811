"""What every command that trains does around its own step: load, say the cost, train, store.

Training leaves sealed checkpoints in the vault's folder. One belongs to exactly one piece of work:
release, items, seed and settings are in its name. Interrupted, it stays until the same work is
resumed or another one begins.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from client.commands.options import readable_bytes
from client.person.stores import VaultStore
from client.person.workspace import Memory, Workspace
from client.terminal.console import progress_bars, say
from client.terminal.time_left import readable_range, readable_seconds
from client.vault.opening import Vault
from client.vault.working_files import list_working, remove_working, working_name
from proper_model.errors import ConfigError, InterruptedRunError
from proper_model.federation.machine import peak_memory_bytes
from proper_model.settings import to_mapping

if TYPE_CHECKING:
    from client.person.adapting import Histories
    from client.person.cost import Cost
    from client.person.learner import Learner
    from client.person.state import PersonalState
    from client.releases.store import InstalledBundle
    from proper_model.engine import Sealed

Result = TypeVar("Result")

PHASES = {
    "embedding": "finding your embedding",
    "adapter": "training your adapter",
    "without": "training without own items before a question, to compare",
    "update": "training with your new items",
    "stage 1": "asking the population's model",
    "stage 2": "asking the group's model",
    "stage 3": "asking your model",
}
KEY_DIGITS = 24


def new_state(bundle: InstalledBundle, vault: Vault) -> PersonalState:
    """A person before the first adaptation, with a seed of their own.

    It is the same whenever the same vault is asked: an interrupted first adaptation can be resumed.
    """
    from client.person.state import PersonalState

    return PersonalState(bundle.bundle_id, bundle.version, seed=vault.number("personal seed"))


@contextmanager
def learner_for(
    workspace: Workspace, bundle: InstalledBundle, state: PersonalState | None, memory: Memory
) -> Iterator[Learner]:
    """A learner over a release, within the memory the options name."""
    from client.person.learner import Learner
    from client.person.load_for_training import load_within

    with progress_bars(lambda phase: PHASES.get(phase, phase), workspace.expected) as show:
        show("loading the model", 0, 0)
        release, choice = load_within(workspace, bundle, state, memory)
        if choice.training_bytes is not None:
            say(
                f"base weights: {choice.base_weights}; training may take "
                f"{readable_bytes(choice.training_bytes)} beside the base"
            )
        learner = Learner(release, memory_bytes=choice.training_bytes, progress=show)
        yield learner.under(None if state is None else state.privacy)


def say_cost(
    workspace: Workspace,
    learner: Learner,
    histories: Histories,
    memory: Memory,
    *,
    alone: bool = False,
    compared: str | None = None,
    stored: bool = True,
) -> Cost:
    """One line before the work: items, time, memory, disk. Raises as `check_limit`.

    Args:
        alone: nothing stored before stays beside what comes of it.
        compared: a task that is also trained without own items before a question.
        stored: whether what is trained is stored; if not, it takes no disk.
    """
    from client.person.cost import estimate

    cost = estimate(learner, histories, folder=workspace.home.vault, alone=alone, compared=compared)
    if not stored:
        cost = replace(cost, disk_bytes=0, kept_bytes=0)
    tell_cost(workspace, cost, memory)
    return cost


def tell_cost(workspace: Workspace, cost: Cost, memory: Memory) -> None:
    """As `say_cost`, of what was estimated already."""
    from client.person.cost import lacking_bytes

    workspace.expected[:] = cost.phases  # the bars that show the time left look there
    took = readable_range(cost.fastest_s, cost.slowest_s)
    gpu = f" and {readable_bytes(cost.gpu_bytes)} of the GPU's" if cost.gpu_bytes else ""
    disk = (
        f", {readable_bytes(cost.disk_bytes)} of disk, of which {readable_bytes(cost.kept_bytes)} stay"
        if cost.disk_bytes
        else ""
    )
    say(
        f"{cost.items} items: about {took}, {readable_bytes(cost.memory_bytes)} of memory{gpu}{disk}"
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


@dataclass(frozen=True)
class Spent:
    """Wall-clock seconds, and the highest memory of the whole process so far, in bytes.

    Attributes:
        expected_s: the fastest and the slowest that `say_cost` had told.
    """

    seconds: float
    peak_bytes: int
    expected_s: tuple[float, float]

    @classmethod
    def since(cls, begin: float, cost: Cost) -> Spent:
        """Since `begin` of the monotonic clock."""
        return cls(time.monotonic() - begin, peak_memory_bytes(), (cost.fastest_s, cost.slowest_s))

    def say(self) -> None:
        """The last line of a training: what it took beside what was expected."""
        expected = readable_range(*self.expected_s)
        verb = "was" if expected == "1 s" else "were"
        say(
            f"took {readable_seconds(self.seconds)}, {expected} {verb} expected; "
            f"{readable_bytes(self.peak_bytes)} of memory"
        )


def train(
    vault: Vault,
    learner: Learner,
    state: PersonalState,
    histories: Histories,
    what: str,
    step: Callable[[Learner, PersonalState, Histories], Result],
    cost: Cost,
    *,
    resume: bool,
) -> tuple[Result, Spent]:
    """Run one training step with sealed checkpoints; what it made, and what it took.

    Raises InterruptedRunError on Ctrl-C; what the vault holds is then what it held before.
    """
    key = work_key(learner, state, histories, what)
    left = list_working(vault.folder)  # checkpoints of interrupted work
    mine = working_name(vault.newest, key)
    if resume and not any(path.name.startswith(mine) for path in left):
        if left:
            raise ConfigError(
                "what was interrupted is other work: other items, options or release",
                hint="repeat that very command with --resume, or leave --resume out to begin anew",
            )
        say("nothing was interrupted; beginning anew")
    discard(vault, keep=key if resume else None)
    begin = time.monotonic()
    try:
        result = step(learner.resuming(checkpoint(vault, key)), state, histories)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted", hint="your adapter is as before; the same command with --resume goes on"
        ) from None
    return result, Spent.since(begin, cost)


def store(vault: Vault, state: PersonalState, *, what: str, task: str, items: int) -> None:
    """Write the state with a line of history, then drop checkpoints."""
    VaultStore(vault).write(state.noted(what, task, items))
    discard(vault)


def work_key(learner: Learner, state: PersonalState, histories: Histories, what: str) -> str:
    """A name for one piece of work; any other item, setting or release gives another one."""
    described = {
        "what": what,
        "bundle": state.bundle_id,
        "done_before": len(state.events),
        "seed": state.seed,
        "settings": to_mapping(learner.settings),
        "privacy": None if state.privacy is None else to_mapping(state.privacy),
        "memory": learner.limit_bytes,
        "tasks": {
            name: {
                "task": task.toml_text,
                "template": task.template,
                "retrieve": task.retrieve,
                "items": [[item.id, item.date, dict(item.fields)] for item in items],
            }
            for name, (task, items) in histories.items()
        },
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def checkpoint(vault: Vault, key: str) -> Sealed:
    """Where this work's training state goes, encrypted."""
    from proper_model.engine import Sealed

    sealer = vault.sealer(f"checkpoint {key}")
    return Sealed(vault.folder / working_name(vault.newest, key), sealer.seal, sealer.open)


def discard(vault: Vault, *, keep: str | None = None) -> None:
    """Remove checkpoints, but not those of the work `keep`. Raises StorageError."""
    remove_working(vault.folder, keep=None if keep is None else working_name(vault.newest, keep))
