"""What both training loops do alike: steps within memory, checkpoints, and going on from one.

A step's rows are cut, by length, into passes of at most so many tokens, which changes nothing but
rounding. Where memory runs out that number halves and the step is taken again. A checkpoint holds the
number too, and that of passes without gradient, so that a resumed run cuts as it did before, whatever
memory is free now, and ends with the same bits.

`cohort` trains many users' private parameters with it, `pooled_training` what all users share.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from proper_model.engine.memory import is_out_of_memory, release_memory
from proper_model.engine.pooled_settings import PassTokens
from proper_model.errors import TrainingError
from proper_model.kernels.packing import Batch, Encoded, budget_chunks
from proper_model.progress import Steps
from proper_model.text.encoding import Encoder

# What a pass gives beside its gradients.
Found = TypeVar("Found")


@dataclass(frozen=True)
class Row:
    """One sample of one step.

    Attributes:
        slot: of the user whose parameters it trains.
        seed: of its dropout.
        count: samples in the step over whose losses the mean is taken.
    """

    slot: int
    sample: Encoded
    seed: int
    count: int


class TrainingLoop(ABC, Generic[Found]):
    """Takes steps until none is left.

    A subclass says what a step is: `_step_is_left`, `_rows`, `_backward` and `_update`; and what a
    resumed run needs: `_extent`, `_state` and `_resume`.

    Args:
        parameters: what is trained.
        tokens: most tokens of one pass, with gradient and without.
        checkpoint: file for resuming a killed run, removed by the caller when results are safe.
        checkpoint_every: saved after so many steps, 0 for never, or after `checkpoint_every_s`
            seconds: a step may take seconds on a small device.

    Attributes:
        taken: steps so far, those before a kill included.
    """

    def __init__(
        self,
        encoder: Encoder,
        parameters: Sequence[Tensor],
        *,
        device: torch.device,
        tokens: PassTokens,
        checkpoint: Checkpoint | None,
        checkpoint_every: int = 0,
        checkpoint_every_s: float = 20.0,
    ) -> None:
        self.encoder, self.parameters, self.device = encoder, list(parameters), device
        self.tokens_per_step, self.judge_tokens = tokens.training, tokens.judging
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.checkpoint_every_s = checkpoint_every_s
        self.taken = 0

    @abstractmethod
    def _step_is_left(self) -> bool:
        """Make ready for the next step; false at the end."""

    @abstractmethod
    def _rows(self) -> list[Row]:
        """The next step's samples. They follow from (seed, epoch, step) alone."""

    @abstractmethod
    def _backward(self, part: Sequence[Row]) -> Found:
        """One pass of a step: adds its gradients."""

    @abstractmethod
    def _update(self, found: Sequence[Found]) -> None:
        """Move the parameters by the gradients that a step's passes have added up."""

    @abstractmethod
    def _after_step(self) -> None:
        """What follows a step, at the end of an epoch above all."""

    @abstractmethod
    def _done(self) -> tuple[int, int]:
        """Steps that are done or no longer needed, and all of them."""

    @abstractmethod
    def _extent(self, meta: Mapping[str, Any]) -> str:
        """What a checkpoint is of, in words: it fits a loop that says the same of its own."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed run needs: tensors by name, and JSON-ready numbers."""

    @abstractmethod
    def _resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of `_state`, in place."""

    def _train(self, progress: Steps | None) -> None:
        """Take all steps that are left."""
        saved = time.monotonic()
        while self._step_is_left():
            self._train_step()
            late = time.monotonic() - saved > self.checkpoint_every_s
            due = self.checkpoint_every and self.taken % self.checkpoint_every == 0
            if late or due:
                self._save()
                saved = time.monotonic()
            if progress:
                progress(*self._done())

    def _train_step(self) -> None:
        self._update(self._gradients(self._rows()))
        self.taken += 1
        self._after_step()

    def _gradients(self, rows: Sequence[Row]) -> list[Found]:
        """Add up the gradients of a step's rows, in passes that memory holds."""
        self._clear()
        while True:
            try:
                return self._passes(rows)
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._shrink(rows):
                    raise
            # Outside the handler: the exception holds the failed step's activations alive.
            self._clear()
            release_memory(self.device)

    def _passes(self, rows: Sequence[Row]) -> list[Found]:
        """All passes of a step's rows."""
        return [self._backward(part) for part in self._parts(rows)]

    def _clear(self) -> None:
        """Forget what the passes of an unfinished step left."""
        for parameter in self.parameters:
            parameter.grad = None

    def _parts(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows by length, shortest first, in passes of at most so many tokens."""
        lengths = [len(row.sample.tokens) for row in rows]
        chunks = budget_chunks(lengths, self.tokens_per_step)
        return [[rows[k] for k in chunk] for chunk in chunks]

    def _shrink(self, rows: Sequence[Row]) -> bool:
        """Half the tokens of a pass; false where one sample alone is too much."""
        parts = self._parts(rows)
        largest = max(sum(len(row.sample.tokens) for row in part) for part in parts)
        self.tokens_per_step = min(self.tokens_per_step, largest) // 2
        return any(len(part) > 1 for part in parts)

    def _batch(self, part: Sequence[Row]) -> Batch:
        return self.encoder.batch(
            [row.sample for row in part],
            [row.slot for row in part],
            seeds=[row.seed for row in part],
            device=self.device,
        )

    def _save(self) -> None:
        if self.checkpoint is not None:
            tensors, meta = self._state()
            tokens = {"tokens_per_step": self.tokens_per_step, "judge_tokens": self.judge_tokens}
            save_checkpoint(self.checkpoint, tensors, meta | tokens)

    def _restore(self) -> bool:
        """Go on where a killed run was saved last; false where there is no checkpoint."""
        found = load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None:
            return False
        tensors, meta = found
        here, there = self._extent(self._state()[1]), self._extent(meta)
        if here != there:
            raise TrainingError(
                f"checkpoint '{self.checkpoint}' is of {there}, expected {here}",
                hint="delete it to start this phase again",
            )
        self.tokens_per_step = int(meta.get("tokens_per_step", self.tokens_per_step))
        self.judge_tokens = int(meta.get("judge_tokens", self.judge_tokens))
        with torch.no_grad():
            self._resume(tensors, meta)
        return True
