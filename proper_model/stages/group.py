"""Stage 2: what people alike have in common, as experts and routers (PROPER section 3, eq. 7-10).

    h = W_p x + s sum_n w_n(x, u) B_n A_n x      (7)  `model.adapted_linear`
    w(x, u) = softmax(W_t x + W_e e_u)           (8)  `model.routing`
    L = L_CE + lambda L_c                        (9)  `constraint_loss`
    W_g(x, u) = W_p + s sum_n w_n(x, u) B_n A_n  (10) what stage 3 starts from; it depends on x

As einsums, for M tokens, N experts, rank r, widths i to o: eq. 7 adds
`("mn,nor,nri,mi->mo", w, B, A, x)`; the logits of eq. 8 are `("mi,ni->mn", x, W_t)` and, a row b at a
time, `("be,ne->bn", e_u, W_e)`.

Trained on pooled histories and queries, capped per user. Some pooled users are held back: after each
epoch their embeddings are fitted on their histories, exactly as a device will do it, and the loss on
their queries decides when to stop. They never touch experts or routers.

With `Structure.end_to_end` every pooled user also has a private LoRA beside the experts (eq. 11), which
trains with them from the start and is thrown away: the paper's ablation without stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.folds import split_items
from proper_model.engine.judging import by_person, held_back_losses
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.engine.trials import fit_settings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.progress import Steps, Watch
from proper_model.settings.presets import Constraint
from proper_model.settings.profile import StageSettings
from proper_model.stages.constraint_loss import ConstraintObserver, RoutingMemory
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.user_embedding import fit_embeddings
from proper_model.text.encoding import Encoder

# DEVIATION: the paper says "random"; as wide as the user router, so that users differ from the start.
EMBEDDING_STD = 0.3

# Of a fit that decides nothing, since training goes on to the end whatever it says.
UNUSED_FIT_EPOCHS = 2


def train_group(
    model: AdaptedModel,
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
        weight_extra=group.constraint_weight,  # lambda of eq. 9
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress, watch)
    if stage.together:
        model.lora = model.new_user_lora([])
    model.requires_grad_(False)
    return stage.table.detach(), report


def first_embeddings(model: AdaptedModel, users: int, seed: int) -> Tensor:
    """Where the pooled users' embeddings [U, tables, e] begin."""
    shape = (users, *model.embedding_shape)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(mix_seed(seed, 2)))
    return (start * EMBEDDING_STD).to(model.expert(0).a)  # what is trained has one precision


class _GroupStage:
    """What stage 2 trains, and the loss of one batch."""

    def __init__(self, model: AdaptedModel, users: int, settings: StageSettings, seed: int) -> None:
        self.model, self.users, self.settings = model, users, settings
        like = model.expert(0).a
        self.table = torch.nn.Parameter(first_embeddings(model, users, seed))  # e_u, [U, tables, e]
        self.memory = RoutingMemory(
            len(model.sites), users, model.structure.experts, dtype=like.dtype
        )
        self.together = model.structure.end_to_end
        if self.together:
            model.lora = model.new_user_lora([mix_seed(seed, 6, u) for u in range(users)]).to(like)
        constrained = settings.group.constraint_weight > 0
        self.form = model.structure.constraint if constrained else Constraint.NONE

    def mean(self) -> Tensor:
        """The pooled users' mean embedding, [tables, e]."""
        return self.table.detach().mean(0)

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW over exactly experts, user-aware routers and embeddings; end to end, LoRAs too."""
        group = self.settings.group
        shared = group_parameters(self.model)
        own = self.model.lora.flat() if self.together else []
        for parameter in (*shared, *own):
            parameter.requires_grad_(True)
        rate, decay = group.learning_rate, self.settings.weight_decay
        table = {"params": [self.table], "lr": group.embedding_learning_rate, "weight_decay": 0.0}
        groups = [
            {"params": shared, "lr": rate, "weight_decay": decay},
            {"params": own, "lr": rate, "weight_decay": decay, "personal": True},
            table | {"personal": True},
        ]
        return torch.optim.AdamW([one for one in groups if one["params"]])

    def batch_loss(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """L_CE and, where it has weight, L_c of every row: each [B]."""
        group, observer = self.settings.group, None
        now = group_pass(batch.slots, self.table)  # eq. 7, 8
        now.lora = self.together  # eq. 11, routed by eq. 8
        now.dropout = group.dropout
        if self.form is not Constraint.NONE:
            now.observer = observer = ConstraintObserver(
                self.form, self.memory, batch, users=self.users, pairs=group.constraint_pairs
            )
        losses = self.model.answer_loss(batch, now)
        return losses, None if observer is None else observer.loss()  # eq. 9


def group_parameters(model: AdaptedModel, *, factors_a: bool = True) -> list[torch.nn.Parameter]:
    """Exactly what stage 2 trains besides embeddings: experts, maybe without A, and user-aware routers."""
    experts = list(model.experts.parameters()) if factors_a else experts_b(model)
    return [*experts, *router_parameters(model)]


def experts_b(model: AdaptedModel) -> list[torch.nn.Parameter]:
    """B of all experts, a site after another: [N, o, r] each."""
    return [model.expert(number).b for number in range(len(model.sites))]


def router_parameters(model: AdaptedModel) -> list[torch.nn.Parameter]:
    """The user-aware routers."""
    found = []
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
    tokens: PassTokens,
) -> Tensor:
    """Query loss of every held-back user, [P], after fitting the embeddings as a device would."""
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
    epochs = settings.user.embedding_epochs
    if not settings.group.early_stopping:
        epochs = min(epochs, UNUSED_FIT_EPOCHS)
    embeddings, _ = fit_embeddings(
        model,
        encoder,
        samples,
        mean=mean,
        prototypes=mean[None][:0],
        learning_rate=settings.user.embedding_learning_rate,
        settings=dataclasses.replace(
            fit_settings(settings, epochs=epochs),
            tokens_per_step=tokens.training,
            judge_tokens=tokens.judging,
        ),
    )
    rows = [(u, query) for u, user in enumerate(users) for query in user.queries]
    losses = held_back_losses(
        model, encoder, rows, lambda s: group_pass(s, embeddings), tokens.judging
    )
    return by_person(losses, [u for u, _ in rows])
