"""What trains private parameters: one release's model, its settings, and where it may stop.

First `e_u` is fitted, then (A_u, B_u), each judged on held-back own items (PROPER eq. 11-13;
docs/method.md 1.5 f and 1.7 3c). `client.person.adapting` says who trains with whom.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from proper_model.engine import (
    Checkpoint,
    Samples,
    TrialSettings,
    beside,
    fit_settings,
    free_bytes,
    lora_settings,
    split_items,
    within,
)
from proper_model.kernels import Encoded
from proper_model.model import AdaptedModel, UserLora
from proper_model.progress import Progress, silent
from proper_model.release.contents import Release
from proper_model.settings import UserRouting
from proper_model.stages import EmbeddingFit, Factors, LoraFit, fit_embeddings, train_user_loras
from proper_model.tasks import HistoryItem, OwnItems, Task
from proper_model.text import Encoder

Report = dict[str, float | int | str]


class Learner:
    """One call's model and settings; nothing outlives it.

    Args:
        checkpoint: prefix of resumable training state, in the caller's private folder.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and on a
            CPU no limit but the profile's `tokens_per_step`.
    """

    def __init__(
        self,
        release: Release,
        *,
        checkpoint: Checkpoint | None = None,
        memory_bytes: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self.release, self.settings = release, release.settings
        self.model: AdaptedModel = release.model()
        self.encoder: Encoder = release.encoder()
        self.checkpoint, self.progress = checkpoint, progress
        self.limit_bytes = memory_bytes
        self.memory_bytes = free_bytes(self.model.device) if memory_bytes is None else memory_bytes

    def encode(
        self,
        items: Sequence[HistoryItem],
        task: Task,
        *,
        history: Sequence[HistoryItem] | None = None,
    ) -> list[Encoded]:
        """Items as training samples. Raises DataError for one that lacks a field of the task.

        Args:
            history: what a task with retrieval takes lines from; None: the items themselves.
        """
        own = OwnItems(task, tuple(items if history is None else history), self.encoder.room)
        return [self.encoder.encode(own.history_example(item)) for item in items]

    def split(self, items: Sequence[Encoded], *, seed: int) -> Samples:
        """Which items train and which judge, as the release's settings say."""
        user = self.settings.user
        return split_items(
            items,
            fraction=user.held_back_fraction,
            folds=user.held_back_folds,
            minimum=user.min_items_to_train,
            seed=seed,
        )

    def split_for_embedding(self, items: Sequence[Encoded], seed: int) -> Samples:
        """As `split`; of too few items for an adapter, each judges once, against the others.

        An embedding is a few numbers, and it is kept only where items that did not train it say so.
        """
        if 1 < len(items) < self.settings.user.min_items_to_train:
            return split_items(items, fraction=0.0, folds=len(items), minimum=2, seed=seed)
        return self.split(items, seed=seed)

    def begin(self, phase: str) -> None:
        """Say what comes now, before its first step: clocks listen too."""
        self.progress(phase, 0, 0)

    def fit_embeddings(
        self, samples: Sequence[Samples], *, phase: str = "embedding"
    ) -> tuple[Tensor, list[EmbeddingFit]]:
        """`e_u` of every member, [U, tables, e], and how each was found."""
        self.begin(phase)
        user = self.settings.user
        settings = fit_settings(self.settings, epochs=user.embedding_epochs)
        return fit_embeddings(
            self.model,
            self.encoder,
            samples,
            mean=self.release.mean_embedding,
            prototypes=self.release.prototypes,
            learning_rate=user.embedding_learning_rate,
            settings=self.within_memory(settings, samples),
            checkpoint=beside(self.checkpoint, f".{phase}"),
            progress=partial(self.progress, phase),
        )

    def train_loras(
        self,
        samples: Sequence[Samples],
        embeddings: Tensor | None,
        *,
        phase: str,
        starts: Sequence[Factors] | None = None,
    ) -> tuple[UserLora, list[LoraFit]]:
        """Private adapters of all members, over the experts if there are embeddings [U, tables, e]."""
        self.begin(phase)
        experts = embeddings is not None
        user = self.settings.user
        settings = lora_settings(self.settings, epochs=user.epochs)
        return train_user_loras(
            self.model,
            self.encoder,
            samples,
            embeddings=embeddings,
            routing=self.model.structure.user_routing if experts else UserRouting.USER_AWARE,
            experts=experts,
            learning_rates=user.learning_rates,
            settings=self.within_memory(settings, samples),
            starts=starts,
            checkpoint=beside(self.checkpoint, f".{phase}"),
            progress=partial(self.progress, phase),
        )

    def lora_tensors(self, lora: UserLora, member: int) -> dict[str, Tensor]:
        """One member's factors by their names on disk, in main memory."""
        tensors = {}
        for number, site in enumerate(self.model.sites):
            tensors[f"lora.{site.path}.A"] = lora.a[number][member].detach().cpu().clone()
            tensors[f"lora.{site.path}.B"] = lora.b[number][member].detach().cpu().clone()
        return tensors

    def factors(self, tensors: Mapping[str, Tensor]) -> Factors:
        """The inverse of `lora_tensors` for one member: A of every site, then B."""
        paths = [site.path for site in self.model.sites]
        return [tensors[f"lora.{path}.{half}"] for half in "AB" for path in paths]

    def resuming(self, checkpoint: Checkpoint) -> Learner:
        """The same learner, whose training can be resumed from there."""
        other = copy.copy(self)
        other.checkpoint = checkpoint
        return other

    def within_memory(self, settings: TrialSettings, samples: Sequence[Samples]) -> TrialSettings:
        """The settings with slots and tokens a pass that fit the learner's memory."""
        items = [item for sample in samples for item in sample.items]
        folds = sum(len(sample.folds) for sample in samples)
        trials = max(len(samples), folds * len(self.settings.user.learning_rates))
        return within(self.memory_bytes, self.model, self.encoder, items, trials, settings)


def user_seed(seed: int, user_id: str) -> int:
    """A user's own seed: independent of who else is in the cohort and in which slot."""
    digest = hashlib.sha256(f"{seed}/{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def finite(report: Report) -> Report:
    """The numbers that are numbers: a loss over no items is none."""
    return {
        key: value
        for key, value in report.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def samples_report(samples: Samples) -> Report:
    """How many items there were and how many judged."""
    judged = len(samples.judged) if samples.folds else 0
    return {"items": len(samples.items), "items_held_back": judged}


def embedding_report(fit: EmbeddingFit) -> Report:
    """Numbers of an embedding's fit."""
    return {
        "embedding_source": fit.source,
        "embedding_distance": fit.distance,
        "embedding_epochs": fit.epochs,
        "embedding_loss_before": fit.loss_before,
        "embedding_loss_after": fit.loss_after,
    }


def lora_report(fit: LoraFit) -> Report:
    """Numbers of an adapter's training."""
    if not fit.trained:
        return {"lora_trained": 0}
    return {
        "lora_trained": 1,
        "lora_failed": int(fit.failed),
        "lora_learning_rate": fit.learning_rate,
        "lora_epochs": fit.epochs,
        "lora_loss_before": fit.loss_before,
        "lora_loss_after": fit.loss_after if math.isfinite(fit.loss_after) else fit.loss_before,
    }
