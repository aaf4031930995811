"""What private LoRAs have in common: one start for all, by Reptile over pooled users.

Averaging A and averaging B is not averaging BA (docs/method.md 1.7, rule 4), and adapters that began
at different A have no common factor at all. Here every user of a cohort begins a round at the *same*
factors and trains a little; then the start moves to the mean of where they ended,

    start <- start + (mean over u of p_u - start),

which is Reptile (arXiv 1803.02999) with a step of one, users as tasks. All A_u lie near the one start,
so the mean of B_u times that A is the mean product up to a term of second order in one round's steps.
Chosen over the mean of the cohort's finished adapters for that, and because a start from which a few
steps help is what a device needs.

With experts it is for stage 3; without, for `oppu-mlp`, which is then compared fairly. It is an average
over people, so a cohort smaller than a prototype's makes none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.trials import Trial, lora_settings
from proper_model.kernels.dropout import mix_seed
from proper_model.model.adapted_model import AdaptedModel
from proper_model.progress import Steps
from proper_model.settings.presets import UserRouting
from proper_model.settings.profile import StageSettings
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import Factors, LoraTrials
from proper_model.text.encoding import Encoder


def common_start(
    model: AdaptedModel,
    encoder: Encoder,
    cohort: Sequence[PooledUser],
    embeddings: Tensor | None,
    settings: StageSettings,
    *,
    seed: int,
    memory_bytes: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> Factors | None:
    """A of every site, then B, where a new user's adapter should begin; None for too few users.

    Args:
        embeddings: `[U, tables, e]` of the cohort, frozen; None: without experts.
        memory_bytes: what training may take beside the base; None: what a GPU has free.
    """
    rounds = settings.calibration.start_rounds
    if not rounds or len(cohort) < settings.group.prototype_min_users:
        return None
    samples = [user.capped(settings.group.max_items_per_user) for user in cohort]
    own = lora_settings(settings, epochs=settings.calibration.start_epochs)
    free = free_bytes(model.device) if memory_bytes is None else memory_bytes
    items = [item for one in samples for item in one]
    fitting = within(free, model, encoder, items, len(cohort), own)
    # The most careful rate, as for all that nobody judges.
    rate = min(settings.calibration.learning_rates or settings.user.learning_rates)
    experts = embeddings is not None
    routing = model.structure.user_routing if experts else UserRouting.USER_AWARE
    start: Factors = LoraTrials(model, encoder, None, routing, experts, fitting, None, None).fresh(
        seed
    )
    for number in range(rounds):
        stage = LoraTrials(
            model,
            encoder,
            embeddings,
            routing,
            experts,
            fitting,
            [start] * len(cohort),
            progress,
        )
        seeds = [mix_seed(seed, number, u) for u in range(len(cohort))]
        trials = [Trial(one, (), rate, s) for one, s in zip(samples, seeds, strict=True)]
        results, ended = stage.run(trials, range(len(cohort)), beside(checkpoint, f".{number}"))
        kept = [u for u, result in enumerate(results) if not result.failed]
        if len(kept) < settings.group.prototype_min_users:
            return None
        start = _mean(ended, kept, like=start)
    return start


@torch.no_grad()
def _mean(ended: Sequence[Tensor], kept: Sequence[int], *, like: Factors) -> list[Tensor]:
    """Where users ended on average, a factor at a time."""
    return [
        states[list(kept)].double().mean(0).to(one) for states, one in zip(ended, like, strict=True)
    ]
