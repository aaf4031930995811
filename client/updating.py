"""Going on from adapters with new items, for one person and for a cohort alike.

New items train together with as many old ones; the newest fifth of the new items and as many old
ones judge, and whoever does not gain by that keeps the adapter there was. The embedding stays.
Source: METHOD 1.9 (drift, continual refit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.learning import Learner
from proper_model.encoding import Encoded
from proper_model.holdout import Fold, Samples
from proper_model.personal import Factors, LoraFit

# Old items that are trained again beside every new one, so that an update does not unlearn them.
REHEARSAL = 1.0
LEAST_REHEARSED = 8


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

    A single new item trains, and old ones judge alone: held back, it could teach nothing.
    """
    judging = 0 if len(new) < 2 else max(1, round(fraction * len(new)))
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed)).tolist()
    judges = order[: max(1, judging)] if len(old) > 1 else []
    rest = order[len(judges) :]
    count = min(len(rest), max(LEAST_REHEARSED, round(REHEARSAL * len(new))))
    train = (*(old[i] for i in sorted(rest[:count])), *new[: len(new) - judging])
    held_back = (*(old[i] for i in sorted(judges)), *new[len(new) - judging :])
    everything = (*train, *held_back)
    fold = Fold(tuple(train), tuple(held_back))
    return Samples(everything, (fold,) if held_back else (), seed), count
