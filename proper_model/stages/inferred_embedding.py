"""A user's embedding from the own items, without training: the population is the prior.

The items of person u give features f_i (`item_gradients`). Over people they follow a model with random
effects: f_i = c + t_u + noise, t_u ~ N(0, S_b) between people, noise ~ N(0, S_w) within one. In the
coordinates P in which S_w is the identity and S_b is diag(1 / m), what n items say of t_u is

    E[t_u | f_1 .. f_n]  =  sum_i (f_i - c) P / (n + m)      a maximum a posteriori estimate, too

so a direction in which people differ little, of large m, waits for many items, and no item leaves the
prior's mean. The embedding is e_u = E[t_u | ...] V, with V [D, e]. c, S_b and S_w come from an analysis of
variance; m and V are then trained with the experts in stage 2 (`episodic_group`). PROPER says nothing of
people it has not trained; that each level is the prior of the next is ours (docs/method.md 1.5 f).

Letters: I items, U users, F features, D directions, e embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proper_model.engine.trials import TrialSettings
from proper_model.errors import TrainingError
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.progress import Steps
from proper_model.settings.presets import Structure
from proper_model.stages.item_gradients import FEATURES, item_gradients
from proper_model.stages.user_embedding import EmbeddingFit
from proper_model.text.encoding import Encoder

DIRECTIONS = 64  # D, at most
USERS_A_DIRECTION = 4
LEAST_SIGNAL = 0.005  # of variance between people against that within one, a direction: m <= 200
# Of the mean variance within people, added to each feature's. As small as this, since what items have in
# common fills a few directions of large variance, and what tells them apart the many of small.
RIDGE = 2e-5
# Wide enough for routing weights that differ: logits of standard deviation 1.7 at the first step.
SPREAD = 2.0


class InferredEmbedding(torch.nn.Module):
    """What turns the features of a person's items into an embedding.

    Attributes:
        center: c `[F]`; project: P `[F, D]`. Both fixed after the analysis of variance.
        log_items: log m `[D]`: how many items weigh as much as the prior.
        weight: V `[D, e]`.
    """

    center: Tensor
    project: Tensor

    def __init__(self, center: Tensor, project: Tensor, items: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("project", project)
        self.log_items = torch.nn.Parameter(items.log())
        self.weight = torch.nn.Parameter(weight)

    def evidence(self, features: Tensor) -> Tensor:
        """(f - c) P of items: [..., F] -> [..., D]. The evidence of several items is their sum."""
        return torch.einsum("...f,fd->...d", features - self.center, self.project)

    def forward(self, evidence: Tensor, items: Tensor) -> Tensor:
        """Embeddings from summed evidence [B, D] of so many items [B]: [B, e]."""
        return torch.einsum(
            "bd,de->be", evidence / (items[:, None] + self.log_items.exp()), self.weight
        )

    def of(self, features: Sequence[Tensor]) -> Tensor:
        """Embeddings of people from their items' features, each [n, F]; n may be 0: [U, 1, e]."""
        if not features:
            return self.weight.new_zeros(0, 1, self.weight.shape[1])
        sums = torch.stack([self.evidence(own.to(self.center)).sum(0) for own in features])
        items = torch.tensor([float(len(own)) for own in features]).to(sums)
        found: Tensor = self(sums, items)
        return found[:, None]

    def tensors(self) -> dict[str, Tensor]:
        """By their names on disk; the inverse of `from_tensors`."""
        found = {
            "inferred.center": self.center,
            "inferred.project": self.project,
            "inferred.items": self.log_items.exp(),
            "inferred.weight": self.weight,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> InferredEmbedding:
        """From tensors by their names on disk, of shapes that were checked."""
        names = ("center", "project", "items", "weight")
        return cls(*(tensors[f"inferred.{name}"].clone() for name in names))


def inferred_shapes(structure: Structure, directions: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a release ships of it, for D directions."""
    return {
        "inferred.center": (FEATURES,),
        "inferred.project": (FEATURES, directions),
        "inferred.items": (directions,),
        "inferred.weight": (directions, structure.embedding_dim),
    }


def infer_embeddings(
    model: AdaptedModel,
    encoder: Encoder,
    inferred: InferredEmbedding,
    people: Sequence[Sequence[Encoded]],
    settings: TrialSettings,
    *,
    progress: Steps | None = None,
) -> tuple[Tensor, list[EmbeddingFit]]:
    """Embeddings of people from their items, [U, 1, e], and how each was found.

    One pass there and back over every item: no epochs, and no item is held back. Somebody without
    items has the prior's mean; an item whose gradient is no number says nothing. `settings`
    as of `item_gradients`.
    """
    items = [item for own in people for item in own]
    features = item_gradients(model, encoder, items, settings, progress=progress)
    split = features.split([len(own) for own in people])
    said = [own[own.isfinite().all(1)] for own in split]
    with torch.no_grad():
        embeddings = inferred.of(said)
    nothing = float("nan")
    return embeddings, [
        EmbeddingFit(
            source="inferred" if len(own) else "mean",
            loss_before=nothing,
            loss_after=nothing,
            distance=float(embedding.norm()),
            epochs=0,
        )
        for own, embedding in zip(said, embeddings, strict=True)
    ]


def analyse_variance(
    features: Tensor, owners: Tensor, users: int, *, width: int
) -> InferredEmbedding:
    """How people differ, from all items' features [I, F] and whose they are [I], 0 to `users` - 1.

    One-way random effects: S_w is the pooled covariance within people, S_b what the covariance of
    people's means exceeds it by. Directions are those of S_b where S_w is white, the strongest first;
    the first `width` of them begin as the embedding.

    Raises TrainingError where nobody has two items: what is noise within people is then unknown.
    """
    f = features.double()
    count = torch.bincount(owners, minlength=users).double()  # items of each user
    center = f.mean(0)
    f = f - center
    means = torch.zeros(users, f.shape[1], dtype=f.dtype).index_add_(0, owners, f)
    means = means / count.clamp(min=1)[:, None]
    inner = f - means[owners]
    total, taking_part = float(count.sum()), int((count > 0).sum())
    repeated = int(total) - taking_part  # items beyond everybody's first: the rank of S_w, at most
    if repeated < 1:
        raise TrainingError(
            "stage 2: no pooled user has two items, so what people differ by cannot be told from noise",
            hint="pool users with more items (--max-items), or take a preset with trained embeddings, "
            "such as 'default'",
        )
    within = inner.T @ inner / repeated
    between = torch.einsum("u,uf,ug->fg", count, means, means) / max(1, taking_part - 1)
    a_user = (total - float((count**2).sum()) / total) / max(1, taking_part - 1)
    s_b = (between - within) / max(a_user, 1e-9)
    ridge = RIDGE * within.diagonal().mean().clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(within + ridge * torch.eye(len(within), dtype=f.dtype))
    # Few people say nothing of many directions: no more of them than people, the largest first. Where
    # nobody's items differ, the ridge would pass for their noise and any difference for certain.
    white = (vectors / values.sqrt())[:, -min(max(width, users), repeated) :]
    signal, turned = torch.linalg.eigh(white.T @ s_b @ white)
    most = min(DIRECTIONS, max(width, users // USERS_A_DIRECTION), len(signal))
    kept = signal.argsort(descending=True)[:most]
    project = white @ turned[:, kept]
    items = 1 / signal[kept].clamp(min=LEAST_SIGNAL)
    means = means @ project * (count[:, None] / (count[:, None] + items))
    spread = means[count > 0, :width].std(0).clamp(min=1e-6)
    weight = torch.zeros(most, width, dtype=f.dtype)
    weight.diagonal().copy_(SPREAD / spread)
    return InferredEmbedding(center.float(), project.float(), items.float(), weight.float())
