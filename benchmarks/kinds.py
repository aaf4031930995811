"""What contenders and bases are called, and what files say of them: needs neither torch nor pydantic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
class Shape:
    """Widths of a Llama; `tied`: whether its head is its embedding."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False


# `overhead` is bound by launches, as a large model on a large accelerator with few tokens is; `small` is
# bound by arithmetic on a CPU; the others are SmolLM2-135M, Llama-3.2-1B and Llama-2-7B, for a GPU.
SIZES = {
    "overhead": Shape(64, 2, 172, heads=4, kv_heads=4, vocabulary=512),
    "small": Shape(256, 6, 688, heads=8, kv_heads=8, vocabulary=4096),
    "135m": Shape(576, 30, 1536, heads=9, kv_heads=3, vocabulary=49152, tied=True),
    "1b": Shape(2048, 16, 8192, heads=32, kv_heads=8, vocabulary=128256, tied=True),
    "7b": Shape(4096, 32, 11008, heads=32, kv_heads=32, vocabulary=32000),
}


@dataclass(frozen=True)
class Seconds:
    """Wall and CPU seconds of training all of a contender's users once, and of setting them up.

    Wall seconds say what a user of the machine gets; CPU seconds of the process
    hardly change when others use the machine too.
    """

    __pydantic_config__ = STRICT

    wall_s: float
    cpu_s: float
    setup_wall_s: float
    setup_cpu_s: float

    def __post_init__(self) -> None:
        if min(self.wall_s, self.cpu_s) <= 0 or min(self.setup_wall_s, self.setup_cpu_s) < 0:
            raise ValueError("wall_s and cpu_s are above 0, those of setting up not below")


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
