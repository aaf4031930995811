"""The training loop of the pooled stages 1, 2 and 3b (PROPER section 3, docs/method.md 1.4).

AdamW, linear schedule with warm-up, gradient clipping, early stopping on a held-back loss, and
resume at any step: order and dropout follow from (seed, epoch, step) alone, so a checkpoint holds
parameters, moments and a few counters, and a resumed run ends with the same bits. How memory cuts a
step into passes changes nothing but rounding; a resumed run cuts as it did before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from proper_model.engine.memory import (
    STATES,
    bytes_a_token,
    free_bytes,
    is_out_of_memory,
    release_memory,
    tokens_within,
)
from proper_model.engine.optimizer import linear_schedule
from proper_model.engine.pooled_settings import PassTokens, PooledReport, PooledSettings
from proper_model.errors import TrainingError
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Batch, Encoded, budget_chunks
from proper_model.text.encoding import Encoder, epoch_order

Progress = Callable[[int, int], None]
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


class PooledTraining:
    """One stage's training over samples of many pooled users.

    Args:
        samples: (user slot, sample) pairs.
        optimizer: AdamW over exactly the trained parameters.
        batch_loss: losses of one batch; called in pieces that fit the token budget.
        validate: held-back loss now in passes of so many tokens; lower is better.
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
        validate: Callable[[PassTokens], float],
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
        self.encoder, self.samples, self.optimizer = encoder, list(samples), optimizer
        self.batch_loss, self.validate, self.settings = batch_loss, validate, settings
        self.device, self.extra, self.weight_extra = device, extra, weight_extra
        self.checkpoint, self.checkpoint_every_s = checkpoint, checkpoint_every_s
        self.parameters: list[Tensor] = [p for g in optimizer.param_groups for p in g["params"]]
        self.base_rates = [float(g["lr"]) for g in optimizer.param_groups]
        self.best = [p.detach().clone() for p in self.parameters]
        self.report = PooledReport()
        self.step = 0
        self.epoch_loss = 0.0
        self.stopped = False
        tokens = self._tokens_within(free_bytes(device) if memory_bytes is None else memory_bytes)
        self.tokens_per_step, self.judge_tokens = tokens.training, tokens.judging

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.samples) // self.settings.batch_size)

    def run(self, progress: Progress | None = None) -> PooledReport:
        """Train to the end and leave the parameters at the best epoch."""
        total = self.steps_an_epoch * self.settings.epochs
        if not self._restore():
            self._judge()
        saved = time.monotonic()
        while self.step < total and not self.stopped:
            self._train_step(total)
            if self.step % self.steps_an_epoch == 0:
                self._end_epoch()
            if self.checkpoint and time.monotonic() - saved > self.checkpoint_every_s:
                self._save()
                saved = time.monotonic()
            if progress:
                progress(self.step, total)
        with torch.no_grad():
            for p, best in zip(self.parameters, self.best, strict=True):
                p.copy_(best)
        if progress:
            progress(total, total)
        return self.report

    def _train_step(self, total: int) -> None:
        settings = self.settings
        epoch, position = divmod(self.step, self.steps_an_epoch)
        order = epoch_order(len(self.samples), seed=settings.seed, epoch=epoch)
        picked = order[position * settings.batch_size : (position + 1) * settings.batch_size]
        while True:
            try:
                loss = self._gradients(picked)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._shrink(picked):
                    raise
            release_memory(self.device)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training loss became {loss} at step {self.step + 1} of {total}",
                hint="lower the learning rate of this stage in the profile",
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        factor = linear_schedule(self.step, total, int(settings.warmup_ratio * total))
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        if self.extra is not None:
            self.extra.commit()
        self.step += 1
        self.epoch_loss += loss

    def _gradients(self, picked: Sequence[int]) -> float:
        """Gradients of one step's samples; their mean loss."""
        self._begin_step()
        chunks = budget_chunks(self._lengths(picked), self.tokens_per_step)
        return sum(self._backward(chunk, picked) for chunk in chunks)

    def _begin_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.extra is not None:
            self.extra.discard()

    def _backward(self, chunk: Sequence[int], picked: Sequence[int]) -> float:
        """One pass of a step: adds its gradients, returns its part of the mean loss."""
        losses, extra = self.batch_loss(self._batch(chunk, picked))
        whole = losses if extra is None else losses + self.weight_extra * extra
        (whole.sum() / len(picked)).backward()
        return float(losses.detach().sum()) / len(picked)

    def _batch(self, chunk: Sequence[int], picked: Sequence[int]) -> Batch:
        """Samples `picked[k]` of the running step for k in `chunk`."""
        rows = [self.samples[picked[k]] for k in chunk]
        return self.encoder.batch(
            [sample for _, sample in rows],
            [slot for slot, _ in rows],
            seeds=[mix_seed(self.settings.seed, self.step, k) for k in chunk],
            device=self.device,
        )

    def _tokens_within(self, budget: int | None) -> PassTokens:
        """Tokens of one pass within `budget` bytes, counted on the longest sample."""
        most = PassTokens.of(self.settings.tokens_per_step)
        if budget is None:
            return most
        longest = max(range(len(self.samples)), key=lambda i: len(self.samples[i][1].tokens))
        length = len(self.samples[longest][1].tokens)
        kept = self._token_bytes(longest)
        fixed = STATES * sum(p.numel() * p.element_size() for p in self.parameters)
        # A pass without gradient takes less than one with: counted as one, it is within for sure.
        training, judging = (
            tokens_within(budget, fixed, kept, tokens=tokens, least=length)
            for tokens in (most.training, most.judging)
        )
        return PassTokens(training, judging)

    def _token_bytes(self, sample: int) -> int:
        """Bytes for one token more of a pass and its gradients, counted on one sample."""

        def run(rows: int) -> None:
            self._backward(range(rows), [sample] * rows)

        found = bytes_a_token(run, len(self.samples[sample][1].tokens), self.device)
        self._begin_step()
        return found

    def _lengths(self, picked: Sequence[int]) -> list[int]:
        return [len(self.samples[i][1].tokens) for i in picked]

    def _shrink(self, picked: Sequence[int]) -> bool:
        """Half the tokens of a pass; false where one sample alone is too much."""
        lengths = self._lengths(picked)
        parts = list(budget_chunks(lengths, self.tokens_per_step))
        largest = max(sum(lengths[k] for k in part) for part in parts)
        self.tokens_per_step = min(self.tokens_per_step, largest) // 2
        return any(len(part) > 1 for part in parts)

    def _end_epoch(self) -> None:
        self.report.training.append(self.epoch_loss / self.steps_an_epoch)
        self.epoch_loss = 0.0
        if not self.settings.early_stopping:
            if self.step == self.steps_an_epoch * self.settings.epochs:
                self._judge()
            return
        self._judge()
        waited = len(self.report.held_back) - 1 - self.report.best_epoch
        self.stopped = waited >= self.settings.patience

    def _judge(self) -> None:
        report = self.report
        value = self.validate(PassTokens(self.tokens_per_step, self.judge_tokens))
        if not math.isfinite(value):
            raise TrainingError(
                f"the held-back loss is {value} after {self.step} steps",
                hint="lower the learning rate of this stage in the profile",
            )
        report.held_back.append(value)
        lowest = report.held_back[report.best_epoch]
        if len(report.held_back) == 1 or value < lowest or not self.settings.early_stopping:
            report.best_epoch = len(report.held_back) - 1
            with torch.no_grad():
                for best, p in zip(self.best, self.parameters, strict=True):
                    best.copy_(p)

    def _extra_tensors(self) -> Mapping[str, Tensor]:
        return {} if self.extra is None else self.extra.tensors()

    def _save(self) -> None:
        assert self.checkpoint is not None
        tensors = {f"parameter.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"best.{i}": p for i, p in enumerate(self.best)}
        tensors |= {f"extra.{name}": t for name, t in self._extra_tensors().items()}
        for i, p in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(p, {}).items():
                tensors[f"moment.{i}.{name}"] = value
        meta = {
            "step": self.step,
            "tokens_per_step": self.tokens_per_step,
            "judge_tokens": self.judge_tokens,
            "epoch_loss": self.epoch_loss,
            "stopped": self.stopped,
            "report": self.report.as_dict(),
            "samples": len(self.samples),
        }
        save_checkpoint(self.checkpoint, tensors, meta)

    @torch.no_grad()
    def _restore(self) -> bool:
        found = load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None:
            return False
        tensors, meta = found
        if meta["samples"] != len(self.samples):
            raise TrainingError(
                f"checkpoint '{self.checkpoint}' is of {meta['samples']} samples, "
                f"expected {len(self.samples)}",
                hint="delete it to start this phase again",
            )
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
        self.step, self.epoch_loss = int(meta["step"]), float(meta["epoch_loss"])
        self.tokens_per_step = int(meta.get("tokens_per_step", self.tokens_per_step))
        self.judge_tokens = int(meta.get("judge_tokens", self.judge_tokens))
        self.stopped = bool(meta["stopped"])
        self.report = PooledReport(**meta["report"])
        return True
