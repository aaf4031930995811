"""Stages 3a and 3b: the LoRA-aware router, trained once per release (PROPER section 3, eq. 12).

    w'(x, u) = softmax(W_l B_u A_u x)            (12)  `model.routing`; shared by all users

As an einsum, for M tokens, N experts, rank r, widths i to o: `("no,or,ri,mi->mn", W_l, B_u, A_u, x)`.
The preset `default` adds these logits to those of eq. 8.

3a gives every user of a cohort of *pooled* users a provisional private LoRA; 3b freezes those and
the experts and trains `W_l` for all of them together (docs/method.md 1.7). It happens on the server
before release; no test user takes part and nothing of it remains but `W_l`.

The histories are cut in time: provisional LoRAs train on the earlier part, `W_l` on the later one,
queries judge. So the router learns from what a LoRA does on items it has not seen, as on a device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.folds import Fold, Samples
from proper_model.engine.judging import by_person, held_back_losses
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.engine.trials import lora_settings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.progress import Steps, Watch
from proper_model.settings.presets import UserRouting
from proper_model.settings.profile import StageSettings
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import train_user_loras
from proper_model.text.encoding import Encoder

# DEVIATION: the paper names no cut (docs/method.md 1.7).
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
    watch: Watch | None = None,
) -> PooledReport:
    """Train every site's `W_l` in place. `embeddings [U, tables, e]` are the cohort's, frozen.

    `memory_bytes` is what training may take beside the base; None: what a GPU has free.

    Where `W_l` replaces the user-aware router (preset `paper`), provisional LoRAs learned under the
    old routing do not fit the new one, so 3a and 3b run twice (docs/method.md 1.7).
    """
    stage = _RouterStage(
        model, encoder, cohort, embeddings, settings, memory_bytes, progress, watch
    )
    rounds = [UserRouting.USER_AWARE]
    if model.structure.user_routing is UserRouting.LORA_AWARE:
        rounds.append(UserRouting.LORA_AWARE)
    report = PooledReport()
    for number, routing in enumerate(rounds):
        stage.provisional_loras(
            routing, mix_seed(seed, 5, number), beside(checkpoint, f".{number}.lora")
        )
        report = stage.router(mix_seed(seed, 6, number), beside(checkpoint, f".{number}.router"))
    return report


@dataclass(frozen=True)
class _RouterStage:
    """What 3a and 3b share."""

    model: AdaptedModel
    encoder: Encoder
    cohort: Sequence[PooledUser]
    embeddings: Tensor
    settings: StageSettings
    memory_bytes: int | None
    progress: Steps | None
    watch: Watch | None

    def provisional_loras(
        self, routing: UserRouting, seed: int, checkpoint: Checkpoint | None
    ) -> None:
        """3a: one provisional LoRA a cohort user, left in `model.lora`."""
        users = []
        for u, user in enumerate(self.cohort):
            early, _ = self._cut(user)
            # Nothing is held back: a provisional LoRA needs no choice, only the right kind of output.
            users.append(Samples(early, (Fold(early, ()),), mix_seed(seed, u)))
        # Nobody judges a provisional LoRA, so the most careful of the rates trains it.
        rate = min(self.settings.user.learning_rates)
        settings = lora_settings(self.settings, epochs=self.settings.user.epochs)
        free = free_bytes(self.model.device) if self.memory_bytes is None else self.memory_bytes
        train_user_loras(
            self.model,
            self.encoder,
            users,
            embeddings=self.embeddings,
            routing=routing,
            experts=True,
            learning_rates=[rate],
            settings=within(
                free,
                self.model,
                self.encoder,
                [item for user in users for item in user.items],
                len(users),
                dataclasses.replace(settings, refit=False),
            ),
            checkpoint=checkpoint,
            progress=self.progress,
        )

    def router(self, seed: int, checkpoint: Checkpoint | None) -> PooledReport:
        """3b: `W_l` of all routers on the later history items of the cohort, judged on queries."""
        model, router = self.model, self.settings.router
        found = [model.router(number).lora for number in range(len(model.sites))]
        weights = [weight for weight in found if weight is not None]
        for weight in weights:
            weight.requires_grad_(True)
        samples = [(u, item) for u, user in enumerate(self.cohort) for item in self._cut(user)[1]]
        queries = [(u, query) for u, user in enumerate(self.cohort) for query in user.queries]

        def batch_loss(batch: Batch) -> tuple[Tensor, None]:
            now = self._pass(batch.slots)
            now.dropout = router.dropout
            return model.answer_loss(batch, now), None

        def validate(tokens: PassTokens) -> Tensor:
            losses = held_back_losses(model, self.encoder, queries, self._pass, tokens.judging)
            return by_person(losses, [u for u, _ in queries])

        training = PooledTraining(
            self.encoder,
            samples,
            torch.optim.AdamW(
                weights, lr=router.learning_rate, weight_decay=self.settings.weight_decay
            ),
            batch_loss,
            validate,
            PooledSettings.of(router, self.settings, seed=seed),
            device=model.device,
            memory_bytes=self.memory_bytes,
            checkpoint=checkpoint,
        )
        report = training.run(self.progress, self.watch)
        model.requires_grad_(False)
        return report

    def _pass(self, slots: Tensor) -> Pass:
        """Experts routed by eq. 12, or by the sum of both routers' logits, and the users' LoRAs."""
        routing = self.model.structure.user_routing
        return personal_pass(slots, embeddings=self.embeddings, routing=routing, experts=True)

    def _cut(self, user: PooledUser) -> tuple[tuple[Encoded, ...], tuple[Encoded, ...]]:
        """A user's most recent history items, in the part for 3a and the part for 3b."""
        begin = max(0, len(user.history) - self.settings.group.max_items_per_user)
        middle = begin + round((1 - ROUTER_SHARE) * (len(user.history) - begin))
        return user.history[begin:middle], user.history[middle:]
