"""Stage 2: experts, user-aware router and user embeddings on pooled users (PROPER eq. 7-10).

Trained on pooled histories and queries, capped per user, with the constraint loss. Some pooled
users are held back: after each epoch their embeddings are fitted on their histories, exactly as a
device will do it, and the loss on their queries decides when to stop. They never touch experts or
routers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from proper_model.engine.folds import split_items
from proper_model.engine.judging import held_back_losses
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.engine.trials import fit_settings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.layout import mean_by_row
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.progress import Steps
from proper_model.settings.presets import Constraint
from proper_model.settings.profile import StageSettings
from proper_model.stages.constraint_loss import RoutingMemory, pair_loss
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.user_embedding import fit_embeddings
from proper_model.text.encoding import Encoder

# DEVIATION: the paper says "random"; as wide as the user router, so that users differ from the start.
EMBEDDING_STD = 0.3
# Names the draw of other users among those that a row's seed makes; sites are numbered from 0.
PAIR_DRAW = -1
# Fits during validation only need to rank epochs, so they are shorter than a device's.
VALIDATION_FIT_EPOCHS = 2


class ConstraintObserver:
    """Collects the constraint loss over all routers of one forward pass (eq. 9)."""

    def __init__(
        self, form: Constraint, memory: RoutingMemory, batch: Batch, *, users: int, pairs: int
    ) -> None:
        self.form, self.memory, self.batch = form, memory, batch
        assert batch.seeds is not None
        # Drawn by the row's own seed, so that they do not depend on its company.
        draws = [torch.Generator().manual_seed(mix_seed(s, PAIR_DRAW)) for s in batch.seeds]
        drawn = torch.stack(
            [torch.randint(1, max(users, 2), (pairs,), generator=draw) for draw in draws]
        ).to(batch.slots.device)
        self.others = (batch.slots[:, None] + drawn) % users  # never the row's own user
        self.terms: list[Tensor] = []

    def __call__(
        self, site: int, weights: Tensor, rows: Tensor, others: Callable[[Tensor], Tensor]
    ) -> None:
        slots = self.batch.slots
        if self.form is Constraint.PAIRS:
            cosines = pair_loss(weights, others(self.others))
            self.terms.append(mean_by_row(cosines[:, None], rows, len(slots))[:, 0])
        else:
            self.terms.append(self.memory.loss(site, weights, rows, slots))
            self.memory.collect(site, weights.detach(), rows, slots)

    def loss(self) -> Tensor:
        """Every row's mean over routers, [B]."""
        return torch.stack(self.terms).mean(0)


def train_group(
    model: AdaptedModel,
    encoder: Encoder,
    trained: Sequence[PooledUser],
    held_back: Sequence[PooledUser],
    settings: StageSettings,
    *,
    seed: int,
    memory_bytes: int | None = None,
    checkpoint: Path | None = None,
    progress: Steps | None = None,
) -> tuple[Tensor, PooledReport]:
    """Train stage 2 in place; returns the pooled users' embeddings [U, tables, e] and a report.

    `memory_bytes` is what training may take beside the base; None: what a GPU has free.
    """
    stage = _GroupStage(model, len(trained), settings, seed)
    group = settings.group
    training = PooledTraining(
        encoder,
        [(u, s) for u, user in enumerate(trained) for s in user.capped(group.max_items_per_user)],
        stage.optimizer(),
        stage.batch_loss,
        lambda tokens: validation_loss(
            model, encoder, held_back, stage.mean(), settings, seed, tokens
        ),
        PooledSettings.of(group, settings, seed=mix_seed(seed, 3)),
        device=model.device,
        extra=stage.memory,
        weight_extra=group.constraint_weight,
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress)
    model.requires_grad_(False)
    return stage.table.detach(), report


def first_embeddings(model: AdaptedModel, users: int, seed: int) -> Tensor:
    """Where the pooled users' embeddings [U, tables, e] begin."""
    shape = (users, model.tables, model.structure.embedding_dim)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(mix_seed(seed, 2)))
    return (start * EMBEDDING_STD).to(model.expert(0).a)  # what is trained has one precision


class _GroupStage:
    """What stage 2 trains, and the loss of one batch."""

    def __init__(self, model: AdaptedModel, users: int, settings: StageSettings, seed: int) -> None:
        self.model, self.users, self.settings = model, users, settings
        like = model.expert(0).a
        self.table = torch.nn.Parameter(first_embeddings(model, users, seed))
        self.memory = RoutingMemory(
            len(model.sites), users, model.structure.experts, dtype=like.dtype
        )
        constrained = settings.group.constraint_weight > 0
        self.form = model.structure.constraint if constrained else Constraint.NONE

    def mean(self) -> Tensor:
        """The pooled users' mean embedding, [tables, e]."""
        return self.table.detach().mean(0)

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW over exactly experts, user-aware routers and embeddings."""
        group = self.settings.group
        shared = group_parameters(self.model)
        for parameter in shared:
            parameter.requires_grad_(True)
        decay = self.settings.weight_decay
        return torch.optim.AdamW(
            [
                {"params": shared, "lr": group.learning_rate, "weight_decay": decay},
                {"params": [self.table], "lr": group.embedding_learning_rate, "weight_decay": 0.0},
            ]
        )

    def batch_loss(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Losses a row, and the rows' constraint losses where they have weight."""
        group = self.settings.group
        now = group_pass(batch.slots, self.table)
        now.dropout = group.dropout
        if self.form is Constraint.NONE:
            return self.model.answer_loss(batch, now), None
        observer = ConstraintObserver(
            self.form, self.memory, batch, users=self.users, pairs=group.constraint_pairs
        )
        now.observer = observer
        losses = self.model.answer_loss(batch, now)
        return losses, observer.loss()


def group_parameters(model: AdaptedModel) -> list[torch.nn.Parameter]:
    """Exactly what stage 2 trains besides embeddings: experts and user-aware routers."""
    found = list(model.experts.parameters())
    for number in range(len(model.sites)):
        router = model.router(number)
        found += [weight for weight in (router.text, router.user) if weight is not None]
    if model.tied_user is not None:
        found.append(model.tied_user)
    return found


def validation_loss(
    model: AdaptedModel,
    encoder: Encoder,
    users: Sequence[PooledUser],
    mean: Tensor,
    settings: StageSettings,
    seed: int,
    tokens: PassTokens | None = None,
) -> float:
    """Query loss of held-back users after fitting their embeddings as a device would.

    `tokens`: what a pass may hold; None: what the settings say.
    """
    tokens = tokens or PassTokens.of(settings.tokens_per_step)
    cap = settings.group.max_items_per_user
    samples = [
        split_items(
            user.history[-cap:],
            fraction=settings.user.held_back_fraction,
            folds=1,  # ranking epochs needs no more
            minimum=settings.user.min_items_to_train,
            seed=mix_seed(seed, 4, u),
        )
        for u, user in enumerate(users)
    ]
    embeddings, _ = fit_embeddings(
        model,
        encoder,
        samples,
        mean=mean,
        prototypes=mean[None][:0],
        learning_rate=settings.user.embedding_learning_rate,
        settings=dataclasses.replace(
            fit_settings(settings, epochs=VALIDATION_FIT_EPOCHS),
            tokens_per_step=tokens.training,
            judge_tokens=tokens.judging,
        ),
    )
    rows = [(u, query) for u, user in enumerate(users) for query in user.queries]
    losses = held_back_losses(
        model, encoder, rows, lambda s: group_pass(s, embeddings), tokens.judging
    )
    return float(losses.mean())
