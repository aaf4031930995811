"""What is checked of a finished phase: that its numbers are finite, and that it learned anything.

A LoRA's or an expert's factor B begins at zero, so with every B at zero the product adds nothing to
any answer. That is what early stopping leaves where no epoch was better on held-back users than none.
Experts like that are refused: what is released would route between experts that all answer the same.
So are embeddings that all stand where they were drawn: the router would tell people apart by chance.
A release of stage 1 alone is what an operator may ask for instead (`--population-only`).
A population LoRA or a LoRA-aware router that stayed where it was is only noted, since the stages after
it may still learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proper_model.errors import NothingLearnedError, TrainingError

MOVED = "moved"  # in a phase's notes: the share of its tensors that are not where they began
# What the names of factors B end with: PEFT's of the population LoRA, and the experts'.
POPULATION_B, EXPERT_B = ".lora_B.weight", ".B"


def note_moved(
    notes: Mapping[str, Any], after: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A phase's notes with the share of tensors in `before` that `after` has other values for."""
    moved = sum(not torch.equal(after[name], start) for name, start in before.items())
    return {**notes, MOVED: moved / max(1, len(before))}


def zeros_like_b(tensors: Mapping[str, Tensor], *, ending: str) -> dict[str, Tensor]:
    """Where the factors B began: zeros, under the names that have this ending."""
    return {n: torch.zeros_like(t) for n, t in tensors.items() if n.endswith(ending)}


def check_learned(
    tensors: Mapping[str, Tensor], start: Tensor | None, notes: Mapping[str, Any]
) -> None:
    """Raise NothingLearnedError, with the learning curve, if experts or embeddings have not moved.

    Experts: no B but zeros. Embeddings: `table` is all of it `start` [U, tables, e], where they
    began; None where no router reads them.
    """
    if not any(bool(t.any()) for name, t in tensors.items() if name.endswith(EXPERT_B)):
        what = (
            "stage 2 taught its experts nothing: every factor B is still zero, so all experts answer "
            "alike"
        )
    elif start is not None and torch.equal(tensors["table"].cpu(), start.cpu()):
        what = (
            "stage 2 learned nothing about anybody: every user's embedding is still where it was "
            "drawn, so routing tells people apart by chance"
        )
    else:
        return
    raise NothingLearnedError(
        f"{what}; held-back loss {curve(notes)}",
        hint="nothing was released; change group.learning_rate, group.epochs or group.patience in a "
        "profile of your own (--profile FILE), or pool more users or items (--pooled-users, "
        "--max-items), with a new --out; or release stage 1 alone: --population-only; stage 1 is "
        "kept in the cache",
    )


def check_finite(phase: str, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise TrainingError if a phase, just trained or found in the cache, holds NaN or infinity."""
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if broken:
        raise TrainingError(
            f"phase '{phase}' ended with values that are not finite in {len(broken)} of "
            f"{len(tensors)} tensors",
            hint="lower the learning rate of this stage in the profile; if it was a damaged disk, "
            f"delete {folder}, and the phase runs again",
        )


def curve(notes: Mapping[str, Any]) -> str:
    """The held-back losses of a phase in words: before training, then at every later look."""
    losses = [f"{float(loss):.4f}" for loss in notes.get("held_back", ())]
    if not losses:
        return "unknown"
    return f"{losses[0]} before training, then {', '.join(losses[1:]) or 'never taken'}"
