"""Contenders by name and setting: `kind:key=value,...`, so that each can run at its own best.

peft-loop                     one user after another, one sample a step
peft-loop:batch=8,logits=answer
stacked-loop:batch=4,compile=true
ours-moe:dtype=bfloat16,tokens_per_step=16384

The strongest rivals are kept, and PEFT's loop, which people know. A rival is compared with the engine
that takes as many samples of a user in a step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from benchmarks.kinds import KINDS
from proper_model.base.loading import DTYPES
from proper_model.errors import ConfigError
from proper_model.kernels.ops import Backend

# Trained one user after another: their rate does not depend on how many users there are.
SEQUENTIAL = ("peft-loop", "stacked-loop")
BACKENDS = tuple(backend.value for backend in Backend)


@dataclass(frozen=True)
class Spec:
    """One contender at one setting.

    Attributes:
        batch: samples of a user in one optimizer step.
        logits: `all` positions, as Hugging Face's loss takes them, or `answer` positions only; for
            the per-user loops, all others take the latter.
        attention: implementation, or None for the engine's own choice on this device.
        compile: the blocks by torch.compile; for `stacked-loop` alone.
        tokens_per_step: tokens in one shared pass, padding included where a contender pads;
            per-user loops ignore it.
    """

    kind: str
    batch: int = 1
    threads: int = 1
    dtype: str = "float32"
    logits: str = "all"
    attention: str | None = None
    tokens_per_step: int = 8192
    backend: str = Backend.FUSED.value
    compile: bool = False

    def __post_init__(self) -> None:
        _one_of("contender", self.kind, tuple(KINDS))
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("logits", self.logits, ("all", "answer"))
        _one_of("backend", self.backend, BACKENDS)
        if min(self.batch, self.threads, self.tokens_per_step) < 1:
            raise ConfigError("batch, threads and tokens_per_step of a contender start at 1")
        if self.compile and self.kind != "stacked-loop":
            raise ConfigError(f"'{self.kind}' is never compiled", hint="stacked-loop can be")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def label(self) -> str:
        """The kind and whatever differs from its defaults, as `parse_spec` reads it."""
        changed = [
            f"{f.name}={_written(getattr(self, f.name))}"
            for f in dataclasses.fields(self)[1:]
            if getattr(self, f.name) != f.default
        ]
        return self.kind + (":" + ",".join(changed) if changed else "")


def parse_spec(text: str) -> Spec:
    """A contender from its text."""
    kind, _, settings = text.partition(":")
    chosen: dict[str, str | int | bool] = {}
    defaults = {f.name: f.default for f in dataclasses.fields(Spec)}
    known = defaults.keys() - {"kind"}
    for part in filter(None, settings.split(",")):
        key, _, value = part.partition("=")
        _one_of(f"setting of '{kind}'", key, tuple(sorted(known)))
        if isinstance(defaults[key], bool):
            _one_of(f"value of {key}", value, ("true", "false"))
            chosen[key] = value == "true"
        elif isinstance(defaults[key], int):
            if not value.isdecimal():
                raise ConfigError(
                    f"'{part}': expected a whole number from 1", hint=f"such as {key}=4"
                )
            chosen[key] = int(value)
        else:
            chosen[key] = value
    return Spec(kind, **chosen)  # type: ignore[arg-type]


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_of(what: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ConfigError(f"unknown {what} '{found}'", hint="known are: " + ", ".join(known))
