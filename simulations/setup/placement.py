"""How a simulation's users are divided over processes: actors, threads of an actor, users of a node.

An actor is a process that plays one node after the other, at least one, over one loaded base. A node
trains its users as one cohort, in shared passes; larger cohorts fill them better, so an actor plays
few large nodes and not many small ones. Source: docs/federation.md 6 and 7, docs/performance.md 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from proper_model.base.loading import compute_dtype, default_device
from proper_model.checks import FoundBase, find_base
from proper_model.errors import BaseModelError, ConfigError
from proper_model.federation.machine import usable_cores
from proper_model.federation.run_plan import RunPlan
from proper_model.settings import StageSettings
from proper_model.tasks import counted

ACTOR_BYTES = 1_500_000_000  # Python, torch, transformers and a tiny model in one actor
# Of a base in full on a CPU: weights, what autograd keeps, optimizer and logits, roughly. With a GPU
# those lie there, and a process holds the weights at most once while it loads them.
COPIES_ON_CPU, COPIES_BESIDE_GPU = 6, 1
# More users in one cohort no longer fill passes better; they only take longer until the next save.
LARGEST_COHORT = 256


@dataclass(frozen=True)
class Machine:
    """What a simulation may use: cores, and free bytes of memory and of each GPU."""

    cores: int
    memory_bytes: int
    gpu_memory_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """`actors` processes of `threads` threads each play nodes of `users_per_node` users."""

    actors: int
    threads: int
    users_per_node: int


def choose_placement(
    *,
    users: int,
    cores: int,
    memory_bytes: int,
    base: BaseBytes,
    gpu_memory_bytes: Sequence[int] = (),
    most_threads: int = 1,
    training_bytes: int | None = None,
    actors: int | None = None,
    threads: int | None = None,
    users_per_node: int | None = None,
) -> Placement:
    """Actors from GPUs, else cores; no more than memory holds bases for; few large nodes each.

    Args:
        users: simulated devices.
        cores: that this process may run on.
        memory_bytes: free memory of the machine, which bounds actors.
        base: what the base takes in memory.
        gpu_memory_bytes: free memory of each GPU. One actor a GPU that holds the base, since two
            copies of a base on one GPU only compete; one actor if no GPU holds it.
        most_threads: how many threads of one actor this base has a use for.
        training_bytes: what one actor may take for training beside the base; None: no limit, so
            that it is guessed from the base.
        actors, threads, users_per_node: chosen by the user. They win over cores for threads and
            over memory for actors.

    Raises:
        ConfigError: a choice is below 1, or choices contradict each other, the cores or the users.
    """
    _check(users, cores, actors=actors, threads=threads, users_per_node=users_per_node)
    if users_per_node is not None:
        users_per_node = min(users_per_node, users)
    # With explicit choices nodes are bound from above: an actor without one is refused below.
    most_nodes = users if users_per_node is None else math.ceil(users / users_per_node)
    if actors is not None and actors > most_nodes:
        raise ConfigError(
            f"{counted(actors, 'actor')} for {counted(most_nodes, 'node')}: every actor holds a "
            "base and needs a node to play",
            hint="ask for fewer actors, or for fewer users a node",
        )
    count = actors or min(
        _room(cores // (threads or 1), memory_bytes, base, gpu_memory_bytes, training_bytes),
        most_nodes,
    )
    if users_per_node is None:
        users_per_node = _cohort(users, count, exact=actors is not None)
    count = min(count, math.ceil(users / users_per_node))
    return Placement(
        actors=count,
        threads=threads or max(1, min(most_threads, cores // count)),
        users_per_node=users_per_node,
    )


def check_choices(cores: int, *, actors: int | None, threads: int | None) -> None:
    """Raise ConfigError for more actors times threads than there are cores."""
    if (actors or 1) * (threads or 1) > cores:
        raise ConfigError(
            f"{counted(actors or 1, 'actor')} of {counted(threads or 1, 'thread')} on "
            f"{counted(cores, 'core')}: an actor needs cores of its own",
            hint=f"actors times threads must be at most {cores}",
        )


def _check(users: int, cores: int, **choices: int | None) -> None:
    for name, value in {"users": users, "cores": cores, **choices}.items():
        if value is not None and value < 1:
            raise ConfigError(
                f"{name.replace('_', ' ')} must be at least 1, got {value}",
                hint="leave it out to have it chosen",
            )
    check_choices(cores, actors=choices["actors"], threads=choices["threads"])


def _room(
    slots: int,
    memory_bytes: int,
    base: BaseBytes,
    gpu_memory_bytes: Sequence[int],
    training_bytes: int | None,
) -> int:
    """Actors that `slots` groups of cores, memory and GPUs hold; at least one."""
    if gpu_memory_bytes:
        one = COPIES_BESIDE_GPU * base.full
        needed = base.held + (training_bytes or 0)
        slots = min(slots, sum(free >= needed for free in gpu_memory_bytes))
    elif training_bytes is None:
        one = max(base.loading, base.held + (COPIES_ON_CPU - 1) * base.full)
    else:
        one = max(base.loading, base.held + training_bytes)
    return max(1, min(slots, memory_bytes // (ACTOR_BYTES + one)))


def _cohort(users: int, actors: int, *, exact: bool) -> int:
    """Users of a node: as many as actors share evenly in as few turns as the limit allows.

    With `exact`, few enough that there is a node for every actor: 5 users over 4 actors are nodes
    of 1. Otherwise nodes of 2 on 3 actors are better, which take as long and share their passes.
    """
    turns = math.ceil(users / (actors * LARGEST_COHORT))
    size = math.ceil(users / (actors * turns))
    if exact and math.ceil(users / size) < actors:
        size = users // actors
    return size


# -- what the machine has --------------------------------------------------------------------------


def this_machine() -> Machine:
    """Cores of this process, memory and GPUs as they are free now."""
    free = tuple(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return Machine(usable_cores(), free_memory_bytes(), free)


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that new processes could take, within this container's limit if it has one."""
    free, limit = int(psutil.virtual_memory().available), _within_limit(cgroup)
    return max(0, free if limit is None else min(free, limit))


def _within_limit(cgroup: Path) -> int | None:
    """What a control group of version 2 leaves; its page cache counts as used, to be careful."""
    with suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text())
        return limit - int((cgroup / "memory.current").read_text())
    return None


@dataclass(frozen=True)
class BaseBytes:
    """What a base takes in a process: in full, as it is held, and at most while it is loaded."""

    full: int = 0
    held: int = 0
    loading: int = 0


def base_bytes(base: FoundBase, settings: StageSettings) -> BaseBytes:
    """In the dtype that a run computes in, from the base's files or as its configuration says."""
    width, weights = compute_dtype(settings.dtype, default_device()).itemsize, settings.base_weights
    shape = base.stored_shape
    return BaseBytes(
        shape.numbers * width,
        shape.held_bytes(weights, width) + shape.product_bytes(weights, width),
        shape.loading_bytes(weights, width),
    )


# -- the machine of a later command ----------------------------------------------------------------


def choose_resources(plan: RunPlan, machine: Machine) -> Placement:
    """Actors for the nodes of a plan on the machine as it is now.

    Nodes and threads stay what the plan says, since results are about them; a plan from a larger
    machine gets what this one has.
    """
    base = BaseBytes()  # nothing is known of one that cannot be found; its nodes will tell
    with suppress(BaseModelError):
        base = base_bytes(find_base(plan.base), plan.stage_settings)
    threads = min(plan.node_threads, machine.cores)
    return choose_placement(
        users=len(plan.devices),
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        base=base,
        gpu_memory_bytes=machine.gpu_memory_bytes,
        training_bytes=plan.node_memory_bytes,
        actors=plan.actors and min(plan.actors, machine.cores // threads),
        threads=threads,
        users_per_node=plan.users_per_node,
    )
