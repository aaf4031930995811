"""What files say of their form, and what contenders are called: needs neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

SCHEMA = 2  # of what is written; 1 is read
KINDS = {
    "stacked-loop": "loop a user, all experts as one factor pair",
    "peft-loop": "PEFT loop a user",
    "vmap-moe": "vmap over stacked user LoRAs, with experts and router",
    "ours": "engine without experts",
    "ours-moe": "engine with experts and router",
    "moe-peft": "moe-peft 2.0.2, each adapter with experts and router of its own",
    "limit": "the engine's frozen base alone, forward and backward",
}
# Who trains adapters alone; and who trains another function altogether.
WITHOUT_EXPERTS = ("ours", "peft-loop")
OTHERS = ("moe-peft", "limit")
# How pydantic checks plain classes where it reads them.
STRICT: Any = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True)
class Agreement:
    """How far a contender's training is from the reference's, on a tiny workload.

    Attributes:
        variant: of the engine, or a contender's label without its dtype.
        error: |trained - reference| / |reference - start| over all numbers of all users, or None
            where it did not train, for `cause`. That of the reference itself in a narrower
            dtype says what rounding alone does.
    """

    __pydantic_config__ = STRICT

    variant: str
    dtype: str
    error: float | None
    cause: str | None


class Work(Protocol):
    """What `benchmarks.contenders.Workload` says of itself."""

    @property
    def size(self) -> str: ...
    @property
    def users(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def lengths(self) -> str: ...


def work_in_words(work: Work) -> str:
    """What is trained, for whoever watches."""
    lengths = f"{work.tokens} tokens" if work.lengths == "fixed" else f"{work.lengths} lengths"
    return f"size {work.size}, users {work.users}, samples a user {work.samples}, {lengths}"
