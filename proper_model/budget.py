"""From a memory budget to how many users train at once and how many tokens go in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from proper_model.encoding import Encoded, Encoder
from proper_model.memory import STATES, MemoryModel, saved_bytes
from proper_model.model import AdaptedModel
from proper_model.personal import personal_pass
from proper_model.recompute import recomputing
from proper_model.structure import UserRouting
from proper_model.trials import TrialSettings

PROBE_ROWS = 2
BYTES_PER_ADAPTER_NUMBER = 4  # float32, whatever the base computes in


def memory_model(
    model: AdaptedModel, encoder: Encoder, longest: Encoded, settings: TrialSettings
) -> MemoryModel:
    """What one more user and one more token cost, counted on two samples as long as `longest`.

    Leaves the model's user LoRA as it was.
    """
    before = model.lora
    model.lora = model.new_user_lora([0] * PROBE_ROWS)
    for factor in model.lora.parameters():
        factor.requires_grad_(True)
    shape = (PROBE_ROWS, model.tables, model.structure.embedding_dim)
    batch = encoder.batch(
        [longest] * PROBE_ROWS, range(PROBE_ROWS), seeds=range(PROBE_ROWS), device=model.device
    )
    routing = model.structure.user_routing
    now = personal_pass(
        batch.slots,
        embeddings=torch.zeros(shape, device=model.device),
        routing=routing if routing is not UserRouting.LORA_AWARE else UserRouting.USER_AWARE,
        experts=True,
    )
    now.dropout = settings.dropout
    numbers = sum(factor[0].numel() for factor in model.lora.parameters())
    owned = [*model.parameters(), *model.base.parameters(), *model.base.buffers()]
    try:
        saved = saved_bytes(lambda: model.answer_loss(batch, now), owned)
        kept = saved
        if settings.recompute:
            with recomputing(model):
                kept = saved_bytes(lambda: model.answer_loss(batch, now), owned)
            # While it goes back, one block's inside is there again.
            kept += saved // len({site.layer for site in model.sites})
    finally:
        model.lora = before
    tokens = PROBE_ROWS * len(longest.tokens)
    return MemoryModel(STATES * BYTES_PER_ADAPTER_NUMBER * numbers, -(-kept // tokens))


def within(
    budget: int | None,
    model: AdaptedModel,
    encoder: Encoder,
    items: Sequence[Encoded],
    trials: int,
    settings: TrialSettings,
) -> TrialSettings:
    """Settings whose slots and tokens a step fit `budget` bytes beside the base; None: no limit."""
    if budget is None or not items:
        return settings
    longest = max(items, key=lambda item: len(item.tokens))
    slots, tokens = memory_model(model, encoder, longest, settings).fit(
        budget,
        trials=max(1, trials),
        tokens=settings.tokens_per_step,
        least_tokens=len(longest.tokens),
    )
    return dataclasses.replace(settings, slots=slots, tokens_per_step=tokens)
