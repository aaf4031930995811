"""User embeddings e_u (PROPER eq. 8): fitting one for an unseen user, and what is published of them.

An unseen user starts at the mean of the pooled users' embeddings and fits e_u on the own history
with everything else frozen; the fit is then compared with prototypes (k-means centres of pooled
embeddings) by loss on held-back own items (docs/method.md 1.5 f). The paper says nothing of unseen
users. A centre of fewer users than a prototype needs is merged into the nearest other: it would
publish personal data.

Letters: U users, K prototypes, C candidates, e embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.cohort import Cohort
from proper_model.engine.folds import Samples, kept_epochs, train_and_choose
from proper_model.engine.judging import held_back_losses
from proper_model.engine.slots import room_for
from proper_model.engine.trials import Trial, TrialResult, TrialSettings
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.progress import Steps
from proper_model.settings.profile import StageSettings
from proper_model.text.encoding import Encoder

# Centres of ten users gave away more of who was among them (docs/privacy.md, What was measured).
USERS_A_PROTOTYPE = 20


@dataclass(frozen=True)
class EmbeddingFit:
    """How one user's embedding was found.

    Attributes:
        source: `fitted`, `prototype` or `mean`; `inferred` where nothing was fitted or judged; `none`
            over a release of stage 1 alone.
        loss_before, loss_after: held-back loss per answer token at the mean and at the result; NaN
            where none was taken.
        distance: |e - e_mean|.
    """

    source: str
    loss_before: float
    loss_after: float
    distance: float
    epochs: int


def fit_embeddings(
    model: AdaptedModel,
    encoder: Encoder,
    users: Sequence[Samples],
    *,
    mean: Tensor,
    prototypes: Tensor,
    learning_rate: float,
    settings: TrialSettings,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> tuple[Tensor, list[EmbeddingFit]]:
    """Embeddings of unseen users, e_u of eq. 8, with all other weights frozen: [U, tables, e].

    `mean` is [tables, e], `prototypes` are [K, tables, e], both of the pooled users.

    Users without folds are not trained; they get the best prototype or the mean.
    """

    def train(
        trials: Sequence[Trial], _: Sequence[int], part: Checkpoint | None
    ) -> tuple[list[TrialResult], list[Tensor]]:
        slots = room_for(len(trials), settings.slots, part)
        table = mean[None].repeat(slots, 1, 1).clone().requires_grad_(True)
        cohort = Cohort(
            model,
            encoder,
            trials,
            [table],
            lambda _: [mean],
            lambda rows, _: group_pass(rows, table),
            settings,
            checkpoint=part,
        )
        return cohort.run(progress), cohort.best

    if model.structure.population_only:
        unread = EmbeddingFit("none", math.nan, math.nan, 0.0, 0)
        return mean[None].repeat(len(users), 1, 1), [unread] * len(users)
    own = list(users)
    if not model.structure.reads_user:
        own = [replace(user, folds=()) for user in users]  # no router reads e_u: nothing to fit
    found, (fitted,) = train_and_choose(
        own, [learning_rate], train, refit=settings.refit, checkpoint=checkpoint
    )
    losses = candidate_losses(
        model, encoder, users, torch.cat([mean[None], prototypes]), settings.tokens_judged
    )
    chosen = [
        _choose(
            mean,
            prototypes,
            fitted[choice.trials[-1]].to(mean) if choice.trials else mean,
            losses[u],
            choice.result,
        )
        for u, choice in enumerate(found)
    ]
    return torch.stack([embedding for embedding, _ in chosen]), [fit for _, fit in chosen]


def _choose(
    mean: Tensor, prototypes: Tensor, fitted: Tensor, losses: Tensor, result: TrialResult
) -> tuple[Tensor, EmbeddingFit]:
    """The best of mean, prototypes (their held-back losses in that order) and the fit."""
    choices = [("mean", mean, float(losses[0]))]
    choices += [
        ("prototype", prototype, float(loss))
        for prototype, loss in zip(prototypes, losses[1:], strict=True)
    ]
    if kept_epochs(result) > 0:
        choices.append(("fitted", fitted, result.best_loss))
    # Compared with NaN nothing is less, so the first candidate would win with one.
    source, embedding, loss = min(choices, key=lambda choice: (math.isnan(choice[2]), choice[2]))
    return embedding, EmbeddingFit(
        source=source,
        loss_before=float(losses[0]),
        loss_after=loss,
        distance=float((embedding - mean).norm()),
        epochs=result.best_epoch if source == "fitted" else 0,
    )


def candidate_losses(
    model: AdaptedModel,
    encoder: Encoder,
    users: Sequence[Samples],
    candidates: Tensor,
    tokens: int,
) -> Tensor:
    """Mean held-back loss of every user under every candidate [C, tables, e] -> [U, C].

    A user without any items gets zeros, so that the first candidate wins.
    """
    count = len(candidates)
    rows = [(c, item) for user in users for c in range(count) for item in user.judged]
    losses = held_back_losses(
        model, encoder, rows, lambda slots: group_pass(slots, candidates), tokens
    )
    result = torch.zeros(len(users), count, dtype=torch.float64)
    for u, own in enumerate(losses.split([count * len(user.judged) for user in users])):
        if len(own):
            result[u] = own.view(count, -1).mean(1)
    return result


def published_embeddings(
    table: Tensor, settings: StageSettings, seed: int, *, mean: Tensor | None = None
) -> dict[str, Tensor]:
    """What a release says of the pooled users' embeddings [U, tables, e]: never a row.

    Their mean and prototypes, each with the number of users it is of. With fewer users than
    `group.prototype_min_users` even the mean would say much about each of them, so zeros are shipped
    and their count says so; prototypes are of twenty users each at least. `mean` [tables, e]: what somebody without items has, where that is not the mean.
    """
    minimum = settings.group.prototype_min_users
    prototypes, counts = find_prototypes(
        table,
        settings.group.prototypes,
        minimum_users=max(USERS_A_PROTOTYPE, minimum),
        seed=seed,
    )
    enough = len(table) >= minimum
    if mean is None:
        mean = table.mean(0) if enough else torch.zeros_like(table[0])
    return {
        "mean_embedding": mean.cpu().contiguous(),
        "mean_embedding_count": torch.tensor([len(table) if enough else 0]),
        "prototypes": prototypes.cpu().contiguous(),
        "prototype_counts": torch.tensor(counts, dtype=torch.int64),
    }


def find_prototypes(
    embeddings: Tensor, count: int, *, minimum_users: int, seed: int
) -> tuple[Tensor, list[int]]:
    """k-means centres of pooled embeddings [U, tables, e] -> ([K, tables, e], users a centre).

    Clusters of fewer than `minimum_users` users join others; with too few users for two none is
    made, since one alone would be the mean. Every user counts in exactly one centre.
    """
    from sklearn.cluster import KMeans

    users = embeddings.shape[0]
    clusters = min(count, users // minimum_users)
    if clusters < 2:
        return embeddings[:0], []
    flat = embeddings.detach().flatten(1).double().cpu()
    found = KMeans(n_clusters=clusters, n_init=10, random_state=seed).fit(flat.numpy()).labels_
    labels = _merge_small(flat, torch.from_numpy(found).long(), minimum_users)
    kept = sorted(set(labels.tolist()))
    if len(kept) < 2:
        return embeddings[:0], []
    sizes = [int((labels == cluster).sum()) for cluster in kept]
    assert sum(sizes) == users
    rows = [(labels == cluster).to(embeddings.device) for cluster in kept]
    return torch.stack([embeddings.detach()[members].mean(0) for members in rows]), sizes


def _merge_small(points: Tensor, labels: Tensor, minimum: int) -> Tensor:
    """Give the members of clusters below `minimum` to the nearest other centre, smallest first.

    If they were left out they could be computed: the published mean over all users, less the published
    centres, is the sum of whoever is missing, and with one outlier that is one user's row.
    """
    labels = labels.clone()
    while True:
        sizes = {cluster: int((labels == cluster).sum()) for cluster in set(labels.tolist())}
        smallest = min(sizes, key=lambda cluster: (sizes[cluster], cluster))
        if sizes[smallest] >= minimum or len(sizes) == 1:
            return labels
        others = sorted(set(sizes) - {smallest})
        centres = torch.stack([points[labels == cluster].mean(0) for cluster in others])
        members = (labels == smallest).nonzero().squeeze(1)
        nearest = torch.cdist(points[members], centres).argmin(1)
        labels[members] = torch.tensor(others)[nearest]
