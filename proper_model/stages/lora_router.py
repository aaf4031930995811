"""Stages 3a and 3b: the LoRA-aware router, trained once per release on pooled users (docs/method.md 1.7).

3a gives every user of a cohort of *pooled* users a provisional private LoRA; 3b freezes those and
the experts and trains `W_l` (eq. 12) for all of them together. It happens on the server before
release; no test user takes part and nothing of it remains but `W_l`.

The histories are cut in time: provisional LoRAs train on the earlier part, `W_l` on the later one,
queries judge. So the router learns from what a LoRA does on items it has not seen, as on a device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.folds import Fold, Samples
from proper_model.engine.judging import held_back_losses
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.engine.trials import lora_settings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.progress import Steps
from proper_model.settings.presets import UserRouting
from proper_model.settings.profile import StageSettings
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import train_user_loras
from proper_model.text.encoding import Encoder

# DEVIATION: docs/method.md 1.7 names no cut.
ROUTER_SHARE = 0.4  # of a cohort user's history, kept for 3b


def train_lora_router(
    model: AdaptedModel,
    encoder: Encoder,
    cohort: Sequence[PooledUser],
    embeddings: Tensor,
    settings: StageSettings,
    *,
    seed: int,
    memory_bytes: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> PooledReport:
    """Train every site's `W_l` in place. `embeddings [U, tables, e]` are the cohort's, frozen.

    `memory_bytes` is what training may take beside the base; None: what a GPU has free.

    Where `W_l` replaces the user-aware router (preset `paper`), provisional LoRAs learned under the
    old routing do not fit the new one, so 3a and 3b run twice (docs/method.md 1.7).
    """
    routing = model.structure.user_routing
    rounds = [UserRouting.USER_AWARE]
    if routing is UserRouting.LORA_AWARE:
        rounds.append(UserRouting.LORA_AWARE)
    report = PooledReport()
    for number, provisional in enumerate(rounds):
        suffix = f".{number}"
        _provisional_loras(
            model,
            encoder,
            cohort,
            embeddings,
            settings,
            provisional,
            seed=mix_seed(seed, 5, number),
            memory_bytes=memory_bytes,
            checkpoint=beside(checkpoint, suffix + ".lora"),
            progress=progress,
        )
        report = _train_weights(
            model,
            encoder,
            cohort,
            embeddings,
            settings,
            seed=mix_seed(seed, 6, number),
            memory_bytes=memory_bytes,
            checkpoint=beside(checkpoint, suffix + ".router"),
            progress=progress,
        )
    return report


def _cut(user: PooledUser, settings: StageSettings) -> int:
    """Where the history is cut: items before are 3a's, items from there on 3b's."""
    start = max(0, len(user.history) - settings.group.max_items_per_user)
    return start + round((1 - ROUTER_SHARE) * (len(user.history) - start))


def _provisional_loras(
    model: AdaptedModel,
    encoder: Encoder,
    cohort: Sequence[PooledUser],
    embeddings: Tensor,
    settings: StageSettings,
    routing: UserRouting,
    *,
    seed: int,
    memory_bytes: int | None,
    checkpoint: Checkpoint | None,
    progress: Steps | None,
) -> None:
    """3a: one provisional LoRA a cohort user, left in `model.lora`."""
    users = []
    for u, user in enumerate(cohort):
        begin = max(0, len(user.history) - settings.group.max_items_per_user)
        early = user.history[begin : _cut(user, settings)]
        # Nothing is held back: a provisional LoRA needs no choice, only the right kind of output.
        users.append(Samples(early, (Fold(early, ()),), mix_seed(seed, u)))
    # Nobody judges a provisional LoRA, so the most careful of the rates trains it.
    rate = min(settings.user.learning_rates)
    train_user_loras(
        model,
        encoder,
        users,
        embeddings=embeddings,
        routing=routing,
        experts=True,
        learning_rates=[rate],
        settings=within(
            free_bytes(model.device) if memory_bytes is None else memory_bytes,
            model,
            encoder,
            [item for user in users for item in user.items],
            len(users),
            dataclasses.replace(lora_settings(settings, epochs=settings.user.epochs), refit=False),
        ),
        checkpoint=checkpoint,
        progress=progress,
    )


def _train_weights(
    model: AdaptedModel,
    encoder: Encoder,
    cohort: Sequence[PooledUser],
    embeddings: Tensor,
    settings: StageSettings,
    *,
    seed: int,
    memory_bytes: int | None,
    checkpoint: Checkpoint | None,
    progress: Steps | None,
) -> PooledReport:
    """3b: `W_l` of all routers on the later history items of the cohort, judged on queries."""
    router = settings.router

    def make_pass(slots: Tensor) -> Pass:
        return personal_pass(
            slots, embeddings=embeddings, routing=model.structure.user_routing, experts=True
        )

    def batch_loss(batch: Batch) -> tuple[Tensor, None]:
        now = make_pass(batch.slots)
        now.dropout = router.dropout
        return model.answer_loss(batch, now), None

    queries = [(u, query) for u, user in enumerate(cohort) for query in user.queries]

    def validate(tokens: PassTokens) -> float:
        losses = held_back_losses(model, encoder, queries, make_pass, tokens.judging)
        return float(losses.mean())

    routers = [model.router(number) for number in range(len(model.sites))]
    weights = [router.lora for router in routers if router.lora is not None]
    for weight in weights:
        weight.requires_grad_(True)
    training = PooledTraining(
        encoder,
        [
            (u, item)
            for u, user in enumerate(cohort)
            for item in user.history[_cut(user, settings) :]
        ],
        torch.optim.AdamW(weights, lr=router.learning_rate, weight_decay=settings.weight_decay),
        batch_loss,
        validate,
        PooledSettings.of(router, settings, seed=seed),
        device=model.device,
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress)
    model.requires_grad_(False)
    return report
