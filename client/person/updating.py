"""Going on from adapters with new items, for one person and for a cohort alike.

New items train together with as many old ones; new items that were held back judge, and whoever
does not gain by that keeps the adapter there was. The embedding stays.
Source: docs/method.md 1.9 (drift, continual refit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.person.learner import Learner
from proper_model.engine import Fold, Samples, split_items
from proper_model.kernels import Encoded
from proper_model.stages import Factors, LoraFit

# Old items that are trained again beside every new one, so that an update does not unlearn them.
REHEARSAL = 1.0
LEAST_REHEARSED = 8
# With fewer new items than MANY each judges once, in FOLDS groups: a fifth of them would be an item
# or two, by which an update is kept or not as the coin falls.
MANY, FOLDS = 10, 5


@dataclass(frozen=True)
class Member:
    """One adapter that goes on: its factors, the person's embedding [tables, e], the samples."""

    factors: Factors
    embedding: Tensor
    samples: Samples


@dataclass(frozen=True)
class WentOn:
    """What became of a member: `lora.<site>.A|B`, and how it was chosen on held-back items."""

    adapter: Mapping[str, Tensor]
    fit: LoraFit

    @property
    def kept(self) -> bool:
        """Whether training helped; if not, `adapter` is the one there was."""
        return self.fit.epochs > 0 and not self.fit.failed


def go_on(learner: Learner, members: Sequence[Member]) -> list[WentOn]:
    """Train every member from where it stands, all in shared passes; each keeps what helps it."""
    embeddings = torch.stack([member.embedding for member in members]).to(learner.model.device)
    lora, fits = learner.train_loras(
        [member.samples for member in members],
        embeddings,
        phase="update",
        starts=[member.factors for member in members],
    )
    return [WentOn(learner.lora_tensors(lora, place), fit) for place, fit in enumerate(fits)]


def update_samples(
    new: Sequence[Encoded], old: Sequence[Encoded], *, seed: int, fraction: float
) -> tuple[Samples, int]:
    """What an update trains and is judged on, and how many old items it rehearses.

    Only new items judge: the adapter was trained on the old ones, so that by them no change would
    do better. Of many the newest `fraction` judges; of a few each judges once, against training
    without it. One alone cannot do both: no fold, and nothing trains.
    """
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed)).tolist()
    rehearsed = order[: max(LEAST_REHEARSED, round(REHEARSAL * len(new)))]
    kept = tuple(old[i] for i in sorted(rehearsed))
    cuts = split_items(
        new, fraction=fraction, folds=1 if len(new) >= MANY else FOLDS, minimum=2, seed=seed
    )
    folds = tuple(Fold((*kept, *fold.train), fold.held_back) for fold in cuts.folds)
    return Samples((*kept, *new), folds, seed), len(kept)
