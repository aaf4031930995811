"""What an adaptation will cost, told before it starts: time, memory and disk.

Passes follow from the items and the release's settings; speed is measured on the person's own
items, with the model that will train. The low end assumes that early stopping ends every training
at the first chance, the high end that nothing stops early.

Disk is stored generations, and sealed checkpoints while it trains. Every phase leaves a checkpoint,
which holds weights, two moments and the best state of all its trials, until the new generation is
stored; a checkpoint that is saved again lies there twice for a moment. Files are counted in whole
blocks.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from client.person import updating
from client.person.adapting import Histories, compares, histories_of, without_lines
from client.person.learner import Learner
from client.person.state import PersonalState, TaskState, encode, utc_now
from client.terminal.time_left import ExpectedPhase
from client.vault.contents import generation_name, list_generations
from client.vault.opening import vault_exists
from proper_model.engine import (
    STATES,
    Samples,
    TrialSettings,
    fit_settings,
    item_training,
    lora_settings,
    memory_model,
)
from proper_model.federation.machine import resident_bytes
from proper_model.kernels import Encoded
from proper_model.model import personal_pass
from proper_model.settings import ItemPrivacy
from proper_model.stages.calibrated_lora import Planned

PROBE_S = 0.5
# What libraries take beyond tensors as training meets more and more shapes: compiled products and
# the allocator's fragments. Measured: 230 to 280 MiB after hundreds of steps, then no more.
ROUTINES_BYTES = 256 << 20
JUDGING = 1 / 3  # a forward pass beside a forward and backward pass

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
class Cost:
    """Seconds from `fastest` to `slowest`; bytes of the whole process, of the vault's folder at its
    largest and afterwards, and of a GPU's memory for training. `phases` are in the order in which
    they come, and their times add up to the whole.
    """

    items: int
    fastest_s: float
    slowest_s: float
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    gpu_bytes: int = 0
    phases: tuple[ExpectedPhase, ...] = ()


def estimate(
    learner: Learner,
    histories: Histories,
    *,
    folder: Path | None = None,
    alone: bool = False,
    compared: str | None = None,
) -> Cost:
    """The cost of `adapting.adapt` with these histories; trains nothing, keeps nothing.

    Args:
        folder: the vault's, whose generations count as well; `alone` as in `disk_needed`.
        compared: a task for which `adapting.adapt_comparing` is called instead.
    """
    own = _splits(learner, histories)
    together = [sample for samples in own for sample in samples.items]
    shared = learner.split_for_embedding(together, 0)
    trainings = [(shared, own)]
    if compared is not None and compares(learner, histories, compared):
        plain = without_lines(histories, compared)
        every = [sample for samples in _splits(learner, plain) for sample in samples.items]
        one = _splits(learner, {compared: plain[compared]})
        trainings.insert(0, (learner.split_for_embedding(every, 0), one))
    memory, gpu, fastest_s, slowest_s = resident_bytes(), 0, 0.0, 1.0
    phases: tuple[ExpectedPhase, ...] = ()
    if shared.folds or any(_adapted(learner, own)):
        memory, gpu, pass_tokens = _memory(learner, own)
        phases = _expected(learner, trainings, _tokens_a_second(learner, together, pass_tokens))
        fastest_s = sum(phase.fastest_s for phase in phases)
        slowest_s = sum(phase.slowest_s for phase in phases)
    most, kept = disk_needed(
        learner, histories, trainings, slowest_s=slowest_s, folder=folder, alone=alone
    )
    return Cost(len(together), fastest_s, slowest_s, memory, most, kept, gpu, phases)


def estimate_update(learner: Learner, state: PersonalState, name: str, grown: TaskState) -> Cost:
    """The cost of an update to a task with its new items; disk is not told.

    Where there is no adapter to go on from, that of adapting to all of them.
    """
    if not state.tasks[name].adapter:
        return estimate(learner, histories_of(state.with_task(name, grown)))
    waiting, start = updating.begin(learner, state, grown, name)
    memory, gpu, pass_tokens = _memory(
        learner, _splits(learner, {name: (grown.task(), grown.items)})
    )
    rate = _tokens_a_second(learner, start.samples.items, pass_tokens)
    calibrated = learner.calibrated("stage3", [start.samples])
    user = learner.settings.user
    rates = len(user.learning_rates) if calibrated is None else 1
    (early, again), (late, most) = (_lengths(learner, n) for n in (user.patience + 1, math.inf))
    trials = [_tokens(start.samples, epochs=n, rates=rates) / rate for n in (early, late)]
    # Old items judge the result, with and without it.
    judging = 2 * JUDGING * sum(len(item.tokens) for item in start.old_judges)
    refits = [(_refit_tokens(start.samples, n) + judging) / rate for n in (again, most)]
    phases = (
        ExpectedPhase("update", trials[0], trials[1], stops_early=True),
        ExpectedPhase("update", refits[0], refits[1]),
    )
    times = [fit + refit for fit, refit in zip(trials, refits, strict=True)]
    items = len(waiting.tasks[name].waiting)
    return Cost(items, times[0], times[1], memory, 0, 0, gpu, phases)


def _expected(
    learner: Learner, trainings: Sequence[tuple[Samples, Sequence[Samples]]], rate: float
) -> tuple[ExpectedPhase, ...]:
    """Time by phase, in the order in which they run; `rate` is in tokens a second."""
    found: list[ExpectedPhase] = []
    for place, training in enumerate(trainings):
        adapter = "adapter" if place == len(trainings) - 1 else "without"
        early = _parts(learner, *training, at_most=learner.settings.user.patience + 1)
        late = _parts(learner, *training)
        for (name, choosing, fast), (_, _, slow) in zip(early, late, strict=True):
            called = adapter if name == "adapter" else name
            stops = choosing and fast < slow
            if slow:
                found.append(ExpectedPhase(called, fast / rate, slow / rate, stops))
    return tuple(found)


def _lengths(learner: Learner, at_most: float) -> tuple[float, float]:
    """Epochs of a trial and of the refit, where no training takes more than so many.

    One that is stopped then was best `user.patience` epochs before, which all items are trained for again.
    """
    user = learner.settings.user
    refit = 0.0 if not user.refit else min(user.epochs, max(1.0, at_most - user.patience))
    return min(user.epochs, at_most), refit


def _parts(
    learner: Learner, shared: Samples, own: Sequence[Samples], *, at_most: float = math.inf
) -> list[tuple[str, bool, float]]:
    """Of everything that trains, in order: the phase, whether it chooses when to stop, its tokens.

    Tokens as in `_tokens`; no training takes more than `at_most` epochs.
    """
    if learner.privacy is not None:
        return [("adapter", False, _private_tokens(learner.privacy, learner, own))]
    user = learner.settings.user
    epochs, refit = _lengths(learner, at_most)
    rates = len(user.learning_rates)
    parts: list[tuple[str, bool, float]] = []
    if _trains_embedding(learner):
        found, again = min(user.embedding_epochs, at_most), min(refit, user.embedding_epochs)
        parts = [
            ("embedding", True, _tokens(shared, epochs=found, rates=1)),
            ("embedding", False, _refit_tokens(shared, again)),
        ]
    elif learner.model.structure.infers_user:  # once, and none is held back
        parts = [("embedding", False, float(sum(len(s.tokens) for s in shared.items)))]
    planned = learner.planned(own)
    if planned is not None:
        return [*parts, ("adapter", False, sum(_planned_tokens(one) for one in planned))]
    chosen = sum(_tokens(one, epochs=epochs, rates=rates) for one in own)
    return [
        *parts,
        ("adapter", True, chosen),
        ("adapter", False, sum(_refit_tokens(one, refit) for one in own)),
    ]


def _private_tokens(privacy: ItemPrivacy, learner: Learner, own: Sequence[Samples]) -> float:
    """As `_tokens`, under privacy of items: as many items as are drawn in the mean, and none judges."""
    adapted = zip(own, _adapted(learner, own), strict=True)
    total = sum(len(s.tokens) for one, trains in adapted if trains for s in one.items)
    return privacy.sampling_rate * privacy.steps * total


def _trains_embedding(learner: Learner) -> bool:
    """Whether the embedding takes a training of its own: something reads it, and nothing infers it."""
    structure = learner.model.structure
    return not (structure.population_only or structure.infers_user or learner.privacy is not None)


def _adapted(learner: Learner, own: Sequence[Samples]) -> list[bool]:
    """Which tasks get an adapter."""
    if learner.privacy is not None:
        return [learner.adapts("stage3", len(one.items)) for one in own]
    planned = learner.planned(own)
    if planned is not None:
        users = {one.user for one in planned}
        return [place in users for place in range(len(own))]
    return [bool(one.folds) for one in own]


def _splits(learner: Learner, histories: Histories) -> list[Samples]:
    return [
        learner.split(learner.encode(items, task), seed=0) for task, items in histories.values()
    ]


def _tokens(samples: Samples, *, epochs: float, rates: int) -> float:
    """Tokens forward and backward of all trials of one member; judging counts as its share."""
    total = 0.0
    for fold in samples.folds:
        train = sum(len(s.tokens) for s in fold.train)
        held_back = sum(len(s.tokens) for s in fold.held_back)
        total += rates * (epochs * train + (epochs + 1) * JUDGING * held_back)
    return total


def _refit_tokens(samples: Samples, epochs: float) -> float:
    """As `_tokens`, of the training on all items that follows the choice."""
    return epochs * sum(len(s.tokens) for s in samples.items) if samples.folds else 0.0


def _planned_tokens(one: Planned) -> float:
    """As `_tokens`, of one training that a calibration plans; what it is judged by passes twice."""
    train = sum(len(s.tokens) for s in one.trial.train)
    judged = sum(len(s.tokens) for s in one.judged)
    return (one.trial.stop_epoch or 0) * train + 2 * JUDGING * judged


def _memory(learner: Learner, members: Sequence[Samples]) -> tuple[int, int, int]:
    """Bytes of this process, and of a GPU beside its base, under the learner's budget if it has one.

    And the most tokens of one pass of training. The process takes what it holds now, the base included, and what
    training adds to it.
    """
    held = resident_bytes() + ROUTINES_BYTES
    planned = None if learner.privacy is not None else learner.planned(members)
    if learner.privacy is not None:
        # A row's gradient takes as much as a slot at most.
        settings, trials = learner.private_settings(members), item_training.MOST_ROWS
    elif planned is None:
        settings = learner.within_memory(
            lora_settings(learner.settings, epochs=learner.settings.user.epochs), members
        )
        rates = len(learner.settings.user.learning_rates)
        trials = max(1, rates * sum(len(samples.folds) for samples in members))
    else:
        settings, trials = learner.calibrated_settings(members, planned), max(1, len(planned))
    prior = any(one.trial.prior for one in planned or ())
    items = [item for samples in members for item in samples.items]
    longest = max(items, key=lambda item: len(item.tokens))
    slots = min(trials, settings.slots or trials)
    tokens = min(settings.tokens_per_step, slots * settings.batch_size * len(longest.tokens))
    model = memory_model(learner.model, learner.encoder, longest, settings, prior=prior)
    training = model.peak(slots, tokens, trials)
    if learner.model.device.type == "cpu":
        return held + training, 0, tokens
    # Every trial's best state is in the process.
    return held + trials * model.slot_bytes // STATES, training, tokens


def _tokens_a_second(learner: Learner, samples: Sequence[Encoded], most: int) -> float:
    """Tokens forward and backward a second, with experts and one adapter, on own items.

    In passes like those of training, of `most` tokens: larger ones would take more memory than is told,
    and be quicker.
    """
    model = learner.model
    user = learner.settings.user
    together = 1 if learner.release.calibration is not None else len(user.learning_rates)
    batch_size = user.batch_size * together
    rows = [samples[0]]
    for sample in samples[1:batch_size]:
        if sum(len(s.tokens) for s in (*rows, sample)) <= most:
            rows.append(sample)
    before, model.lora = model.lora, model.new_user_lora([0])
    embeddings = learner.release.mean_embedding[None]

    def step() -> None:
        batch = learner.encoder.batch(rows, [0] * len(rows), device=model.device)
        now = personal_pass(
            batch.slots,
            embeddings=embeddings,
            routing=learner.model.structure.user_routing,
            experts=True,
        )
        model.answer_loss(batch, now).sum().backward()

    try:
        for factor in model.lora.parameters():
            factor.requires_grad_(True)
        with model.attached():
            seconds = _median_seconds(step, compiles=model.device.type != "cpu")
    finally:
        model.lora = before
    return sum(len(s.tokens) for s in rows) / seconds


def _median_seconds(step: Callable[[], None], *, compiles: bool) -> float:
    """Of one call after a first one to warm up; of the first itself, where that is long enough to tell.

    What a first call takes more on a CPU is a few hundredths of a second, and the range that is told is wide.
    A GPU `compiles` kernels at the first, for seconds.
    """
    first = _seconds(step)
    times = [first] if first >= PROBE_S and not compiles else [_seconds(step)]
    while sum(times) < PROBE_S and len(times) < 10:
        times.append(_seconds(step))
    return sorted(times)[len(times) // 2]


def _seconds(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


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
    def slots(self) -> int:
        """How many trials train at a time."""
        return min(self.trials, self.settings.slots or self.trials)

    @property
    def size_bytes(self) -> int:
        """Of its checkpoint."""
        trials = self.trials
        weights = BYTES_A_NUMBER * self.numbers * (COPIES * self.slots + trials)
        header = TENSOR_HEADER_BYTES * (COPIES + 1) * self.tensors
        return blocks(
            weights + header + trials * RESULT_BYTES * (self.settings.epochs + 4) + SEAL_BYTES
        )

    @property
    def writing_bytes(self) -> int:
        """The most it takes while it is written: twice, if it is written again."""
        rounds = -(-self.trials // self.slots)
        steps = rounds * self.settings.epochs * -(-self.items // self.settings.batch_size)
        again = steps >= SAVED_AGAIN_STEPS or self.slowest_s >= SAVED_AGAIN_S
        return self.size_bytes * (2 if again else 1)


def disk_needed(
    learner: Learner,
    histories: Histories,
    trainings: Sequence[tuple[Samples, Sequence[Samples]]],
    *,
    slowest_s: float,
    folder: Path | None,
    alone: bool,
) -> tuple[int, int]:
    """Bytes of the vault's folder, at most while `adapting.adapt` runs with these histories, and after.

    Args:
        trainings: of each how the embedding's items are split, and each task's; the last one's stay.
        slowest_s: the whole training on the slowest machine.
        folder: the vault's.
        alone: no generation before stays beside the new one, as after forgetting.
    """
    present = present_bytes(folder)
    new = generation_bytes(learner, histories, adapters=sum(_adapted(learner, trainings[-1][1])))
    left, most = 0, 0
    for phase in [one for pair in trainings for one in _phases(learner, *pair, slowest_s)]:
        most = max(most, left + phase.writing_bytes)
        left += phase.size_bytes
    most = max(most, left + new)
    # keys.json is one block more.
    kept = BLOCK_BYTES + new + (present[0] if present and not alone else 0)
    return BLOCK_BYTES + sum(present) + most, kept


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
    histories: Histories,
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
    names = (
        sum(len(site.path) for site in learner.model.sites) * tensors // len(learner.model.sites)
    )
    adapter = BYTES_A_NUMBER * numbers + TENSOR_HEADER_BYTES * tensors + names
    embedding = BYTES_A_NUMBER * learner.release.mean_embedding.numel() + TENSOR_HEADER_BYTES
    around = embedding + len(histories) * REPORT_BYTES + SEAL_BYTES
    return blocks(len(encode(state)) + adapters * adapter + around)


def blocks(size: int) -> int:
    """Bytes in whole blocks of a file system."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _adapter(learner: Learner) -> tuple[int, int]:
    """Numbers and tensors of one adapter."""
    structure, sites = learner.model.structure, learner.model.sites
    own = structure.experts if structure.has_own_router else 0  # rows of W_l
    numbers = sum(structure.rank * (s.d_in + s.d_out) + own * s.d_out for s in sites)
    return numbers, (3 if own else 2) * len(sites)


def _phases(
    learner: Learner, shared: Samples, own: Sequence[Samples], slowest_s: float
) -> list[Phase]:
    """In the order in which they run: embedding, adapter, each with its refit."""
    user = learner.settings.user
    fit = learner.within_memory(
        fit_settings(learner.settings, epochs=user.embedding_epochs), [shared]
    )
    embedding = (learner.release.mean_embedding.numel(), 1)
    folds = sum(len(samples.folds) for samples in own)
    phases: list[Phase] = []
    if _trains_embedding(learner):
        trials = max(1, len(shared.folds))
        phases.append(Phase(*embedding, trials, fit, len(shared.items), slowest_s))
        if fit.refit:
            phases.append(replace(phases[-1], trials=1))
    most = max((len(samples.items) for samples in own), default=0)
    if learner.privacy is not None:
        lora = learner.private_settings(own)
        return [Phase(*_adapter(learner), 1, lora, 2 * most, slowest_s) for _ in own]
    planned = learner.planned(own)
    if planned is not None:
        lora = learner.calibrated_settings(own, planned)
        return [*phases, Phase(*_adapter(learner), max(1, len(planned)), lora, most, slowest_s)]
    lora = learner.within_memory(lora_settings(learner.settings, epochs=user.epochs), own)
    trials = max(1, folds * len(user.learning_rates))
    phases.append(Phase(*_adapter(learner), trials, lora, most, slowest_s))
    if lora.refit:
        phases.append(replace(phases[-1], trials=max(1, len(own))))
    return phases
