"""What a cohort trains: one trial a slot, the settings that all share, and each one's result."""

from __future__ import annotations

from dataclasses import dataclass, field

from proper_model.engine.pooled_settings import PassTokens
from proper_model.kernels.packing import Encoded
from proper_model.settings.profile import StageSettings


@dataclass(frozen=True)
class Trial:
    """One slot's training task. `held_back` may be empty; then the last state is kept.

    `prior` adds `prior / len(train) * |p - start|^2 / 2` to every step's loss, over all numbers p of
    the trial and where they started: one Gaussian around the start for the whole history, so that
    little data stays near it (docs/method.md 1.7). 0 adds nothing.
    """

    train: tuple[Encoded, ...]
    held_back: tuple[Encoded, ...]
    learning_rate: float
    seed: int
    stop_epoch: int | None = None  # train this many of the scheduled epochs only
    prior: float = 0.0


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a cohort share.

    `patience`: epochs without improvement before stopping. `refit`: whether callers train again on
    all items of a user once held-back ones have chosen rate and epochs. `slots`: how many trials
    train at once, None for all; `recompute`: checkpoint activations; `judge_tokens`: of a pass
    without gradient, None for a multiple of `tokens_per_step`. None of the three changes anything
    but speed and memory.
    """

    epochs: int
    batch_size: int
    dropout: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    tokens_per_step: int
    patience: int = 2
    refit: bool = True
    slots: int | None = None
    recompute: bool = False
    judge_tokens: int | None = None

    @property
    def tokens_judged(self) -> int:
        """Most tokens of a pass without gradient."""
        of = PassTokens.of(self.tokens_per_step)
        return of.judging if self.judge_tokens is None else self.judge_tokens

    @classmethod
    def of(
        cls,
        settings: StageSettings,
        *,
        epochs: int,
        batch_size: int,
        dropout: float,
        weight_decay: float,
        max_grad_norm: float,
    ) -> TrialSettings:
        """The given numbers and what a profile sets for all private training."""
        return cls(
            epochs=epochs,
            batch_size=batch_size,
            dropout=dropout,
            weight_decay=weight_decay,
            warmup_ratio=settings.warmup_ratio,
            max_grad_norm=max_grad_norm,
            tokens_per_step=settings.tokens_per_step,
            patience=settings.user.patience,
            refit=settings.user.refit,
            recompute=settings.user.recompute_activations,
        )


@dataclass
class TrialResult:
    """Held-back loss per epoch (index 0: before training), the epoch kept, and its loss."""

    losses: list[float] = field(default_factory=list)
    best_epoch: int = 0
    failed: bool = False

    @property
    def best_loss(self) -> float:
        return self.losses[self.best_epoch] if self.losses else float("nan")


def fit_settings(settings: StageSettings, *, epochs: int) -> TrialSettings:
    """Settings for fitting e_u: no dropout and no decay, since it is a search, not a model."""
    return TrialSettings.of(
        settings,
        epochs=epochs,
        batch_size=settings.user.embedding_batch_size,
        dropout=0.0,
        weight_decay=0.0,
        # The profile's norm is for LoRA factors; a few numbers at a 100 times higher rate
        # need no clip beyond guarding against a burst.
        max_grad_norm=1.0,
    )


def lora_settings(settings: StageSettings, *, epochs: int) -> TrialSettings:
    """Settings for training private LoRAs under a profile."""
    return TrialSettings.of(
        settings,
        epochs=epochs,
        batch_size=settings.user.batch_size,
        dropout=settings.user.dropout,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )
