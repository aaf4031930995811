"""Stage 3: private adaptation of one user, or of a cohort on a simulation host.

One pure function: a release, users and a seed in; private states out. Nothing is logged, sent or
kept between calls, and a user's result depends on that user's data, id and the seed alone. On a
device the cohort has one member; a simulation host passes many, who share passes over the base.

First `e_u` is fitted on the user's own history, then (A_u, B_u), each judged on held-back own items
(PROPER eq. 11-13; METHOD 1.5 f and 1.7 3c).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from proper_model.artifact import Release
from proper_model.budget import within
from proper_model.embeddings import EmbeddingFit, fit_embeddings
from proper_model.encoding import Encoder
from proper_model.errors import ConfigError
from proper_model.group import fit_settings
from proper_model.holdout import Samples, split_items
from proper_model.lora import UserLora
from proper_model.lora_router import lora_settings
from proper_model.memory import free_bytes
from proper_model.model import AdaptedModel
from proper_model.personal import LoraFit, train_user_loras
from proper_model.records import User
from proper_model.structure import UserRouting
from proper_model.trials import TrialSettings

# Arms with a private state, and whether it holds an embedding and an adapter.
STATEFUL_ARMS: Mapping[str, tuple[bool, bool]] = {
    "stage2": (True, False),
    "stage3": (True, True),
    "oppu-mlp": (False, True),
}
STATELESS_ARMS = ("stage1", "stage2-mean")

# (phase, done, total)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class UserState:
    """What one user owns after adaptation. Never leaves the device.

    Attributes:
        tensors: `embedding` [tables, e] and `lora.<site>.A|B` [r, d_in] / [d_out, r], as the arm
            needs.
        report: numbers about the fit: losses per answer token, distances, choices.
    """

    user_id: str
    arm: str
    bundle_id: str
    tensors: Mapping[str, Tensor]
    report: Mapping[str, float | int | str]


def adapt(
    release: Release,
    users: Sequence[User],
    *,
    arms: Sequence[str],
    bundle_id: str,
    seed: int,
    checkpoint: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], UserState]:
    """Adapt every user; one state for each (arm, user id) of the arms that have one.

    Args:
        arms: any of the known arms; those without private state are skipped.
        checkpoint: path prefix of resumable training state, in the caller's private folder.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and on a
            CPU no limit but the profile's `tokens_per_step`.

    Raises:
        ConfigError: for an unknown arm.
        TaskError, DataError: if a history item does not fit the release's task.
    """
    wanted = [arm for arm in arms if arm in STATEFUL_ARMS]
    unknown = sorted(set(arms) - set(STATEFUL_ARMS) - set(STATELESS_ARMS))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}", hint=f"known: {known_arms()}")
    if not users or not wanted:
        return {}
    if progress:
        progress("tokenize", 0, 0)
    host = _Host(release, users, seed, checkpoint, memory_bytes, progress)
    states: dict[tuple[str, str], UserState] = {}
    embeddings, fits = None, None
    if any(STATEFUL_ARMS[arm][0] for arm in wanted):
        embeddings, fits = host.fit_embeddings()
    for arm in wanted:
        has_embedding, has_lora = STATEFUL_ARMS[arm]
        lora, lora_fits = host.train_loras(arm, embeddings) if has_lora else (None, None)
        for u, user in enumerate(users):
            tensors: dict[str, Tensor] = {}
            report: dict[str, float | int | str] = host.describe(u)
            if has_embedding:
                assert embeddings is not None and fits is not None
                tensors["embedding"] = embeddings[u].cpu().clone()
                report |= _embedding_report(fits[u])
            if lora is not None and lora_fits is not None:
                tensors |= host.lora_tensors(lora, u)
                report |= _lora_report(lora_fits[u])
            states[arm, user.user_id] = UserState(user.user_id, arm, bundle_id, tensors, report)
    return states


def known_arms() -> str:
    """Names of all arms, for messages."""
    return ", ".join((*STATELESS_ARMS, *STATEFUL_ARMS))


class _Host:
    """One adaptation call's model, samples and settings."""

    def __init__(
        self,
        release: Release,
        users: Sequence[User],
        seed: int,
        checkpoint: Path | None,
        memory_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self.release, self.settings = release, release.settings
        self.model: AdaptedModel = release.model()
        self.encoder: Encoder = release.encoder()
        self.checkpoint, self.progress = checkpoint, progress
        self.memory_bytes = free_bytes(self.model.device) if memory_bytes is None else memory_bytes
        self.samples = [self._samples(user, seed) for user in users]

    def _samples(self, user: User, seed: int) -> Samples:
        items = [
            self.encoder.encode(self.release.task.history_example(item)) for item in user.history
        ]
        return split_items(
            items,
            fraction=self.settings.user.held_back_fraction,
            folds=self.settings.user.held_back_folds,
            minimum=self.settings.user.min_items_to_train,
            seed=user_seed(seed, user.user_id),
        )

    def _progress(self, phase: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(phase, done, total)

    def _checkpoint(self, phase: str) -> Path | None:
        return None if self.checkpoint is None else Path(f"{self.checkpoint}.{phase}")

    def _within_memory(self, settings: TrialSettings) -> TrialSettings:
        items = [item for sample in self.samples for item in sample.items]
        folds = sum(len(sample.folds) for sample in self.samples)
        trials = max(len(self.samples), folds * len(self.settings.user.learning_rates))
        return within(self.memory_bytes, self.model, self.encoder, items, trials, settings)

    def _begin(self, phase: str) -> None:
        """Say what comes now, before its first step: clocks listen too."""
        if self.progress:
            self.progress(phase, 0, 0)

    def fit_embeddings(self) -> tuple[Tensor, list[EmbeddingFit]]:
        self._begin("embedding")
        user = self.settings.user
        return fit_embeddings(
            self.model,
            self.encoder,
            self.samples,
            mean=self.release.mean_embedding,
            prototypes=self.release.prototypes,
            learning_rate=user.embedding_learning_rate,
            settings=self._within_memory(fit_settings(self.settings, epochs=user.embedding_epochs)),
            checkpoint=self._checkpoint("embedding"),
            progress=self._progress("embedding"),
        )

    def train_loras(self, arm: str, embeddings: Tensor | None) -> tuple[UserLora, list[LoraFit]]:
        self._begin(arm)
        experts = STATEFUL_ARMS[arm][0]
        routing = self.model.structure.user_routing if experts else UserRouting.USER_AWARE
        return train_user_loras(
            self.model,
            self.encoder,
            self.samples,
            embeddings=embeddings if experts else None,
            routing=routing,
            experts=experts,
            learning_rates=self.settings.user.learning_rates,
            settings=self._within_memory(
                lora_settings(self.settings, epochs=self.settings.user.epochs)
            ),
            checkpoint=self._checkpoint(arm),
            progress=self._progress(arm),
        )

    def lora_tensors(self, lora: UserLora, u: int) -> dict[str, Tensor]:
        tensors = {}
        for number, site in enumerate(self.model.sites):
            tensors[f"lora.{site.path}.A"] = lora.a[number][u].detach().cpu().clone()
            tensors[f"lora.{site.path}.B"] = lora.b[number][u].detach().cpu().clone()
        return tensors

    def describe(self, u: int) -> dict[str, float | int | str]:
        sample = self.samples[u]
        judged = len(sample.judged) if sample.folds else 0
        return {"items": len(sample.items), "items_held_back": judged}


def user_seed(seed: int, user_id: str) -> int:
    """A user's own seed: independent of who else is in the cohort and in which slot."""
    digest = hashlib.sha256(f"{seed}/{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _embedding_report(fit: EmbeddingFit) -> dict[str, float | int | str]:
    return {
        "embedding_source": fit.source,
        "embedding_distance": fit.distance,
        "embedding_epochs": fit.epochs,
        "embedding_loss_before": fit.loss_before,
        "embedding_loss_after": fit.loss_after,
    }


def _lora_report(fit: LoraFit) -> dict[str, float | int | str]:
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
