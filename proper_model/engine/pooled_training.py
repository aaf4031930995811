"""Training what all users share: the pooled stages 1, 2 and 3b (PROPER section 3, docs/method.md 1.4).

AdamW, linear schedule with warm-up, gradient clipping, early stopping on a held-back loss, and
resume at any step: order and dropout follow from (seed, epoch, step) alone, so a checkpoint holds
parameters, moments and a few counters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.memory import STATES, bytes_a_token, free_bytes, tokens_within
from proper_model.engine.optimizer import linear_schedule
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.engine.robust_mean import RobustMean, by_user
from proper_model.engine.training_loop import Row, TrainingLoop
from proper_model.errors import TrainingError
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded
from proper_model.progress import Steps, Watch
from proper_model.text.encoding import Encoder, epoch_order

# (batch) -> loss per row [B], and an extra loss per row or None
BatchLoss = Callable[[Batch], tuple[Tensor, Tensor | None]]


class StepState(Protocol):
    """State beside the parameters that a step moves once, whatever passes it is cut into."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What a resumed run needs, by name; restored in place."""

    def discard(self) -> None:
        """Forget what the passes of this step left."""

    def commit(self) -> None:
        """Move by what all passes of the step left."""


class PooledTraining(TrainingLoop[float]):
    """One stage's training over samples of many pooled users.

    Args:
        samples: (user slot, sample) pairs.
        optimizer: AdamW over exactly the trained parameters; a group that says `personal` holds what
            is one user's own, such as embeddings.
        batch_loss: losses of one batch; called in pieces that fit the token budget.
        validate: loss of every held-back person now, [P], in passes of so many tokens.
        extra: further state, such as routing memory.
        weight_extra: weight of the extra loss in the sum.
        memory_bytes: what training may take beside the model; None: what a GPU has free, and on a
            CPU no limit but the settings' tokens.
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[tuple[int, Encoded]],
        optimizer: torch.optim.AdamW,
        batch_loss: BatchLoss,
        validate: Callable[[PassTokens], Tensor],
        settings: PooledSettings,
        *,
        device: torch.device,
        extra: StepState | None = None,
        weight_extra: float = 0.0,
        memory_bytes: int | None = None,
        checkpoint: Checkpoint | None = None,
        checkpoint_every_s: float = 20.0,
    ) -> None:
        if not samples:
            raise TrainingError(
                "this stage has no training samples",
                hint="pool more users, or raise --max-items",
            )
        super().__init__(
            encoder,
            [p for group in optimizer.param_groups for p in group["params"]],
            device=device,
            tokens=PassTokens.of(settings.tokens_per_step),
            checkpoint=checkpoint,
            checkpoint_every_s=checkpoint_every_s,
        )
        self.samples, self.optimizer, self.settings = list(samples), optimizer, settings
        self.batch_loss, self.validate = batch_loss, validate
        self.extra, self.weight_extra = extra, weight_extra
        self.base_rates = [float(g["lr"]) for g in optimizer.param_groups]
        self.best = [p.detach().clone() for p in self.parameters]
        self.report = PooledReport()
        self.before: Tensor | None = None  # losses of held-back people before training
        self.order: list[int] = []  # of the running epoch, derived and never saved
        self.epoch_loss = 0.0
        self.stopped = False
        self.watch: Watch | None = None
        budget = free_bytes(device) if memory_bytes is None else memory_bytes
        if budget is not None:
            self._cut_within(budget)

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.samples) // self.settings.batch_size)

    def run(self, progress: Steps | None = None, watch: Watch | None = None) -> PooledReport:
        """Train to the end and leave the parameters at the best epoch; `watch` is told every step."""
        self.watch = watch
        if not self._restore():
            self._judge()
        self._train(progress)
        with torch.no_grad():
            for p, best in zip(self.parameters, self.best, strict=True):
                p.copy_(best)
        if progress:
            progress(self._total, self._total)
        return self.report

    @property
    def _total(self) -> int:
        return self.steps_an_epoch * self.settings.epochs

    def _step_is_left(self) -> bool:
        return self.taken < self._total and not self.stopped

    def _done(self) -> tuple[int, int]:
        return self.taken, self._total

    def _rows(self) -> list[Row]:
        epoch, position = divmod(self.taken, self.steps_an_epoch)
        if position == 0 or not self.order:
            self.order = epoch_order(len(self.samples), seed=self.settings.seed, epoch=epoch)
        size = self.settings.batch_size
        return self._rows_of(self.order[position * size : (position + 1) * size])

    def _rows_of(self, picked: Sequence[int]) -> list[Row]:
        """These samples as the rows of the running step."""
        return [
            Row(*self.samples[i], mix_seed(self.settings.seed, self.taken, k), len(picked))
            for k, i in enumerate(picked)
        ]

    def _passes(self, rows: Sequence[Row]) -> list[float]:
        robust = self.settings.robust
        if robust is None:
            return super()._passes(rows)
        groups = self.optimizer.param_groups
        shared, personal = (
            [p for group in groups if bool(group.get("personal")) is own for p in group["params"]]
            for own in (False, True)
        )
        mean = RobustMean(shared, personal, robust)
        found: list[float] = []
        for own in by_user(rows):
            found += super()._passes(own)
            mean.take(own[0].count / len(own))
        mean.write()
        return found

    def _clear(self) -> None:
        super()._clear()
        if self.extra is not None:
            self.extra.discard()

    def _backward(self, part: Sequence[Row]) -> float:
        """One pass of a step: adds its gradients, returns its part of the mean loss."""
        losses, extra = self.batch_loss(self._batch(part))
        whole = losses if extra is None else losses + self.weight_extra * extra
        (whole.sum() / part[0].count).backward()
        return float(losses.detach().sum()) / part[0].count

    def _update(self, found: Sequence[float]) -> None:
        loss, settings = sum(found), self.settings
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training loss became {loss} at step {self.taken + 1} of {self._total}",
                hint="lower the learning rate of this stage in the profile",
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        self._move()
        self.epoch_loss += loss
        self._tell(loss)

    def _tell(self, loss: float | None) -> None:
        if self.watch is not None:
            self.watch(self.taken + 1, loss, float(self.optimizer.param_groups[0]["lr"]))

    def _move(self) -> None:
        """One step of the optimizer by the gradients that are there."""
        total = self._total
        factor = linear_schedule(self.taken, total, int(self.settings.warmup_ratio * total))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        if self.extra is not None:
            self.extra.commit()

    def _cut_within(self, budget: int) -> None:
        """Passes within `budget` bytes, by what the longest sample takes."""
        longest = max(range(len(self.samples)), key=lambda i: len(self.samples[i][1].tokens))
        length = len(self.samples[longest][1].tokens)

        def run(rows: int) -> None:
            self._backward(self._rows_of([longest] * rows))

        kept = bytes_a_token(run, length, self.device)
        self._clear()
        fixed = STATES * sum(p.numel() * p.element_size() for p in self.parameters)
        # A pass without gradient takes less than one with: counted as one, it is within for sure.
        self.tokens_per_step, self.judge_tokens = (
            tokens_within(budget, fixed, kept, tokens=tokens, least=length)
            for tokens in (self.tokens_per_step, self.judge_tokens)
        )

    def _after_step(self) -> None:
        """Judge at the end of an epoch, and stop when it has been better before for too long."""
        if self.taken % self.steps_an_epoch:
            return
        self.report.training.append(self.epoch_loss / self.steps_an_epoch)
        self.epoch_loss = 0.0
        if not self.settings.early_stopping:
            if self.taken == self._total:
                self._judge()
            return
        self._judge()
        epochs = len(self.report.held_back) - 1
        waited = epochs - self.report.best_epoch
        self.stopped = epochs >= self.settings.min_epochs and waited >= self.settings.patience

    def _judge(self) -> None:
        report = self.report
        losses = self.validate(PassTokens(self.tokens_per_step, self.judge_tokens)).double().cpu()
        value = float(losses.mean())
        if not math.isfinite(value):
            raise TrainingError(
                f"the held-back loss is {value} after {self.taken} steps",
                hint="lower the learning rate of this stage in the profile",
            )
        if self.before is None:
            self.before = losses
        difference = losses - self.before
        error = float(difference.std() / len(losses) ** 0.5) if len(losses) > 1 else 0.0
        report.people = len(losses)
        report.held_back.append(value)
        report.held_back_se.append(error)
        if self._is_kept(value, error):
            report.best_epoch = len(report.held_back) - 1
            with torch.no_grad():
                for best, p in zip(self.best, self.parameters, strict=True):
                    best.copy_(p)

    def _is_kept(self, value: float, error: float) -> bool:
        """Whether what was judged just now takes the place of the best so far.

        Among epochs the lowest loss does. What there was before training stands only against epochs that
        are worse by more than a standard error: a few held-back people cannot tell less, and a stage that
        is never kept teaches nothing (docs/method.md 1.4).
        """
        report = self.report
        if len(report.held_back) == 1 or not self.settings.early_stopping:
            return True
        lowest = report.held_back[report.best_epoch]
        return value < lowest or (report.best_epoch == 0 and value - lowest < error)

    def _extra_tensors(self) -> Mapping[str, Tensor]:
        return {} if self.extra is None else self.extra.tensors()

    def _extent(self, meta: Mapping[str, Any]) -> str:
        return f"{meta.get('samples', 0)} samples"

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"parameter.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"best.{i}": p for i, p in enumerate(self.best)}
        tensors |= {f"extra.{name}": t for name, t in self._extra_tensors().items()}
        for i, p in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(p, {}).items():
                tensors[f"moment.{i}.{name}"] = value
        return tensors, {
            "step": self.taken,
            "epoch_loss": self.epoch_loss,
            "stopped": self.stopped,
            "before": None if self.before is None else self.before.tolist(),
            "report": self.report.as_dict(),
            "samples": len(self.samples),
        }

    def _resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        for i, (p, best) in enumerate(zip(self.parameters, self.best, strict=True)):
            p.copy_(tensors[f"parameter.{i}"])
            best.copy_(tensors[f"best.{i}"])
            state = {
                name: tensors[f"moment.{i}.{name}"].to(p.device if name != "step" else "cpu")
                for name in ("step", "exp_avg", "exp_avg_sq")
                if f"moment.{i}.{name}" in tensors
            }
            if state:
                self.optimizer.state[p] = state
        for name, tensor in self._extra_tensors().items():
            tensor.copy_(tensors[f"extra.{name}"])
        self.taken, self.epoch_loss = int(meta["step"]), float(meta["epoch_loss"])
        self.stopped = bool(meta["stopped"])
        before = meta["before"]
        self.before = None if before is None else torch.tensor(before, dtype=torch.float64)
        self.report = PooledReport(**meta["report"])
