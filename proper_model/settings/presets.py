"""The presets: which of the paper's equations the model uses, and how routers are shared.

Source: PROPER, arXiv 2503.01303, section 3, and the questions it leaves open, each with the reading
chosen here (docs/method.md 1.5). Unknown names and contradictions raise `ConfigError`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from proper_model.errors import ConfigError


class RouterText(StrEnum):
    """What the text half of the user-aware router sees (eq. 8)."""

    TOKEN = "token"  # each token's input x of that linear, as in LoRAMoE
    POOLED = "pooled"  # mean of x over prompt tokens; answers never enter
    NONE = "none"  # no text term: one mixture per user


class RouterMerge(StrEnum):
    """How text and user logits are merged."""

    SUM = "sum"  # softmax of the summed logits
    AVERAGE = "average"  # mean of the two softmaxes
    DOUBLE = "double"  # softmax of the summed softmaxes, as the released code (method.md 1.10)


class RouterSharing(StrEnum):
    PER_LINEAR = "per_linear"  # one router for every FFN linear
    TIED = "tied"  # one user router for all linears


class EmbeddingTables(StrEnum):
    """Which numbers of a user's embedding a linear's router reads."""

    PER_LAYER = "per_layer"
    PER_LINEAR = "per_linear"  # each linear its own; they lie side by side in one row
    ONE = "one"


class EmbeddingSource(StrEnum):
    """Where a user's embedding comes from (docs/method.md 1.5 f)."""

    TRAINED = "trained"  # a row a pooled user, trained with the experts; others fit their own
    INFERRED = "inferred"  # from the gradients of the own items, for pooled users and others alike


class Constraint(StrEnum):
    """Form of the constraint loss (eq. 9)."""

    AGGREGATE = "aggregate"  # against one running mean of all other users per router
    PAIRS = "pairs"  # the same x routed for K other users
    NONE = "none"


class UserRouting(StrEnum):
    """Expert routing in stage 3 (eq. 12)."""

    SUMMED = "summed"  # softmax(W_t x + W_e e_u + W_l B_u A_u x)
    LORA_AWARE = "lora_aware"  # softmax(W_l B_u A_u x), the paper's text
    USER_AWARE = "user_aware"  # stage 2's router, no W_l


# No release and no run has use for more; each of these is a size of tensors or a number of passes.
MOST_EXPERTS = 1024
MOST_RANK = 1 << 17
MOST_WIDTH = 1 << 16
MOST_ALPHA = 1e6

MAX_RATE = 1.0  # of learning
POPULATION_ONLY = "population-only"
"""The name of the structure of a release without groups: results and devices show it."""
POPULATION_ONLY_NOTE = (
    "this release is population only: it holds stage 1 and nothing about groups of people, so all "
    "that personalizes it is a private adapter"
)


def check(condition: bool, message: str, hint: str | None = None) -> None:
    """Raise ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message, hint=hint)


def check_count(value: int, most: int, name: str, *, least: int = 1) -> None:
    """Raise ConfigError unless `value` is from `least` to `most`."""
    check(value >= least, f"{name} must be at least {least}, got {value}")
    check(value <= most, f"{name} must be at most {most}, got {value}")


def check_rate(rate: float, name: str) -> None:
    """Raise ConfigError unless a learning rate is positive and at most `MAX_RATE`."""
    check(0 < rate <= MAX_RATE, f"{name} must be positive and at most {MAX_RATE}, got {rate}")


def check_alpha(alpha: float, name: str) -> None:
    """Raise ConfigError unless the LoRA scale's numerator is positive and at most `MOST_ALPHA`."""
    check(alpha > 0, f"{name} must be positive, got {alpha}")
    check(alpha <= MOST_ALPHA, f"{name} must be at most {MOST_ALPHA:g}, got {alpha:g}")


@dataclass(frozen=True)
class Structure:
    """Which equations the model uses. `experts` and ranks count per FFN linear.

    Attributes:
        expert_factor: what the sum over experts is multiplied by, beside the LoRA scale.
        embedding_dim: numbers of one table; 0, with `per_linear` only: as many as the linear has
            inputs.
        private_lora_router: W_l is every user's own, trained with (A_u, B_u).
        end_to_end: stage 2 trains experts and routers together with a private LoRA of every pooled
            user, which is then thrown away.
        population_only: stages 2 and 3a-3b were left out, so a user has a private LoRA over stage 1
            and nothing else; what is said of experts and routers is not used.
    """

    name: str
    router_text: RouterText = RouterText.TOKEN
    router_user: bool = True  # false: the paper's "regular router", which sees the text alone
    router_merge: RouterMerge = RouterMerge.SUM
    router_sharing: RouterSharing = RouterSharing.PER_LINEAR
    embedding_tables: EmbeddingTables = EmbeddingTables.PER_LAYER
    embedding_source: EmbeddingSource = EmbeddingSource.TRAINED
    constraint: Constraint = Constraint.AGGREGATE
    user_routing: UserRouting = UserRouting.SUMMED
    detach_lora_router: bool = False
    private_lora_router: bool = False
    end_to_end: bool = False
    population_only: bool = False
    experts: int = 5
    expert_factor: float = 1.0
    rank: int = 4
    alpha: float = 8.0
    embedding_dim: int = 64

    def __post_init__(self) -> None:
        check_count(self.experts, MOST_EXPERTS, "structure.experts")
        check_count(self.rank, MOST_RANK, "structure.rank")
        check_alpha(self.alpha, "structure.alpha")
        check(
            0 < self.expert_factor <= MOST_ALPHA,
            f"structure.expert_factor must be positive and at most {MOST_ALPHA:g}, "
            f"got {self.expert_factor:g}",
        )
        per_linear = self.embedding_tables is EmbeddingTables.PER_LINEAR
        check_count(
            self.embedding_dim,
            MOST_WIDTH,
            "structure.embedding_dim",
            least=0 if per_linear else 1,
        )
        self._check_routers()

    def _check_routers(self) -> None:
        """Raise ConfigError where what is said of the routers contradicts itself."""
        check(
            self.router_user or self.router_text is not RouterText.NONE,
            "structure: a router needs the text or the user, router_text is 'none' and "
            "router_user is false",
        )
        tied = self.router_sharing is RouterSharing.TIED
        check(
            not tied or self.embedding_tables is EmbeddingTables.ONE,
            "structure: a tied router reads one embedding, so embedding_tables must be 'one'",
        )
        check(
            not tied or self.router_text is RouterText.NONE,
            "structure: a tied router has no text term (linears differ in width), "
            "so router_text must be 'none'",
        )
        check(
            self.router_text is not RouterText.NONE or self.router_merge is RouterMerge.SUM,
            f"structure: router_merge '{self.router_merge}' needs a text router to merge with",
        )
        check(
            self.router_merge is RouterMerge.SUM or self.user_routing is not UserRouting.SUMMED,
            "structure: user_routing 'summed' adds logits and needs router_merge 'sum'",
        )
        check(
            not self.private_lora_router or self.user_routing is not UserRouting.USER_AWARE,
            "structure: private_lora_router needs a user_routing that reads the LoRA",
        )
        check(
            not self.end_to_end or self.user_routing is UserRouting.USER_AWARE,
            "structure: end_to_end trains LoRAs under eq. 8, so user_routing must be 'user_aware'",
        )

        inferred = self.embedding_source is EmbeddingSource.INFERRED
        check(
            not inferred or (self.router_user and self.embedding_tables is EmbeddingTables.ONE),
            "structure: embedding_source 'inferred' finds one embedding a user for a router that "
            "reads it, so router_user must be true and embedding_tables 'one'",
        )
        check(
            not inferred or self.constraint is Constraint.NONE,
            "structure: embedding_source 'inferred' has no table of users to push apart, so "
            "constraint must be 'none'",
        )
        check(
            not inferred or not self.end_to_end,
            "structure: end_to_end trains embeddings with everything else, so embedding_source must "
            "be 'trained'",
        )

    @property
    def scale(self) -> float:
        """s = alpha / r, the LoRA scale of every stage."""
        return self.alpha / self.rank

    @property
    def has_lora_router(self) -> bool:
        """True if the release holds a W_l, which all users share."""
        return (
            self.user_routing is not UserRouting.USER_AWARE
            and not self.private_lora_router
            and not self.population_only
        )

    @property
    def has_own_router(self) -> bool:
        """True if every user trains a W_l."""
        return self.private_lora_router and not self.population_only

    @property
    def reads_lora(self) -> bool:
        """True if stage 3 routes by what a user's private LoRA does, through a W_l of whomever."""
        return self.has_lora_router or self.has_own_router

    @property
    def reads_user(self) -> bool:
        """True if a router reads users' embeddings."""
        return self.router_user and not self.population_only

    @property
    def infers_user(self) -> bool:
        """True if users' embeddings are inferred; of stage 1 alone there are none."""
        return self.embedding_source is EmbeddingSource.INFERRED and self.reads_user

    @property
    def foldable(self) -> bool:
        """True if a user's mixture is constant, so that it folds into one LoRA per linear."""
        constant = (
            self.router_text is RouterText.NONE and self.user_routing is UserRouting.USER_AWARE
        )
        return constant or self.population_only

    def without_groups(self) -> Structure:
        """The structure of a release of stage 1 alone, of the same rank and scale; it says so."""
        return replace(self, name=POPULATION_ONLY, population_only=True)


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
        "calibrated": Structure(
            name="calibrated",
            router_text=RouterText.NONE,
            embedding_tables=EmbeddingTables.ONE,
            embedding_source=EmbeddingSource.INFERRED,
            constraint=Constraint.NONE,
            user_routing=UserRouting.USER_AWARE,
            embedding_dim=8,
        ),
        "released": Structure(
            name="released",
            router_merge=RouterMerge.DOUBLE,
            embedding_tables=EmbeddingTables.PER_LINEAR,
            embedding_dim=0,
            expert_factor=0.2,
            constraint=Constraint.NONE,
            user_routing=UserRouting.LORA_AWARE,
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
