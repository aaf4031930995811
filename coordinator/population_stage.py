"""Stage 1 on the server: training the population LoRA (PROPER eq. 3-5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coordinator.pooling import PooledData
from proper_model.base import compute_dtype, default_device
from proper_model.config import StageSettings
from proper_model.dropout import mix_seed
from proper_model.encoding import Batch, Encoder, token_budget_chunks
from proper_model.model import sequence_nll
from proper_model.population import attach_population, population_state
from proper_model.training import PooledSettings, PooledTraining


def train_population(
    model: Any,
    encoder: Encoder,
    data: PooledData,
    settings: StageSettings,
    seed: int,
    checkpoint: Path,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stage 1 (eq. 3-5), judged on the queries of held-back users."""
    population = settings.population
    peft = attach_population(model, population, seed=mix_seed(seed, 0))
    dtype = compute_dtype(settings.dtype, default_device())

    def losses(batch: Batch) -> Tensor:
        keep = batch.answer_width + 1
        with torch.autocast(batch.input_ids.device.type, dtype, enabled=dtype is torch.bfloat16):
            logits = peft(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                logits_to_keep=keep,
                use_cache=False,
            ).logits
        labels = batch.labels[:, -keep:]
        return sequence_nll(logits, labels) / (batch.labels != -100).sum(1)

    judged = [query for user in data.held_back for query in user.queries]

    def validate() -> float:
        peft.eval()  # without dropout
        total = 0.0
        with torch.no_grad():
            lengths = [len(sample.tokens) for sample in judged]
            for chunk in token_budget_chunks(lengths, 4 * settings.tokens_per_step):
                rows = [judged[i] for i in chunk]
                batch = encoder.batch(rows, [0] * len(rows), device=default_device())
                total += float(losses(batch).sum())
        peft.train()
        return total / len(judged)

    peft.train()
    samples = [
        (u, sample)
        for u, user in enumerate(data.trained)
        for sample in (
            user.capped(settings.group.max_items_per_user)
            if population.use_history
            else user.queries
        )
    ]
    training = PooledTraining(
        encoder,
        samples,
        torch.optim.AdamW(
            [p for p in peft.parameters() if p.requires_grad],
            lr=population.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        lambda batch: (losses(batch), None),
        validate,
        PooledSettings(
            epochs=population.epochs,
            batch_size=population.batch_size,
            warmup_ratio=settings.warmup_ratio,
            max_grad_norm=settings.max_grad_norm,
            tokens_per_step=settings.tokens_per_step,
            patience=population.patience,
            seed=seed,
        ),
        device=default_device(),
        checkpoint=checkpoint,
    )
    report = training.run(progress)
    return population_state(peft), report.as_dict()
