"""Typed settings of the model and of the three training stages.

Two kinds, kept apart on purpose:

* `Structure` (a *preset*) says which equations are used: what the routers see, how they are
  shared, how stage 3 routes.
* `StageSettings` and its children (a *profile*) say how long and how fast to train.

Everything is a frozen dataclass that checks itself; unknown keys and contradictions raise
`ConfigError`. Source: PROPER, arXiv 2503.01303, sections 3 and A.3, and the open points the paper
leaves, each with the reading chosen here.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proper_model.errors import ConfigError

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_TARGETS = ("gate_proj", "up_proj", "down_proj")


class RouterText(StrEnum):
    """What the text half of the user-aware router sees (eq. 8)."""

    TOKEN = "token"  # each token's input x of that linear, as in LoRAMoE
    POOLED = "pooled"  # mean of x over prompt tokens; answers never enter
    NONE = "none"  # no text term: one mixture per user


class RouterMerge(StrEnum):
    """How text and user logits are merged."""

    SUM = "sum"  # softmax of the summed logits
    AVERAGE = "average"  # mean of the two softmaxes


class RouterSharing(StrEnum):
    PER_LINEAR = "per_linear"  # one router for every FFN linear
    TIED = "tied"  # one user router for all linears


class EmbeddingTables(StrEnum):
    PER_LAYER = "per_layer"
    ONE = "one"


class Constraint(StrEnum):
    """Form of the constraint loss (eq. 9)."""

    AGGREGATE = "aggregate"  # one running N-vector per router, exact for all pairs
    PAIRS = "pairs"  # the same x routed for K other users
    NONE = "none"


class UserRouting(StrEnum):
    """Expert routing in stage 3 (eq. 12)."""

    SUMMED = "summed"  # softmax(W_t x + W_e e_u + W_l B_u A_u x)
    LORA_AWARE = "lora_aware"  # softmax(W_l B_u A_u x), the paper's text
    USER_AWARE = "user_aware"  # stage 2's router, no W_l


def _check(condition: bool, message: str, hint: str | None = None) -> None:
    if not condition:
        raise ConfigError(message, hint=hint)


@dataclass(frozen=True)
class Structure:
    """Which equations the model uses. `experts` and ranks count per FFN linear."""

    name: str
    router_text: RouterText = RouterText.TOKEN
    router_merge: RouterMerge = RouterMerge.SUM
    router_sharing: RouterSharing = RouterSharing.PER_LINEAR
    embedding_tables: EmbeddingTables = EmbeddingTables.PER_LAYER
    constraint: Constraint = Constraint.AGGREGATE
    user_routing: UserRouting = UserRouting.SUMMED
    detach_lora_router: bool = False
    experts: int = 5
    rank: int = 4
    alpha: float = 8.0
    embedding_dim: int = 64

    def __post_init__(self) -> None:
        _check(self.experts >= 1, f"structure.experts must be at least 1, got {self.experts}")
        _check(self.rank >= 1, f"structure.rank must be at least 1, got {self.rank}")
        _check(self.alpha > 0, f"structure.alpha must be positive, got {self.alpha}")
        _check(
            self.embedding_dim >= 1,
            f"structure.embedding_dim must be at least 1, got {self.embedding_dim}",
        )
        tied = self.router_sharing is RouterSharing.TIED
        _check(
            not tied or self.embedding_tables is EmbeddingTables.ONE,
            "structure: a tied router reads one embedding, so embedding_tables must be 'one'",
        )
        _check(
            not tied or self.router_text is RouterText.NONE,
            "structure: a tied router has no text term (linears differ in width), "
            "so router_text must be 'none'",
        )
        _check(
            not (self.router_text is RouterText.NONE and self.router_merge is RouterMerge.AVERAGE),
            "structure: router_merge 'average' needs a text router to average with",
        )
        _check(
            not (
                self.router_merge is RouterMerge.AVERAGE and self.user_routing is UserRouting.SUMMED
            ),
            "structure: user_routing 'summed' adds logits and needs router_merge 'sum'",
        )

    @property
    def scale(self) -> float:
        """s = alpha / r, the LoRA scale of every stage."""
        return self.alpha / self.rank

    @property
    def has_lora_router(self) -> bool:
        return self.user_routing is not UserRouting.USER_AWARE

    @property
    def foldable(self) -> bool:
        """True if a user's mixture is constant, so that it folds into one LoRA per linear."""
        return self.router_text is RouterText.NONE and self.user_routing is UserRouting.USER_AWARE


PRESETS: Mapping[str, Structure] = types.MappingProxyType(
    {
        "paper": Structure(
            name="paper",
            constraint=Constraint.PAIRS,
            user_routing=UserRouting.LORA_AWARE,
        ),
        "default": Structure(name="default"),
        "device": Structure(
            name="device",
            router_text=RouterText.NONE,
            router_sharing=RouterSharing.TIED,
            embedding_tables=EmbeddingTables.ONE,
            user_routing=UserRouting.USER_AWARE,
        ),
    }
)


def preset(name: str) -> Structure:
    """The named preset. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset '{name}'", hint="presets are: " + ", ".join(sorted(PRESETS))
        )
    return PRESETS[name]


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

    def __post_init__(self) -> None:
        known = ATTENTION_TARGETS + FFN_TARGETS
        unknown = [t for t in self.targets if t not in known]
        _check(not unknown, f"population.targets: unknown {unknown}; known are {list(known)}")
        _check(bool(self.targets), "population.targets must not be empty")
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
    prototypes: int = 5
    prototype_min_users: int = 10

    def __post_init__(self) -> None:
        _check_training(self, "group")
        _check(self.constraint_weight >= 0, "group.constraint_weight must not be negative")
        _check(self.constraint_pairs >= 1, "group.constraint_pairs must be at least 1")
        _check(self.embedding_learning_rate > 0, "group.embedding_learning_rate must be positive")
        _check(self.max_items_per_user >= 1, "group.max_items_per_user must be at least 1")
        _check(
            self.prototype_min_users >= 10,
            f"group.prototype_min_users is {self.prototype_min_users}; a prototype of fewer than "
            "10 users would publish personal data",
        )


@dataclass(frozen=True)
class RouterSettings:
    """Stage 3a-3b: the LoRA-aware router W_l, trained once per release on pooled users."""

    cohort: int = 100
    dropout: float = 0.05
    learning_rate: float = 2e-4
    epochs: int = 1
    batch_size: int = 16
    patience: int = 1

    def __post_init__(self) -> None:
        _check(self.cohort >= 1, "router.cohort must be at least 1")
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
    min_items_to_train: int = 4  # fewer: prototype or mean embedding only

    def __post_init__(self) -> None:
        _check(bool(self.learning_rates), "user.learning_rates must not be empty")
        _check(
            all(rate > 0 for rate in self.learning_rates),
            "user.learning_rates must all be positive",
        )
        _check(0 <= self.dropout < 1, f"user.dropout must be in [0, 1), got {self.dropout}")
        _check(self.epochs >= 1, "user.epochs must be at least 1")
        _check(self.batch_size >= 1, "user.batch_size must be at least 1")
        _check(self.embedding_batch_size >= 1, "user.embedding_batch_size must be at least 1")
        _check(self.patience >= 1, "user.patience must be at least 1")
        _check(self.embedding_epochs >= 0, "user.embedding_epochs must not be negative")
        _check(self.embedding_learning_rate > 0, "user.embedding_learning_rate must be positive")
        _check(
            0 < self.held_back_fraction < 0.9, "user.held_back_fraction must be between 0 and 0.9"
        )
        _check(self.min_items_to_train >= 2, "user.min_items_to_train must be at least 2")


@dataclass(frozen=True)
class StageSettings:
    """A profile: hyperparameters of all stages, and how text becomes tokens."""

    name: str
    template: str | None = None  # None: the task's own default
    max_prompt_tokens: int = 512
    max_answer_tokens: int = 64
    tokens_per_step: int = 16384  # memory bound of one forward pass; larger steps are split
    dtype: str = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 0.3
    held_back_fraction: float = 0.1  # of pooled users, for early stopping of stages 1-2
    population: PopulationSettings = field(default_factory=PopulationSettings)
    group: GroupSettings = field(default_factory=GroupSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    user: UserSettings = field(default_factory=UserSettings)

    def __post_init__(self) -> None:
        _check(self.max_prompt_tokens >= 8, "max_prompt_tokens must be at least 8")
        _check(self.max_answer_tokens >= 1, "max_answer_tokens must be at least 1")
        _check(self.tokens_per_step >= 64, "tokens_per_step must be at least 64")
        _check(
            self.dtype in ("auto", "float32", "bfloat16", "float64"),
            f"dtype must be auto, float32, bfloat16 or float64, got '{self.dtype}'",
        )
        _check(0 <= self.warmup_ratio < 1, "warmup_ratio must be in [0, 1)")
        _check(self.max_grad_norm > 0, "max_grad_norm must be positive")
        _check(self.weight_decay >= 0, "weight_decay must not be negative")
        _check(0 < self.held_back_fraction < 0.9, "held_back_fraction must be between 0 and 0.9")


def _check_training(settings: Any, where: str) -> None:
    _check(0 <= settings.dropout < 1, f"{where}.dropout must be in [0, 1), got {settings.dropout}")
    _check(settings.learning_rate > 0, f"{where}.learning_rate must be positive")
    _check(settings.epochs >= 1, f"{where}.epochs must be at least 1, got {settings.epochs}")
    _check(settings.batch_size >= 1, f"{where}.batch_size must be at least 1")
    _check(settings.patience >= 1, f"{where}.patience must be at least 1")
