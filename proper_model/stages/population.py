"""Stage 1: what everybody has in common, one LoRA for all (PROPER section 3, eq. 3-6).

    h = W_0 x + s B_p A_p x                   (3)  in every attention projection, s = alpha / r
    L_CE = -sum_t log p(y_t | y_<t, q)        (4)  over the tokens of the answer only
    A_p, B_p = argmin L_CE over all users     (5)  `train_population`
    W_p = W_0 + s B_p A_p                     (6)  `base.population_lora.merge_population`

PEFT makes the products of eq. 3 and 6. They are `einsum("or,ri,mi->mo", B_p, A_p, x)` for M tokens,
rank r, input width i and output width o.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.base.loading import compute_dtype
from proper_model.base.population_lora import (
    attach_population,
    factors_b,
    freeze_factors_a,
    population_losses,
    population_state,
)
from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.factor_cores import FactorCores
from proper_model.engine.judging import by_person
from proper_model.engine.memory import in_parts
from proper_model.engine.pooled_settings import PooledReport, PooledSettings
from proper_model.engine.private_training import training_for
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded, budget_chunks
from proper_model.progress import Steps, Watch
from proper_model.settings.profile import StageSettings
from proper_model.stages.pooled_users import PooledUser
from proper_model.text.encoding import Encoder


def train_population(
    base: Any,
    encoder: Encoder,
    trained: Sequence[PooledUser],
    held_back: Sequence[PooledUser],
    settings: StageSettings,
    *,
    seed: int,
    memory_bytes: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
    watch: Watch | None = None,
) -> tuple[dict[str, Tensor], PooledReport]:
    """Eq. 5 on pooled users, judged on the queries of held-back ones; `base` is left as it was.

    `memory_bytes` is what training may take beside the base; None: what a GPU has free.

    Returns `A_p [r, i]` and `B_p [o, r]` of every target under PEFT's names, and a report.
    """
    population = settings.population
    peft = attach_population(base, population, seed=mix_seed(seed, 0))
    privacy = settings.privacy
    if privacy is not None and privacy.freeze_a:
        freeze_factors_a(peft)
    cores = None
    if privacy is not None and privacy.core:
        cores = FactorCores(factors_b(peft), seed=mix_seed(seed, 4))
    peft.eval()  # a frozen base drops nothing of its own; the adapters' dropout follows seeds
    device = next(base.parameters()).device
    dtype = compute_dtype(settings.dtype, device)
    judged = [query for user in held_back for query in user.queries]
    owners = [u for u, user in enumerate(held_back) for _ in user.queries]
    samples = _samples(trained, settings)
    steps = privacy.population_steps if privacy else 0
    training = training_for(privacy, steps, [u for u, _ in samples], len(trained), cores)(
        encoder,
        samples,
        torch.optim.AdamW(
            cores.cores if cores else [p for p in peft.parameters() if p.requires_grad],
            lr=(privacy and privacy.population_learning_rate) or population.learning_rate,
            weight_decay=settings.weight_decay,
        ),
        lambda batch: (population_losses(peft, batch, dtype), None),
        lambda tokens: by_person(
            _losses(peft, encoder, judged, dtype, device, tokens.judging), owners
        ),
        PooledSettings.of(population, settings, seed=seed),
        device=device,
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress, watch)
    state = population_state(peft)
    peft.unload()
    return state, report


def _samples(users: Sequence[PooledUser], settings: StageSettings) -> list[tuple[int, Encoded]]:
    """Queries, and histories too where the profile says so. All users train the same LoRA."""
    cap = settings.group.max_items_per_user
    history = settings.population.use_history
    return [
        (u, sample)
        for u, user in enumerate(users)
        for sample in (user.capped(cap) if history else user.queries)
    ]


@torch.no_grad()
def _losses(
    peft: Any,
    encoder: Encoder,
    judged: Sequence[Encoded],
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
) -> Tensor:
    """Eq. 4 of every sample, [I], without dropout, in passes of at most so many tokens."""
    losses = torch.zeros(len(judged), dtype=torch.float64)

    def judge(chunk: Sequence[int]) -> None:
        rows = [judged[i] for i in chunk]
        batch = encoder.batch(rows, [0] * len(rows), device=device)
        losses[list(chunk)] = population_losses(peft, batch, dtype).double().cpu()

    for chunk in budget_chunks([len(sample.tokens) for sample in judged], tokens):
        in_parts(chunk, judge, device)
    return losses
