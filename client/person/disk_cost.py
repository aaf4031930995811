"""What an adaptation takes of the disk: stored generations, and sealed checkpoints while it trains.

Every phase leaves a checkpoint, which holds weights, two moments and the best state of all its
trials, until the new generation is stored; a checkpoint that is saved again lies there twice for a
moment. Files are counted in whole blocks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.person.learner import Learner
from client.person.state import PersonalState, TaskState, encode, utc_now
from client.vault.generations import generation_name, list_generations
from client.vault.opening import vault_exists
from proper_model.engine import Samples, TrialSettings, fit_settings, lora_settings
from proper_model.tasks import HistoryItem, Task

BLOCK_BYTES = 4096
BYTES_A_NUMBER = 4
TENSOR_HEADER_BYTES = 112  # name, type, shape and place of one tensor in a safetensors file
REPORT_BYTES = 1024  # of one task: what its training says, and a line of history
SEAL_BYTES = 1024  # header, salt and tag around a payload
RESULT_BYTES = 24  # one loss in a checkpoint
COPIES = 3  # weights and two moments
SAVED_AGAIN_STEPS = 50  # `Cohort.checkpoint_every`
SAVED_AGAIN_S = 20.0  # `Cohort.checkpoint_every_s`, met by a machine as slow as the high end


@dataclass(frozen=True)
class Disk:
    """Bytes of the vault's folder: the most it takes meanwhile, and what it takes afterwards."""

    most_bytes: int
    kept_bytes: int


@dataclass(frozen=True)
class Phase:
    """One training: `numbers` trained by each trial, in `tensors` tensors."""

    numbers: int
    tensors: int
    trials: int
    settings: TrialSettings
    items: int
    slowest_s: float

    @property
    def size_bytes(self) -> int:
        """Of its checkpoint."""
        trials = max(1, self.trials)
        slots = min(trials, self.settings.slots or trials)
        weights = BYTES_A_NUMBER * self.numbers * (COPIES * slots + trials)
        header = TENSOR_HEADER_BYTES * (COPIES + 1) * self.tensors
        return blocks(
            weights + header + trials * RESULT_BYTES * (self.settings.epochs + 4) + SEAL_BYTES
        )

    @property
    def writing_bytes(self) -> int:
        """The most it takes while it is written: twice, if it is written again."""
        trials = max(1, self.trials)
        rounds = -(-trials // min(trials, self.settings.slots or trials))
        steps = rounds * self.settings.epochs * -(-self.items // self.settings.batch_size)
        again = steps >= SAVED_AGAIN_STEPS or self.slowest_s >= SAVED_AGAIN_S
        return self.size_bytes * (2 if again else 1)


def disk_needed(
    learner: Learner,
    histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]],
    shared: Samples,
    own: Sequence[Samples],
    *,
    slowest_s: float,
    folder: Path | None = None,
    alone: bool = False,
) -> Disk:
    """What `adapting.adapt` with these histories takes, beside what lies in `folder` already.

    Args:
        shared: how the embedding's items are split, `own` each task's.
        slowest_s: the whole training on the slowest machine.
        folder: the vault's.
        alone: no generation before stays beside the new one, as after forgetting.
    """
    present = present_bytes(folder)
    new = generation_bytes(learner, histories, adapters=sum(bool(one.folds) for one in own))
    left, most = 0, 0
    for phase in _phases(learner, shared, own, slowest_s):
        most = max(most, left + phase.writing_bytes)
        left += phase.size_bytes
    most = max(most, left + new)
    # keys.json is one block more.
    kept = BLOCK_BYTES + new + (present[0] if present and not alone else 0)
    return Disk(BLOCK_BYTES + sum(present) + most, kept)


def lacking_bytes(most_bytes: int, folder: Path) -> int:
    """How much more is needed than the vault's disk has free; 0 if nothing is, or nobody can tell."""
    try:
        free = shutil.disk_usage(folder.parent).free
    except OSError:
        return 0
    return max(0, most_bytes - sum(present_bytes(folder)) - free)


def present_bytes(folder: Path | None) -> list[int]:
    """Of every stored generation, the newest first."""
    if folder is None or not vault_exists(folder):
        return []
    return [
        blocks((folder / generation_name(one)).lstat().st_size) for one in list_generations(folder)
    ]


def generation_bytes(
    learner: Learner,
    histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]],
    *,
    adapters: int,
) -> int:
    """Of the state that will be stored, encoded but for its numbers; tasks of few items have none."""
    tasks = {
        name: TaskState(task.toml_text, task.template, tuple(items), {}, {}, utc_now())
        for name, (task, items) in histories.items()
    }
    bundle = "0" * 64
    state = PersonalState(bundle, 1 << 30, seed=(1 << 62) - 1, tasks=tasks)
    numbers, tensors = _adapter(learner)
    names = sum(len(site.path) for site in learner.model.sites) * 2
    adapter = BYTES_A_NUMBER * numbers + TENSOR_HEADER_BYTES * tensors + names
    embedding = BYTES_A_NUMBER * learner.release.mean_embedding.numel() + TENSOR_HEADER_BYTES
    around = embedding + len(histories) * REPORT_BYTES + SEAL_BYTES
    return blocks(len(encode(state)) + adapters * adapter + around)


def blocks(size: int) -> int:
    """Bytes in whole blocks of a file system."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _adapter(learner: Learner) -> tuple[int, int]:
    """Numbers and tensors of one adapter."""
    rank = learner.structure.rank
    sites = learner.model.sites
    return sum(rank * (site.d_in + site.d_out) for site in sites), 2 * len(sites)


def _phases(
    learner: Learner, shared: Samples, own: Sequence[Samples], slowest_s: float
) -> list[Phase]:
    """In the order in which they run: embedding, adapter, each with its refit."""
    user = learner.settings.user
    fit = learner.within_memory(
        fit_settings(learner.settings, epochs=user.embedding_epochs), [shared]
    )
    lora = learner.within_memory(lora_settings(learner.settings, epochs=user.epochs), own)
    embedding = (learner.release.mean_embedding.numel(), 1)
    folds = sum(len(samples.folds) for samples in own)
    phases = [Phase(*embedding, len(shared.folds), fit, len(shared.items), slowest_s)]
    if fit.refit:
        phases.append(replace(phases[-1], trials=1))
    most = max((len(samples.items) for samples in own), default=0)
    trials = folds * len(user.learning_rates)
    phases.append(Phase(*_adapter(learner), trials, lora, most, slowest_s))
    if lora.refit:
        phases.append(replace(phases[-1], trials=len(own)))
    return phases
