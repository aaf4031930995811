"""Typed settings of the three training stages: a *profile* says how long and how fast to train.

What the model is made of, its *preset*, is in `presets`. Everything is a frozen
dataclass that checks itself; unknown keys and contradictions raise `ConfigError`.
Source: PROPER, arXiv 2503.01303, section A.3, and docs/method.md 1.4 for what the paper leaves open.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proper_model.settings.presets import MOST_RANK, check, check_alpha, check_count, check_rate
from proper_model.settings.privacy import PrivacySettings
from proper_model.settings.robust import RobustSettings

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_TARGETS = ("gate_proj", "up_proj", "down_proj")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Beyond these a setting is a slip of the keyboard: no base has such a context, no step such a size.
MAX_TEXT_TOKENS = 1 << 20
MAX_STEP_TOKENS = 1 << 24
MOST_EPOCHS = 10_000
MOST_ROWS = 1 << 24  # of a batch, a cohort, a history
MOST_FOLDS = 1000
MOST_RATES = 100
MAX_WEIGHT = 1e6  # of a term in a loss, of a norm
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.1, 10.0


class BaseWeights(StrEnum):
    """How the linears of the frozen base are held after stage 1; see `quantized`."""

    FULL = "full"  # in `dtype`
    EIGHT_BIT = "8bit"
    FOUR_BIT = "4bit"


@dataclass(frozen=True)
class PopulationSettings:
    """Stage 1: one LoRA trained on pooled users and merged (eq. 3-6)."""

    targets: tuple[str, ...] = ATTENTION_TARGETS
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    learning_rate: float = 3e-4
    epochs: int = 3
    batch_size: int = 16
    use_history: bool = False  # DEVIATION when true: the paper's stage 1 sees queries only
    patience: int = 1  # epochs without a better held-back loss before stopping
    min_epochs: int = 1  # never stopped before so many

    def __post_init__(self) -> None:
        known = ATTENTION_TARGETS + FFN_TARGETS
        unknown = [t for t in self.targets if t not in known]
        check(not unknown, f"population.targets: unknown {unknown}; known are {list(known)}")
        check(bool(self.targets), "population.targets must not be empty")
        check_count(self.rank, MOST_RANK, "population.rank")
        check_alpha(self.alpha, "population.alpha")
        _check_training(self, "population")


@dataclass(frozen=True)
class GroupSettings:
    """Stage 2: experts, user-aware router and user embeddings (eq. 7-9)."""

    dropout: float = 0.05
    learning_rate: float = 2e-4
    embedding_learning_rate: float = 2e-3
    epochs: int = 3
    batch_size: int = 16
    constraint_weight: float = 0.003  # lambda of eq. 9; above this the loss fights grouping
    constraint_pairs: int = 4  # K of the `pairs` form
    max_items_per_user: int = 200
    patience: int = 1
    min_epochs: int = 1  # experts and embeddings learn nothing at first, and then together
    early_stopping: bool = True  # false: the last epoch is kept, whatever held-back users say
    prototypes: int = 5
    prototype_min_users: int = 10

    def __post_init__(self) -> None:
        _check_training(self, "group")
        check(self.constraint_weight >= 0, "group.constraint_weight must not be negative")
        check(self.constraint_weight <= MAX_WEIGHT, "group.constraint_weight is too large")
        check_count(self.constraint_pairs, MOST_ROWS, "group.constraint_pairs")
        check_rate(self.embedding_learning_rate, "group.embedding_learning_rate")
        check_count(self.max_items_per_user, MOST_ROWS, "group.max_items_per_user")
        check_count(self.prototypes, MOST_ROWS, "group.prototypes", least=0)
        check(
            self.prototype_min_users >= 10,
            f"group.prototype_min_users is {self.prototype_min_users}; a prototype of fewer than "
            "10 users would publish personal data",
        )
        check_count(self.prototype_min_users, MOST_ROWS, "group.prototype_min_users")


@dataclass(frozen=True)
class RouterSettings:
    """Stage 3a-3b: the LoRA-aware router W_l, trained once per release on pooled users."""

    cohort: int = 100
    dropout: float = 0.05
    learning_rate: float = 2e-4
    epochs: int = 1
    batch_size: int = 16
    patience: int = 1
    min_epochs: int = 1

    def __post_init__(self) -> None:
        check_count(self.cohort, MOST_ROWS, "router.cohort")
        _check_training(self, "router")


@dataclass(frozen=True)
class UserSettings:
    """Stage 3c: fitting e_u, then one private LoRA per user (eq. 11-13)."""

    dropout: float = 0.05
    learning_rates: tuple[float, ...] = (2e-4,)
    epochs: int = 2
    batch_size: int = 1
    embedding_learning_rate: float = 4e-2
    embedding_epochs: int = 8
    embedding_batch_size: int = 4
    patience: int = 2  # epochs without a better own held-back loss before a user stops
    held_back_fraction: float = 0.2
    held_back_folds: int = 1  # 1: the most recent items judge; K: every item is held back once
    refit: bool = True  # train again on all own items, for the epochs that held-back items chose
    min_items_to_train: int = 4  # fewer: prototype or mean embedding only
    recompute_activations: bool = False  # less memory for half more time

    def __post_init__(self) -> None:
        check(bool(self.learning_rates), "user.learning_rates must not be empty")
        check(
            len(self.learning_rates) <= MOST_RATES,
            f"user.learning_rates must be at most {MOST_RATES}, got {len(self.learning_rates)}",
        )
        for rate in self.learning_rates:
            check_rate(rate, "user.learning_rates")
        check(0 <= self.dropout < 1, f"user.dropout must be in [0, 1), got {self.dropout}")
        check_count(self.epochs, MOST_EPOCHS, "user.epochs")
        check_count(self.batch_size, MOST_ROWS, "user.batch_size")
        check_count(self.embedding_batch_size, MOST_ROWS, "user.embedding_batch_size")
        check_count(self.patience, MOST_EPOCHS, "user.patience")
        check_count(self.embedding_epochs, MOST_EPOCHS, "user.embedding_epochs", least=0)
        check_rate(self.embedding_learning_rate, "user.embedding_learning_rate")
        check(
            0 < self.held_back_fraction < 0.9, "user.held_back_fraction must be between 0 and 0.9"
        )
        check_count(self.held_back_folds, MOST_FOLDS, "user.held_back_folds")
        check(self.min_items_to_train <= MOST_ROWS, "user.min_items_to_train is too large")
        check(
            self.refit or self.held_back_folds == 1,
            "user.held_back_folds above 1 leaves no adapter trained on all items, so refit must be "
            "true",
        )
        check(
            self.min_items_to_train >= self.held_back_folds,
            "user.min_items_to_train is below user.held_back_folds",
        )
        check(self.min_items_to_train >= 2, "user.min_items_to_train must be at least 2")


@dataclass(frozen=True)
class CalibrationSettings:
    """How much a history may change: tried once per release on people kept out of stages 1 and 2.

    `people` of 0 calibrates nothing: every device then chooses by its own held-back items. Of the
    others each is a grid to choose from (docs/method.md 1.11).
    """

    people: int = 0  # pooled users that only calibrate; at most a quarter
    lengths: tuple[int, ...] = (1, 3, 8, 20, 40)  # of history, each person's newest so many items
    learning_rates: tuple[float, ...] = ()  # none: user.learning_rates
    epochs: int = 4  # of the schedule; the losses after each are compared
    shrinkages: tuple[float, ...] = (0.0, 3.0)  # weights of the prior around the start
    scales: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the trained adapter
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of stage 3 against stage 2
    temperatures: tuple[float, ...] = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)  # of the mixture
    # Of looking for a common start of private LoRAs; 0: none is tried. A start tells nearly for certain who
    # it was averaged over (docs/privacy.md), so a profile has to ask for one.
    start_rounds: int = 0
    start_epochs: int = 1  # of each round

    def __post_init__(self) -> None:
        check_count(self.people, MOST_ROWS, "calibration.people", least=0)
        check_count(self.epochs, MOST_EPOCHS, "calibration.epochs")
        check_count(self.start_rounds, MOST_EPOCHS, "calibration.start_rounds", least=0)
        check_count(self.start_epochs, MOST_EPOCHS, "calibration.start_epochs")
        for name in ("lengths", "shrinkages", "scales", "weights", "temperatures"):
            values = getattr(self, name)
            check(bool(values), f"calibration.{name} must not be empty")
            check(
                all(a < b for a, b in itertools.pairwise(values)),
                f"calibration.{name} must rise, each number once",
            )
        for name in (
            "lengths",
            "learning_rates",
            "shrinkages",
            "scales",
            "weights",
            "temperatures",
        ):
            check_count(
                len(getattr(self, name)), MOST_RATES, f"numbers of calibration.{name}", least=0
            )
        for length in self.lengths:
            check_count(length, MOST_ROWS, "calibration.lengths")
        for rate in self.learning_rates:
            check_rate(rate, "calibration.learning_rates")
        for value in self.shrinkages:
            check(0 <= value <= MAX_WEIGHT, f"calibration.shrinkages must be 0 to {MAX_WEIGHT:g}")
        for name in ("scales", "weights"):
            inside = all(0 <= value <= 1 for value in getattr(self, name))
            check(inside, f"calibration.{name} must be from 0 to 1")
        check(self.scales[-1] > 0, "calibration.scales must have one above 0")
        check(self.weights[-1] > 0, "calibration.weights must have one above 0")
        check(
            1.0 in self.temperatures, "calibration.temperatures must have 1.0, which changes none"
        )
        check(
            all(LEAST_TEMPERATURE <= t <= MOST_TEMPERATURE for t in self.temperatures),
            f"calibration.temperatures must be {LEAST_TEMPERATURE:g} to {MOST_TEMPERATURE:g}",
        )


@dataclass(frozen=True)
class StageSettings:
    """A profile: hyperparameters of all stages, and how text becomes tokens."""

    name: str
    template: str | None = None  # None: the task's own default
    max_prompt_tokens: int = 512
    max_answer_tokens: int = 64
    retrieval_tokens: int = 0  # a prompt with own items before the question may be so much longer
    tokens_per_step: int = 16384  # memory bound of one forward pass; larger steps are split
    dtype: str = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    base_weights: BaseWeights = BaseWeights.FULL
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 0.3
    held_back_fraction: float = 0.1  # of pooled users, for early stopping of stages 1-2
    population: PopulationSettings = field(default_factory=PopulationSettings)
    group: GroupSettings = field(default_factory=GroupSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    user: UserSettings = field(default_factory=UserSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    privacy: PrivacySettings | None = None  # of stages 1 and 2; None: they are not private
    robust: RobustSettings | None = None  # bounds on pooled users; None: every sample counts alike

    def __post_init__(self) -> None:
        check(
            NAME.fullmatch(self.name) is not None,
            "name must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
            hint="results and files carry the profile's name",
        )
        for name, least, most in (
            ("max_prompt_tokens", 8, MAX_TEXT_TOKENS),
            ("max_answer_tokens", 1, MAX_TEXT_TOKENS),
            ("retrieval_tokens", 0, MAX_TEXT_TOKENS),
            ("tokens_per_step", 64, MAX_STEP_TOKENS),
        ):
            value = getattr(self, name)
            check(least <= value <= most, f"{name} must be {least} to {most}, got {value}")
        check(
            self.dtype in ("auto", "float32", "bfloat16", "float64"),
            f"dtype must be auto, float32, bfloat16 or float64, got '{self.dtype}'",
        )
        check(
            self.base_weights in tuple(BaseWeights),
            f"base_weights must be full, 8bit or 4bit, got '{self.base_weights}'",
        )
        check(
            self.base_weights == BaseWeights.FULL or self.dtype != "float64",
            f"base_weights '{self.base_weights}' and dtype 'float64' contradict each other: packed "
            "weights are unpacked to float32 at most",
            hint="set dtype to auto, float32 or bfloat16, or base_weights to full",
        )
        check(0 <= self.warmup_ratio < 1, "warmup_ratio must be in [0, 1)")
        check(0 < self.max_grad_norm <= MAX_WEIGHT, "max_grad_norm must be positive, and bounded")
        check(0 <= self.weight_decay <= MAX_WEIGHT, "weight_decay must not be negative, nor huge")
        check(0 < self.held_back_fraction < 0.9, "held_back_fraction must be between 0 and 0.9")
        if self.privacy is not None:
            self._check_private()

    def _check_private(self) -> None:
        """Raise ConfigError where something would be learned from people that no noise covers."""
        check(
            self.robust is None,
            "[privacy] and [robust] contradict each other: each says how the users of a step are bounded",
            hint="privacy clips every user already; leave [robust] out",
        )
        for name, value, why in (
            ("calibration.people", self.calibration.people, "what calibrates"),
            ("group.prototypes", self.group.prototypes, "a prototype"),
        ):
            check(
                value == 0,
                f"{name} is {value}, and privacy is asked for: {why} is computed from people's data "
                "without noise",
                hint=f"set {name} to 0",
            )

    def longest_tokens(self, *, retrieval: bool) -> int:
        """Of a row: question and answer, and with `retrieval` own items before the question."""
        lines = self.retrieval_tokens if retrieval else 0
        return self.max_prompt_tokens + lines + self.max_answer_tokens


def _check_training(settings: Any, where: str) -> None:
    check(0 <= settings.dropout < 1, f"{where}.dropout must be in [0, 1), got {settings.dropout}")
    check_rate(settings.learning_rate, f"{where}.learning_rate")
    check_count(settings.epochs, MOST_EPOCHS, f"{where}.epochs")
    check_count(settings.batch_size, MOST_ROWS, f"{where}.batch_size")
    check_count(settings.patience, MOST_EPOCHS, f"{where}.patience")
    check_count(settings.min_epochs, MOST_EPOCHS, f"{where}.min_epochs")
    check(
        settings.min_epochs <= settings.epochs,
        f"{where}.min_epochs is {settings.min_epochs}, more than {where}.epochs {settings.epochs}",
    )
