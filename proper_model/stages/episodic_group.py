"""Stage 2 for people whose embedding is inferred (PROPER section 3, eq. 7, 8, 10; docs/method.md 1.5 f).

    h = W_p x + s sum_n w_n(u) B_n A_n x,    w(u) = softmax(W_e e_u),    e_u from other items of u

Every sample is one episode: the item or query is judged under the embedding that the *other* items of its
owner give (`inferred_embedding`), so experts and routers are trained for exactly what a device will do, and
no answer takes part in its own prediction. How many of the others take part is drawn anew for each sample:
all of them, a random share, or none, so that short histories and newcomers are trained for, too.

DEVIATION: the paper trains a free embedding a user together with the experts. That one learns its owner's
answers by heart; the loss of people it has not seen rises while the training loss falls.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside, load_checkpoint, save_checkpoint
from proper_model.engine.factor_cores import FactorCores
from proper_model.engine.judging import by_person, held_back_losses
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.private_training import training_for
from proper_model.engine.trials import lora_settings
from proper_model.errors import TrainingError
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.progress import Steps, Watch
from proper_model.settings.profile import StageSettings
from proper_model.stages.group import experts_b, group_parameters, router_parameters
from proper_model.stages.inferred_embedding import InferredEmbedding, analyse_variance
from proper_model.stages.item_gradients import MOST_ROWS, item_gradients
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_inference import fixed_inference
from proper_model.text.encoding import Encoder

NONE_TAKES_PART = 0.1  # share of the samples that are judged under the prior's mean
ALL_TAKE_PART = 0.5  # share of them that see all other items


def train_group_episodic(
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
) -> tuple[InferredEmbedding, Tensor, PooledReport]:
    """Train stage 2 in place; returns the inference, the pooled users' embeddings [U, 1, e], a report.

    `memory_bytes` is what training may take beside the base; None: what a GPU has free.
    """
    check_people(trained, settings)
    cap = settings.group.max_items_per_user
    own = [user.capped(cap) for user in trained]
    support = [user.history[-cap:] for user in held_back]
    items = [item for part in (*own, *support) for item in part]
    features = _features(model, encoder, items, settings, memory_bytes, checkpoint, progress)
    parts = features.split([len(part) for part in (*own, *support)])
    privacy, inferred = settings.privacy, None
    if privacy is not None:  # nothing of people's items without noise (docs/method.md 1.12)
        inferred = fixed_inference(model, encoder, lora_settings(settings, epochs=1))
    stage = _Episodes(model, own, parts[: len(own)], settings, seed, inferred)
    judged = [(u, query) for u, user in enumerate(held_back) for query in user.queries]

    def validate(tokens: PassTokens) -> Tensor:
        with torch.no_grad():
            embeddings = stage.inferred.of(parts[len(own) :])
        losses = held_back_losses(
            model, encoder, judged, lambda slots: group_pass(slots, embeddings), tokens.judging
        )
        return by_person(losses, [u for u, _ in judged])

    steps = privacy.group_steps if privacy else 0
    training = training_for(privacy, steps, stage.owners, len(own), stage.cores)(
        encoder,
        list(enumerate(stage.samples)),
        stage.optimizer(),
        stage.batch_loss,
        validate,
        PooledSettings.of(settings.group, settings, seed=mix_seed(seed, 3)),
        device=model.device,
        memory_bytes=memory_bytes,
        checkpoint=checkpoint,
    )
    report = training.run(progress, watch)
    model.requires_grad_(False)
    stage.inferred.requires_grad_(False)
    with torch.no_grad():
        table = stage.inferred.of(parts[: len(own)])
    return stage.inferred, table, report


def check_people(trained: Sequence[PooledUser], settings: StageSettings) -> None:
    """Raise TrainingError if too few of those who will train have any item.

    Under privacy everybody counts: an error by who has items would tell of one person's.
    """
    least = settings.group.prototype_min_users
    private = settings.privacy is not None
    people = sum(private or bool(user.history or user.queries) for user in trained)
    if people < least:
        raise TrainingError(
            f"stage 2: {people} pooled users train; inferred embeddings ship what people have in "
            f"common, which takes at least {least}",
            hint="pool more users, or take a preset with trained embeddings, such as 'default'",
        )


def _features(
    model: AdaptedModel,
    encoder: Encoder,
    items: Sequence[Encoded],
    settings: StageSettings,
    memory_bytes: int | None,
    checkpoint: Checkpoint | None,
    progress: Steps | None,
) -> Tensor:
    """The features [I, F] of all items, kept beside the checkpoint: they take a pass over the data."""
    place = beside(checkpoint, ".features")
    found = None if place is None else load_checkpoint(place)
    if found is not None and len(found[0]["features"]) == len(items):
        return found[0]["features"]
    free = free_bytes(model.device) if memory_bytes is None else memory_bytes
    cut = within(free, model, encoder, items, MOST_ROWS, lora_settings(settings, epochs=1))
    features = item_gradients(model, encoder, items, cut, progress=progress)
    if settings.privacy is not None:
        features = features.nan_to_num(0, 0, 0)  # an error would tell of one person's items
    elif not bool(torch.isfinite(features).all()):
        raise TrainingError(
            "stage 2: the gradients of some items are not finite numbers",
            hint="lower population.learning_rate in the profile, or compute in float32",
        )
    if place is not None:
        save_checkpoint(place, {"features": features}, {})
    return features


class _Episodes:
    """What stage 2 trains, and the loss of one batch of episodes.

    `inferred`: where it begins; None: by an analysis of variance of `features`.
    """

    def __init__(
        self,
        model: AdaptedModel,
        own: Sequence[Sequence[Encoded]],
        features: Sequence[Tensor],
        settings: StageSettings,
        seed: int,
        inferred: InferredEmbedding | None = None,
    ) -> None:
        self.model, self.settings, self.seed = model, settings, seed
        self.samples = [item for part in own for item in part]
        users = len(own)
        counts = torch.tensor([len(part) for part in own])
        owners = torch.arange(users).repeat_interleave(counts)
        together = torch.cat(list(features))
        if inferred is None:
            width = model.structure.embedding_dim
            inferred = analyse_variance(together, owners, users, width=width)
        self.inferred = inferred.to(model.device)
        self.inferred.to(model.expert(0).a.dtype)
        # Every sample's evidence [I, D], and for every user the numbers of the own samples.
        self.evidence = self.inferred.evidence(together.to(self.inferred.center))
        self.owners = owners.tolist()
        private, self.cores = settings.privacy, None
        if private is not None and private.core:
            self.cores = FactorCores(experts_b(model), seed=mix_seed(seed, 7))
        starts = (counts.cumsum(0) - counts).tolist()
        self.ranges = [range(a, a + n) for a, n in zip(starts, counts.tolist(), strict=True)]

    def optimizer(self) -> torch.optim.AdamW:
        """AdamW over exactly experts, user-aware routers and the inference's V and m.

        Of the experts B alone, or B's cores, where privacy asks for it.
        """
        group, decay = self.settings.group, self.settings.weight_decay
        privacy = self.settings.privacy
        frozen = privacy is not None and privacy.freeze_a
        rate = (privacy and privacy.group_learning_rate) or group.learning_rate
        shared: list[Tensor] = [*group_parameters(self.model, factors_a=not frozen)]
        for parameter in shared:
            parameter.requires_grad_(True)
        if self.cores is not None:
            shared = [*self.cores.cores, *router_parameters(self.model)]
        own = list(self.inferred.parameters())
        return torch.optim.AdamW(
            [
                {"params": shared, "lr": rate, "weight_decay": decay},
                {"params": own, "lr": rate, "weight_decay": 0.0},
            ]
        )

    def batch_loss(self, batch: Batch) -> tuple[Tensor, None]:
        """L_CE of every row, [B]; a row's slot is its sample's number."""
        assert batch.seeds is not None
        numbers = batch.slots.tolist()
        drawn = [
            self.taking_part(number, seed)
            for number, seed in zip(numbers, batch.seeds, strict=True)
        ]
        sums = torch.stack([self.evidence[others].sum(0) for others in drawn])  # [B, D]
        items = torch.tensor([float(len(others)) for others in drawn]).to(sums)
        embeddings = self.inferred(sums, items)[:, None]  # e_u, [B, 1, e]
        now = group_pass(torch.arange(len(numbers), device=sums.device), embeddings)
        now.dropout = self.settings.group.dropout
        return self.model.answer_loss(batch, now), None

    def taking_part(self, number: int, seed: int) -> list[int]:
        """Which other samples of its owner give the embedding under which a sample is judged."""
        others = [i for i in self.ranges[self.owners[number]] if i != number]
        draw = random.Random(f"{seed}/episode")
        kind = draw.random()
        if kind < NONE_TAKES_PART:
            return []
        if kind < NONE_TAKES_PART + ALL_TAKE_PART:
            return others
        share = draw.random()
        return [i for i in others if draw.random() < share]
