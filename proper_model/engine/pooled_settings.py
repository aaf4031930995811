"""Settings of one pooled stage, the tokens of its passes, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from proper_model.settings.profile import (
    GroupSettings,
    PopulationSettings,
    RouterSettings,
    StageSettings,
)
from proper_model.settings.robust import RobustSettings

# Without a memory budget: a pass without gradient keeps one block's activations, not all of them.
JUDGE_FACTOR = 4

Stage = PopulationSettings | GroupSettings | RouterSettings


@dataclass(frozen=True)
class PooledSettings:
    """Settings of one pooled stage."""

    epochs: int
    batch_size: int
    warmup_ratio: float
    max_grad_norm: float
    tokens_per_step: int
    patience: int
    seed: int
    min_epochs: int = 1
    early_stopping: bool = True
    robust: RobustSettings | None = None

    @classmethod
    def of(cls, stage: Stage, settings: StageSettings, *, seed: int) -> PooledSettings:
        """A stage's own settings and what a profile sets for all stages."""
        return cls(
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            warmup_ratio=settings.warmup_ratio,
            max_grad_norm=settings.max_grad_norm,
            tokens_per_step=settings.tokens_per_step,
            patience=stage.patience,
            seed=seed,
            min_epochs=stage.min_epochs,
            early_stopping=not isinstance(stage, GroupSettings) or stage.early_stopping,
            robust=settings.robust,
        )


@dataclass(frozen=True)
class PassTokens:
    """Most tokens of one pass, with gradient and without."""

    training: int
    judging: int

    @classmethod
    def of(cls, tokens_per_step: int) -> PassTokens:
        """Where no memory budget says otherwise."""
        return cls(tokens_per_step, JUDGE_FACTOR * tokens_per_step)


@dataclass
class PooledReport:
    """The learning curve of a pooled stage.

    Attributes:
        held_back: mean over held-back people of their mean loss, index 0 before training and then
            an epoch each; without early stopping before and after training only.
        held_back_se: standard error, over those people, of their difference from index 0.
        people: how many were held back to judge.
        training: mean training loss of every epoch.
        best_epoch: whose parameters were kept.
    """

    held_back: list[float] = field(default_factory=list)
    held_back_se: list[float] = field(default_factory=list)
    people: int = 0
    training: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
