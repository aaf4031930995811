"""What is attacked, trained by the same code as a run: a release, its router cohort, private adapters.

Adapters of many people train in one pass, and so do the overfit ones that are positive controls. Each
person's adapter is a shadow model for everybody else's records, which it was not trained on.

Letters: K answer tokens, V vocabulary, P people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.person.learner import Learner, user_seed
from coordinator.pooled_stages import run_pooled_stages
from proper_model.base.loading import compute_dtype, default_device
from proper_model.checks import load_base
from proper_model.engine import Samples, Trial, lora_settings
from proper_model.export import fold_release
from proper_model.kernels import Encoded, budget_chunks
from proper_model.model import AdaptedModel, Pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from proper_model.stages import LoraTrials, PooledData, pool, router_cohort
from proper_model.text import Encoder
from simulations.privacy.membership.population import Candidates, Draw

Floats = NDArray[np.float64]
MakePass = Callable[[Tensor], Pass]
LEAST_OVERFIT_EPOCHS = (
    60  # at 20 one adapter of everybody's records was told from none in .58 of pairs
)

TOGETHER = 16  # items of a step where they are many people's: by a few at a time it takes long


@dataclass(frozen=True)
class TokenView:
    """What one model says of a record's answer: `[K]` each.

    Attributes:
        log_prob: of the right token.
        mean, std: of log p over the vocabulary, weighted by p (Min-K%++).
    """

    log_prob: Floats
    mean: Floats
    std: Floats


@torch.no_grad()
def look(
    model: AdaptedModel,
    encoder: Encoder,
    records: Sequence[tuple[int, Encoded]],
    make_pass: MakePass,
    tokens: int,
) -> list[TokenView]:
    """Of every (slot, record) what the model says of its answer; `tokens`: most of one pass."""
    found: dict[int, TokenView] = {}
    for chunk in budget_chunks([len(record.tokens) for _, record in records], tokens):
        rows = [records[i] for i in chunk]
        batch = encoder.batch([r for _, r in rows], [slot for slot, _ in rows], device=model.device)
        every = model.answer_logits(batch, make_pass(batch.slots)).double().log_softmax(-1)
        own = every.gather(1, batch.answers[:, None])[:, 0]
        weight = every.exp()
        mean = (weight * every).sum(-1)
        std = ((weight * every.square()).sum(-1) - mean.square()).clamp_min(0).sqrt()
        parts = [values.cpu().split(list(batch.answer_tokens)) for values in (own, mean, std)]
        for place, *values in zip(chunk, *parts, strict=True):
            found[place] = TokenView(*(value.numpy() for value in values))
    return [found[place] for place in range(len(records))]


@dataclass(frozen=True)
class ReleaseTarget:
    """One seed's release, and who trained what.

    Attributes:
        trained: `[P]` whether stages 1 and 2 trained on the person. Pooled people who were held back
            to judge or calibrate are on neither side (`aside`).
        cohort: `[P]` who trained W_l, where the preset has one, and common starts, where any are made.
    """

    release: Release
    trained: tuple[bool, ...]
    aside: tuple[bool, ...]
    cohort: tuple[bool, ...]


def train_release(
    candidates: Candidates,
    draw: Draw,
    structure: Structure,
    settings: StageSettings,
    *,
    seed: int,
    cache: Path,
    progress: Progress,
) -> ReleaseTarget:
    """The pooled stages on the drawn half; W_l and common starts on half of those by seed."""
    pooled, task = draw.users(candidates), candidates.task
    encoder = public_model(candidates, structure, settings)[1]
    data = pool(pooled, task, encoder, settings, seed)
    settings = replace(
        settings, router=replace(settings.router, cohort=cohort_of(len(data.trained)))
    )
    release = run_pooled_stages(
        pooled,
        task,
        candidates.base,
        structure,
        settings,
        seed=seed,
        cache=cache,
        progress=progress,
    )
    return ReleaseTarget(release, *_roles(candidates, draw, data, encoder, release))


def cohort_of(trained: int) -> int:
    """How many of so many people who train are the router cohort: half, so that others are as pooled."""
    return max(1, trained // 2)


def _roles(
    candidates: Candidates, draw: Draw, data: PooledData, encoder: Encoder, release: Release
) -> tuple[tuple[bool, ...], tuple[bool, ...], tuple[bool, ...]]:
    """Who trained, who was held back, who was in the router cohort, told by tokenized histories."""
    limit, seed = release.settings.router.cohort, release.seed
    chosen = {data.trained[place].history for place in router_cohort(data.trained, limit, seed)}
    learned = {user.history for user in data.trained}
    histories = [
        tuple(encoder.encode(candidates.task.history_example(item)) for item in items)
        for items in draw.known
    ]
    trained = tuple(
        inside and own in learned for own, inside in zip(histories, draw.pooled, strict=True)
    )
    aside = tuple(inside and not known for inside, known in zip(draw.pooled, trained, strict=True))
    cohort = tuple(known and own in chosen for own, known in zip(histories, trained, strict=True))
    return trained, aside, cohort


def public_model(
    candidates: Candidates, structure: Structure, settings: StageSettings
) -> tuple[AdaptedModel, Encoder]:
    """The public base, which nobody trained, with adapters that change nothing."""
    base, tokenizer = load_base(
        candidates.base, computing=compute_dtype(settings.dtype, default_device())
    )
    encoder = Encoder(
        tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )
    return AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0)), encoder


@dataclass(frozen=True)
class Adapters:
    """Private states of several people, each trained on the own items that a draw chose.

    Attributes:
        states: by place `embedding` and `lora.<site>.A|B`; the person-level parts of a vault.
        items: how many trained each.
    """

    states: tuple[Mapping[str, Tensor], ...]
    items: tuple[int, ...]


def train_adapters(
    learner: Learner, people: Sequence[tuple[str, Sequence[Encoded]]], *, seed: int
) -> Adapters:
    """Embeddings and adapters as devices make them, all in shared passes. A person: id, items."""
    return train_from(learner, [(user_seed(seed, user_id), items) for user_id, items in people])


def train_from(learner: Learner, people: Sequence[tuple[int, Sequence[Encoded]]]) -> Adapters:
    """The same of persons with seeds of their own: seed, items."""
    samples = [learner.split(items, seed=seed) for seed, items in people]
    embeddings, _ = learner.fit_embeddings(samples)
    lora, _ = learner.train_loras(samples, embeddings, phase="adapter")
    states = tuple(
        {**learner.lora_tensors(lora, place), "embedding": embeddings[place].cpu().clone()}
        for place in range(len(people))
    )
    return Adapters(states, tuple(len(items) for _, items in people))


def train_overfit(
    learner: Learner,
    sets: Sequence[Sequence[Encoded]],
    embeddings: Tensor,
    *,
    seed: int,
    batch_size: int | None = None,
) -> tuple[Mapping[str, Tensor], ...]:
    """Adapters that see their items far too often: positive controls, all in shared passes."""
    rate = 3 * max(learner.settings.user.learning_rates)
    epochs = overfit_epochs(learner.settings)
    return train_on(
        learner, sets, embeddings, seed=seed, epochs=epochs, rate=rate, batch_size=batch_size
    )


def overfit_together(
    learner: Learner, items: Sequence[Encoded], *, seed: int
) -> Mapping[str, Tensor]:
    """One adapter that saw items of many people far too often, under the mean embedding."""
    mean = learner.release.mean_embedding[None]
    return train_overfit(learner, [items], mean, seed=seed, batch_size=TOGETHER)[0]


def overfit_epochs(settings: StageSettings) -> int:
    """How often a positive control sees its items: three times as often as an adapter at least."""
    return max(LEAST_OVERFIT_EPOCHS, 3 * settings.user.epochs)


def train_on(
    learner: Learner,
    sets: Sequence[Sequence[Encoded]],
    embeddings: Tensor,
    *,
    seed: int,
    epochs: int,
    rate: float,
    batch_size: int | None = None,
) -> tuple[Mapping[str, Tensor], ...]:
    """An adapter on each set of items, all of them and to the end, under embeddings [sets, tables, e]."""
    settings = replace(lora_settings(learner.settings, epochs=epochs), dropout=0.0)
    if batch_size is not None:
        settings = replace(settings, batch_size=batch_size)
    stage = LoraTrials(
        learner.model,
        learner.encoder,
        embeddings,
        learner.model.structure.user_routing,
        True,
        settings,
        None,
        None,
    )
    trials = [Trial(tuple(items), (), rate, seed + place) for place, items in enumerate(sets)]
    _, best = stage.run(trials, range(len(trials)), None)
    adapters = [[factor[place] for factor in best] for place in range(len(trials))]
    lora = stage.hold(adapters)
    return tuple(
        {**learner.lora_tensors(lora, place), "embedding": embeddings[place].cpu().clone()}
        for place in range(len(sets))
    )


def untrained(learner: Learner, embeddings: Tensor) -> tuple[Mapping[str, Tensor], ...]:
    """Adapters as they begin, over given embeddings [P, tables, e]: negative controls."""
    lora = learner.model.new_user_lora(list(range(len(embeddings))))
    return tuple(
        {**learner.lora_tensors(lora, place), "embedding": own.cpu().clone()}
        for place, own in enumerate(embeddings)
    )


@contextmanager
def merged_export(
    release: Release, state: Mapping[str, Tensor], samples: Samples
) -> Iterator[None]:
    """The release's base with one person's whole stage 3 in its weights, as `proper export` merges it."""
    fold = fold_release(release, state, approximate=True, samples=samples.items)
    before: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for path, (a, b) in fold.factors.items():
                weight = release.base.get_submodule(path).weight
                before[path] = weight.clone()
                weight += (b @ a).to(weight)
        yield
    finally:
        with torch.no_grad():
            for path, weight in before.items():
                release.base.get_submodule(path).weight.copy_(weight)
