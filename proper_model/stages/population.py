"""Stage 1 on the server: training the population LoRA (PROPER eq. 3-5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proper_model.base.loading import compute_dtype, default_device
from proper_model.base.population_lora import attach_population, population_losses, population_state
from proper_model.engine.memory import in_parts
from proper_model.engine.pooled_settings import PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded, budget_chunks
from proper_model.settings.profile import StageSettings
from proper_model.stages.pooled_users import PooledData
from proper_model.text.encoding import Encoder


def train_population(
    model: Any,
    encoder: Encoder,
    data: PooledData,
    settings: StageSettings,
    seed: int,
    checkpoint: Path | None,
    progress: Callable[[int, int], None],
    memory_bytes: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train on pooled users, judged on the queries of held-back ones.

    Returns the PEFT state and the training report. `model` is left wrapped: load the base anew.
    """
    population = settings.population
    peft = attach_population(model, population, seed=mix_seed(seed, 0))
    peft.eval()  # a frozen base drops nothing of its own; the adapters' dropout follows seeds
    judged = [query for user in data.held_back for query in user.queries]
    training = PooledTraining(
        encoder,
        _samples(data, settings),
        torch.optim.AdamW(
            [p for p in peft.parameters() if p.requires_grad],
            lr=population.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        lambda batch: (_losses(peft, batch, settings), None),
        lambda tokens: _judge(peft, encoder, judged, settings, tokens.judging),
        PooledSettings.of(population, settings, seed=seed),
        device=default_device(),
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress)
    return population_state(peft), report.as_dict()


def _samples(data: PooledData, settings: StageSettings) -> list[tuple[int, Encoded]]:
    """Queries, and histories too where the profile says so; the user slot is not used here."""
    cap = settings.group.max_items_per_user
    history = settings.population.use_history
    return [
        (u, sample)
        for u, user in enumerate(data.trained)
        for sample in (user.capped(cap) if history else user.queries)
    ]


def _losses(peft: Any, batch: Batch, settings: StageSettings) -> Tensor:
    dtype = compute_dtype(settings.dtype, batch.input_ids.device)
    return population_losses(peft, batch, dtype)


def _judge(
    peft: Any, encoder: Encoder, judged: Sequence[Encoded], settings: StageSettings, tokens: int
) -> float:
    """Mean loss of held-back queries, without dropout, in passes of at most so many tokens."""
    losses: list[float] = []

    def judge(chunk: Sequence[int]) -> None:
        rows = [judged[i] for i in chunk]
        batch = encoder.batch(rows, [0] * len(rows), device=default_device())
        losses.append(float(_losses(peft, batch, settings).sum()))

    with torch.no_grad():
        for chunk in budget_chunks([len(sample.tokens) for sample in judged], tokens):
            in_parts(chunk, judge, default_device())
    return sum(losses) / len(judged)
