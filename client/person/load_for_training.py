"""Loading a release to train or answer with, its base held within `--max-memory`.

The base is the largest part, so it is decided first: as the release means it if there is room for
training beside it, else in 8 and then in 4 bits. Loading has to fit as well. What is left goes to
training, which shrinks its passes to it. All of it is this process's main memory: on a GPU, base
and training lie in the GPU's own, which its free memory bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

from client.person.cost import ROUTINES_BYTES
from client.person.state import PersonalState
from client.person.workspace import Memory, Workspace
from client.releases.base_facts import BaseFacts, base_facts
from client.releases.store import InstalledBundle
from proper_model.engine import return_freed_memory
from proper_model.errors import ConfigError
from proper_model.release.contents import Release
from proper_model.settings import BaseWeights

LEAST_TRAINING_BYTES = 64 << 20
# Measured: Python with torch, transformers and a model's code, before any weight; bitsandbytes.
PROCESS_BYTES, PACKING_BYTES = 440 << 20, 48 << 20


@dataclass(frozen=True)
class MemoryChoice:
    """How the base is held, what training may take beside it, and whether it recomputes."""

    base_weights: BaseWeights
    training_bytes: int | None
    recompute: bool


def load_within(
    workspace: Workspace, bundle: InstalledBundle, state: PersonalState | None, memory: Memory
) -> tuple[Release, MemoryChoice]:
    """A release with its base held as the options say, else as the adapters were trained."""
    choice = choice_for(workspace, bundle, state, memory)
    if memory.limit_bytes is not None:
        return_freed_memory()
    release = workspace.load(
        bundle, memory_bytes=choice.training_bytes, base_weights=choice.base_weights
    )
    if choice.recompute:
        user = replace(release.settings.user, recompute_activations=True)
        release = replace(release, settings=replace(release.settings, user=user))
    return release, choice


def choice_for(
    workspace: Workspace, bundle: InstalledBundle, state: PersonalState | None, memory: Memory
) -> MemoryChoice:
    """How `load_within` would hold the base. Raises as `choose`."""
    return choose(
        memory.limit_bytes,
        base_facts(workspace.home, workspace.releases.read(bundle)),
        asked=memory.base_weights,
        stored=None if state is None else state.base_weights,
        recompute=memory.recompute,
    )


def choose(
    limit: int | None,
    base: BaseFacts,
    *,
    asked: str | None,
    stored: BaseWeights | None,
    recompute: bool,
) -> MemoryChoice:
    """The first way to hold the base, from the wanted one down, that leaves room for training.

    Args:
        limit: bytes of the whole process, None for no limit.
        asked: the person's choice now, one of BaseWeights, which is kept.
        stored: how it was held when the adapters were trained; wanted where nothing is asked.

    Raises:
        ConfigError: a limit that nothing fits.
    """
    wanted = BaseWeights(asked) if asked is not None else stored or base.own_weights
    if limit is None or base.on_gpu:
        return MemoryChoice(wanted, None, recompute)
    candidates = [wanted]
    if asked is None and find_spec("bitsandbytes") is not None:
        order = list(BaseWeights)
        candidates = order[order.index(wanted) :]
    for weights in candidates:
        if limit >= _needed(weights, base):
            left = limit - _process(weights) - ROUTINES_BYTES - base.held_bytes(weights)
            # Activations of full passes would rarely fit into less than the base's own size.
            tight = left < base.held_bytes(BaseWeights.FULL)
            return MemoryChoice(weights, left, recompute or tight)
    raise _too_little(base, candidates)


def _process(weights: BaseWeights) -> int:
    """Bytes of code and libraries, before any weight."""
    return PROCESS_BYTES + (0 if weights == BaseWeights.FULL else PACKING_BYTES)


def _needed(weights: BaseWeights, base: BaseFacts) -> int:
    """The least that training takes over a base held so, and loading it."""
    training = base.held_bytes(weights) + ROUTINES_BYTES + LEAST_TRAINING_BYTES
    return _process(weights) + max(training, base.loading_bytes(weights))


def _too_little(base: BaseFacts, tried: list[BaseWeights]) -> ConfigError:
    needed = min(_needed(weights, base) for weights in tried)
    packs = tried[-1] == list(BaseWeights)[-1]
    return ConfigError(
        f"--max-memory is too little: this base needs {needed / 2**30:.2f} GiB",
        hint="a larger limit, or a smaller base"
        + ("" if packs else "; --base-weights 4bit needs less (pip install -e '.[quantized]')"),
    )
