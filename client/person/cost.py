"""What an adaptation will cost, told before it starts: time, memory and disk.

Passes follow from the items and the release's settings; speed is measured on the person's own
items, with the model that will train. The low end assumes that early stopping ends every training
at the first chance, the high end that nothing stops early.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from client.person.disk_cost import disk_needed
from client.person.learner import Learner
from proper_model.engine import STATES, Samples, lora_settings, memory_model
from proper_model.federation.machine import resident_bytes
from proper_model.kernels import Encoded
from proper_model.model import personal_pass
from proper_model.tasks import HistoryItem, Task

PROBE_TOKENS = 2048
PROBE_S = 1.0
# What libraries take beyond tensors as training meets more and more shapes: compiled products and
# the allocator's fragments. Measured: 230 to 280 MiB after hundreds of steps, then no more.
ROUTINES_BYTES = 256 << 20
JUDGING = 1 / 3  # a forward pass beside a forward and backward pass


@dataclass(frozen=True)
class Cost:
    """Seconds from `fastest` to `slowest`; bytes of the whole process, of the vault's folder at its
    largest and afterwards, and of a GPU's memory for training.
    """

    items: int
    fastest_s: float
    slowest_s: float
    memory_bytes: int
    disk_bytes: int
    kept_bytes: int
    gpu_bytes: int = 0


def estimate(
    learner: Learner,
    histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]],
    *,
    folder: Path | None = None,
    alone: bool = False,
) -> Cost:
    """The cost of `adapting.adapt` with these histories; trains nothing, keeps nothing.

    Args:
        folder: the vault's, whose generations count as well; `alone` as in `disk_needed`.
    """
    disk_of = partial(disk_needed, learner, histories, folder=folder, alone=alone)
    encoded = [learner.encode(items, task) for task, items in histories.values()]
    together = [sample for samples in encoded for sample in samples]
    shared = learner.split_for_embedding(together, 0)
    own = [learner.split(samples, seed=0) for samples in encoded]
    if not any(samples.folds for samples in (shared, *own)):
        disk = disk_of(shared, own, slowest_s=1.0)
        held = resident_bytes()
        return Cost(len(together), 0.0, 1.0, held, disk.most_bytes, disk.kept_bytes)
    memory, gpu = _memory(learner, own)
    rate = _tokens_a_second(learner, together)
    user = learner.settings.user
    ends = []
    for lora_epochs, embedding_epochs in (
        (min(user.epochs, user.patience + 1), min(user.embedding_epochs, user.patience + 1)),
        (user.epochs, user.embedding_epochs),
    ):
        tokens = _tokens(shared, epochs=embedding_epochs, rates=1, refit=user.refit)
        for samples in own:
            tokens += _tokens(
                samples, epochs=lora_epochs, rates=len(user.learning_rates), refit=user.refit
            )
        ends.append(tokens / rate)
    disk = disk_of(shared, own, slowest_s=ends[1])
    return Cost(len(together), ends[0], ends[1], memory, disk.most_bytes, disk.kept_bytes, gpu)


def memory_needed(
    learner: Learner, histories: Mapping[str, tuple[Task, Sequence[HistoryItem]]]
) -> int:
    """Bytes of the whole process while it trains with these histories: `Cost.memory_bytes`."""
    encoded = [learner.encode(items, task) for task, items in histories.values()]
    own = [learner.split(samples, seed=0) for samples in encoded]
    if not any(samples.folds for samples in own):
        return resident_bytes()
    return _memory(learner, own)[0]


def _tokens(samples: Samples, *, epochs: int, rates: int, refit: bool) -> float:
    """Tokens forward and backward of all trials of one member; judging counts as its share."""
    total = 0.0
    for fold in samples.folds:
        train = sum(len(s.tokens) for s in fold.train)
        held_back = sum(len(s.tokens) for s in fold.held_back)
        total += rates * (epochs * train + (epochs + 1) * JUDGING * held_back)
    if refit and samples.folds:
        total += epochs * sum(len(s.tokens) for s in samples.items)
    return total


def _memory(learner: Learner, members: Sequence[Samples]) -> tuple[int, int]:
    """Bytes of this process, and of a GPU beside its base, under the learner's budget if it has one.

    The process takes what it holds now, the base included, and what training adds to it.
    """
    held = resident_bytes() + ROUTINES_BYTES
    settings = learner.within_memory(
        lora_settings(learner.settings, epochs=learner.settings.user.epochs), members
    )
    items = [item for samples in members for item in samples.items]
    longest = max(items, key=lambda item: len(item.tokens))
    rates = len(learner.settings.user.learning_rates)
    trials = max(1, rates * sum(len(samples.folds) for samples in members))
    slots = min(trials, settings.slots or trials)
    tokens = min(settings.tokens_per_step, slots * settings.batch_size * len(longest.tokens))
    model = memory_model(learner.model, learner.encoder, longest, settings)
    training = model.peak(slots, tokens, trials)
    if learner.model.device.type == "cpu":
        return held + training, 0
    return held + trials * model.slot_bytes // STATES, training  # every trial's best state is here


def _tokens_a_second(learner: Learner, samples: Sequence[Encoded]) -> float:
    """Tokens forward and backward a second, with experts and one adapter, on own items."""
    model = learner.model
    batch_size = learner.settings.user.batch_size * len(learner.settings.user.learning_rates)
    rows = list(samples[:batch_size])
    while len(rows) < len(samples) and sum(len(s.tokens) for s in rows) < PROBE_TOKENS / 4:
        rows.append(samples[len(rows)])
    before, model.lora = model.lora, model.new_user_lora([0])
    embeddings = learner.release.mean_embedding[None]

    def step() -> None:
        batch = learner.encoder.batch(rows, [0] * len(rows), device=model.device)
        now = personal_pass(
            batch.slots,
            embeddings=embeddings,
            routing=learner.structure.user_routing,
            experts=True,
        )
        model.answer_loss(batch, now).sum().backward()

    try:
        for factor in model.lora.parameters():
            factor.requires_grad_(True)
        with model.attached():
            seconds = _median_seconds(step)
    finally:
        model.lora = before
    return sum(len(s.tokens) for s in rows) / seconds


def _median_seconds(step: Callable[[], None]) -> float:
    """Of one call, after a warm-up."""
    step()
    times: list[float] = []
    while not times or (sum(times) < PROBE_S and len(times) < 10):
        begin = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]
