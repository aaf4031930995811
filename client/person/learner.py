"""What trains private parameters: one release's model, its settings, and where it may stop.

First `e_u` is fitted, then (A_u, B_u), each judged on held-back own items (PROPER eq. 11-13;
docs/method.md 1.5 f and 1.7 3c). `client.person.adapting` says who trains with whom.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from proper_model.engine import (
    Checkpoint,
    Samples,
    TrialSettings,
    beside,
    embedding_split,
    fit_settings,
    free_bytes,
    held_back_losses,
    item_training,
    lora_settings,
    own_split,
    user_privacy,
    within,
)
from proper_model.kernels import Encoded
from proper_model.model import AdaptedModel, UserLora, personal_pass, stack_adapters
from proper_model.progress import Progress, silent
from proper_model.release.contents import Release
from proper_model.settings import Calibrated, ItemPrivacy, UserRouting
from proper_model.stages import (
    EmbeddingFit,
    Factors,
    LoraFit,
    LoraTrials,
    calibrated_lora,
    calibration,
    fit_embeddings,
    private_items,
    train_user_loras,
)
from proper_model.stages.inferred_embedding import infer_embeddings
from proper_model.stages.item_gradients import MOST_ROWS
from proper_model.tasks import HistoryItem, OwnItems, Task
from proper_model.text import Encoder

Report = dict[str, float | int | str]


class Learner:
    """One call's model and settings; nothing outlives it.

    Args:
        checkpoint: prefix of resumable training state, in the caller's private folder.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and on a
            CPU no limit but the profile's `tokens_per_step`.

    Attributes:
        privacy: how single items are protected, with a noise multiplier; None: not at all.
        chance: where draws and noise of that come from; None: the operating system's random source.
    """

    privacy: ItemPrivacy | None = None
    chance: user_privacy.Chance | None = None

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

    def for_embedding(
        self, items: Sequence[HistoryItem], task: Task, encoded: Sequence[Encoded]
    ) -> Sequence[Encoded]:
        """What the embedding is found from: the items as `encode` made them, if it is fitted.

        It is inferred from how items differ from pooled users', which have no own items before them.
        """
        if not task.retrieve or not self.model.structure.infers_user:
            return encoded
        return self.encode(items, replace(task, retrieve=0))

    def split(self, items: Sequence[Encoded], *, seed: int) -> Samples:
        """Which items train and which judge, as the release's settings say; under privacy none judges."""
        if self.privacy is not None:
            return Samples(tuple(items), (), seed)
        return own_split(items, self.settings.user, seed=seed)

    def split_for_embedding(self, items: Sequence[Encoded], seed: int) -> Samples:
        """As `split`, but of a few items too."""
        if self.privacy is not None:
            return self.split(items, seed=seed)
        return embedding_split(items, self.settings.user, seed=seed)

    def begin(self, phase: str) -> None:
        """Say what comes now, before its first step: clocks listen too."""
        self.progress(phase, 0, 0)

    def fit_embeddings(
        self, samples: Sequence[Samples], *, phase: str = "embedding"
    ) -> tuple[Tensor, list[EmbeddingFit]]:
        """`e_u` of every member, [U, tables, e], and how each was found.

        Under privacy of items the release's mean, which no own item has a say in.
        """
        if self.privacy is not None:
            nothing, mean = math.nan, self.release.mean_embedding.to(self.model.device)
            source = "none" if self.model.structure.population_only else "mean"
            fit = EmbeddingFit(source, nothing, nothing, 0.0, 0)
            return mean[None].repeat(len(samples), 1, 1), [fit] * len(samples)
        self.begin(phase)
        user, inferred = self.settings.user, self.release.inferred
        settings = fit_settings(self.settings, epochs=user.embedding_epochs)
        if inferred is not None:
            items = [item for own in samples for item in own.items]
            # A row a slot: every item of a pass has a LoRA of its own.
            cut = within(self.memory_bytes, self.model, self.encoder, items, MOST_ROWS, settings)
            return infer_embeddings(
                self.model,
                self.encoder,
                inferred,
                [own.items for own in samples],
                cut,
                progress=partial(self.progress, phase),
            )
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
        """Private adapters of all members, over the experts if there are embeddings [U, tables, e].

        Where the release was calibrated a member trains once, as it says for so many items; who goes
        on from `starts` still compares with them, but tries that one rate alone.
        """
        self.begin(phase)
        experts = embeddings is not None
        place = beside(self.checkpoint, f".{phase}")
        how: dict[str, Any] = {
            "embeddings": embeddings,
            "routing": self.model.structure.user_routing if experts else UserRouting.USER_AWARE,
            "experts": experts,
            "progress": partial(self.progress, phase),
        }
        arm = "stage3" if experts else "oppu-mlp"
        if self.privacy is not None:
            return self._train_private(self.privacy, samples, arm, how, place)
        rows = self.calibrated(arm, samples)
        if rows is not None and starts is None:
            settings = self.calibrated_settings(samples, calibrated_lora.plan_trials(samples, rows))
            start = self.release.start(arm, self.model.sites)
            begin = None if start is None else [start] * len(samples)
            stage = LoraTrials(self.model, self.encoder, settings=settings, starts=begin, **how)
            return calibrated_lora.train_calibrated(stage, samples, rows, place)
        user = self.settings.user
        rates = {row.learning_rate for row in rows or () if row is not None}
        settings = lora_settings(self.settings, epochs=user.epochs)
        return train_user_loras(
            self.model,
            self.encoder,
            samples,
            learning_rates=sorted(rates) or user.learning_rates,
            settings=self.within_memory(settings, samples),
            starts=starts,
            checkpoint=place,
            **how,
        )

    def _train_private(
        self,
        privacy: ItemPrivacy,
        samples: Sequence[Samples],
        arm: str,
        how: Mapping[str, Any],
        checkpoint: Checkpoint | None,
    ) -> tuple[UserLora, list[LoraFit]]:
        start = self.release.start(arm, self.model.sites)
        starts = None if start is None else [start] * len(samples)
        stage = LoraTrials(
            self.model, self.encoder, settings=self.private_settings(samples), starts=starts, **how
        )
        return private_items.train_item_private(
            stage,
            samples,
            [self.adapts(arm, len(own.items)) for own in samples],
            privacy,
            self.private_rate,
            chance=self.chance,
            checkpoint=checkpoint,
        )

    def adapts(self, arm: str, items: int) -> bool:
        """Whether a history of so many items gets an adapter under privacy of items."""
        found = self.release.calibration
        if found is None or not found.covers(arm):
            return items >= self.settings.user.min_items_to_train
        row = found.of(arm, items)
        return row is not None and row.adapts

    @property
    def private_rate(self) -> float:
        """The learning rate under privacy of items, where none may be tried: the release's largest."""
        return max(self.settings.user.learning_rates)

    def private_settings(self, samples: Sequence[Samples]) -> TrialSettings:
        """Settings of training under privacy of items, within the learner's memory."""
        items = [item for sample in samples for item in sample.items]
        settings = lora_settings(self.settings, epochs=1)
        return within(
            self.memory_bytes, self.model, self.encoder, items, item_training.MOST_ROWS, settings
        )

    def calibrated(self, arm: str, samples: Sequence[Samples]) -> list[Calibrated | None] | None:
        """What the release says for each member's number of items; None: it says nothing of the arm."""
        found = self.release.calibration
        if found is None or not found.covers(arm):
            return None
        return [found.of(arm, len(one.items)) for one in samples]

    def lora_tensors(self, lora: UserLora, member: int) -> dict[str, Tensor]:
        """One member's factors by their names on disk, in main memory."""
        tensors = {}
        for letter, stacks in lora.factors().items():
            for site, stack in zip(self.model.sites, stacks, strict=True):
                tensors[f"lora.{site.path}.{letter}"] = stack[member].detach().cpu().clone()
        return tensors

    def factors(self, tensors: Mapping[str, Tensor]) -> Factors:
        """The inverse of `lora_tensors` for one member: A of every site, then B, then any W."""
        return [tensors[name] for name in self._names]

    def named(self, factors: Factors) -> dict[str, Tensor]:
        """The inverse of `factors`, in main memory."""
        tensors = (factor.detach().cpu().clone() for factor in factors)
        return dict(zip(self._names, tensors, strict=True))

    @property
    def _names(self) -> list[str]:
        letters = "ABW" if self.model.structure.has_own_router else "AB"
        return [f"lora.{site.path}.{letter}" for letter in letters for site in self.model.sites]

    def losses_of(
        self,
        adapters: Sequence[Mapping[str, Tensor]],
        embeddings: Tensor,
        judged: Sequence[Sequence[Encoded]],
    ) -> list[float]:
        """Loss per answer token of every member's items at stage 3, the mean of items; NaN of none.

        Args:
            adapters: every member's, by their names on disk.
            embeddings: [U, tables, e].
        """
        pairs = [(slot, item) for slot, own in enumerate(judged) for item in own]
        found: list[list[float]] = [[] for _ in judged]
        if pairs:
            stack_adapters(self.model, adapters)
            items = Samples(tuple(item for _, item in pairs), (), 0)
            settings = self.within_memory(lora_settings(self.settings, epochs=1), [items])
            stage_3 = partial(
                personal_pass,
                embeddings=embeddings,
                routing=self.model.structure.user_routing,
                experts=True,
            )
            losses = held_back_losses(
                self.model,
                self.encoder,
                pairs,
                stage_3,
                settings.tokens_judged,
            )
            for (slot, _), loss in zip(pairs, losses.tolist(), strict=True):
                found[slot].append(loss)
        return [math.fsum(own) / len(own) if own else math.nan for own in found]

    def resuming(self, checkpoint: Checkpoint) -> Learner:
        """The same learner, whose training can be resumed from there."""
        other = copy.copy(self)
        other.checkpoint = checkpoint
        return other

    def under(
        self, privacy: ItemPrivacy | None, chance: user_privacy.Chance | None = None
    ) -> Learner:
        """The same learner, which protects single items so; without `chance` that of before."""
        other = copy.copy(self)
        other.privacy, other.chance = privacy, chance or self.chance
        return other

    def apart(self, name: str) -> Learner:
        """The same learner, whose checkpoints are no other training's."""
        other = copy.copy(self)
        other.checkpoint = beside(self.checkpoint, f".{name}")
        return other

    def planned(self, samples: Sequence[Samples]) -> list[calibrated_lora.Planned] | None:
        """What stage 3 would train by the release's calibration; None: it has none."""
        rows = self.calibrated("stage3", samples)
        return None if rows is None else calibrated_lora.plan_trials(samples, rows)

    @property
    def least_items(self) -> int | None:
        """Of how many items on there is an adapter; None: the release was calibrated to make none."""
        found = self.release.calibration
        if found is None or not found.covers("stage3"):
            return self.settings.user.min_items_to_train
        return next((row.items for row in found.stage3 if row.adapts), None)

    def calibrated_settings(
        self, samples: Sequence[Samples], planned: Sequence[calibrated_lora.Planned]
    ) -> TrialSettings:
        """Settings of what a calibration plans, within the learner's memory."""
        items = [item for sample in samples for item in sample.items]
        return within(
            self.memory_bytes,
            self.model,
            self.encoder,
            items,
            max(1, len(planned)),
            calibration.schedule(self.settings),
            prior=any(one.trial.prior for one in planned),
        )

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
    calibrated: Report = {}
    if fit.judged is not None:
        calibrated = {"lora_scale": fit.scale, "items_held_back": fit.judged}
    if fit.doubted:
        calibrated["lora_doubted"] = 1
    return {
        **calibrated,
        "lora_trained": 1,
        "lora_failed": int(fit.failed),
        "lora_learning_rate": fit.learning_rate,
        "lora_epochs": fit.epochs,
        "lora_loss_before": fit.loss_before,
        "lora_loss_after": fit.loss_after if math.isfinite(fit.loss_after) else fit.loss_before,
    }
