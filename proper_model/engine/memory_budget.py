"""From a memory budget to how many users train at once and how many tokens go in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from proper_model.engine.memory import PROBE_ROWS, STATES, MemoryModel, bytes_a_token
from proper_model.engine.recompute import recomputing
from proper_model.engine.trials import TrialSettings
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import personal_pass
from proper_model.settings.presets import UserRouting
from proper_model.text.encoding import Encoder

BYTES_PER_ADAPTER_NUMBER = 4  # float32, whatever the base computes in


def memory_model(
    model: AdaptedModel,
    encoder: Encoder,
    longest: Encoded,
    settings: TrialSettings,
    *,
    prior: bool = False,
) -> MemoryModel:
    """What one more user and one more token cost, counted on samples as long as `longest`.

    `prior`: whether trials have one, so that every slot also holds where it began.
    Leaves the model's user LoRA as it was.
    """
    before, most = model.lora, PROBE_ROWS[1]
    model.lora = model.new_user_lora([0] * most)
    trained = list(model.lora.parameters())
    for factor in trained:
        factor.requires_grad_(True)
    numbers = sum(factor[0].numel() for factor in trained)
    shape = (most, *model.embedding_shape)
    embeddings = torch.zeros(shape, device=model.device)
    routing = model.structure.user_routing

    def run(rows: int) -> None:
        batch = encoder.batch([longest] * rows, range(rows), seeds=range(rows), device=model.device)
        now = personal_pass(
            batch.slots,
            embeddings=embeddings,
            routing=routing if routing is not UserRouting.LORA_AWARE else UserRouting.USER_AWARE,
            experts=len(model.experts) > 0,
        )
        now.dropout = settings.dropout
        model.answer_loss(batch, now).sum().backward(inputs=trained)
        for factor in trained:
            factor.grad = None

    try:
        with model.attached(), recomputing(model, active=settings.recompute):
            token = bytes_a_token(run, len(longest.tokens), model.device)
    finally:
        model.lora = before
    weights = BYTES_PER_ADAPTER_NUMBER * numbers
    best = weights if model.device.type == "cpu" else 0
    return MemoryModel((STATES + prior) * weights, token, best)


def within(
    budget: int | None,
    model: AdaptedModel,
    encoder: Encoder,
    items: Sequence[Encoded],
    trials: int,
    settings: TrialSettings,
    *,
    prior: bool = False,
) -> TrialSettings:
    """Settings whose slots and tokens a step fit `budget` bytes beside the base; None: no limit.

    `prior` as in `memory_model`.
    """
    if budget is None or not items:
        return settings
    longest = max(items, key=lambda item: len(item.tokens))
    least, found = len(longest.tokens), memory_model(model, encoder, longest, settings, prior=prior)
    slots, tokens = found.fit(
        budget, trials=max(1, trials), tokens=settings.tokens_per_step, least_tokens=least
    )
    # A pass without gradient takes less than one with: counted as one, it is within for sure.
    _, judged = found.fit(
        budget, trials=max(1, trials), tokens=settings.tokens_judged, least_tokens=least
    )
    return dataclasses.replace(settings, slots=slots, tokens_per_step=tokens, judge_tokens=judged)
