"""Training many users' private parameters in shared passes over the frozen base.

A cohort is a list of `Trial`s; each trial is one user (or one user at one learning rate) and owns
one slot of every trained tensor. A step takes the next small batch of every trial that still
trains, runs them together (cut by a token budget, which changes nothing but rounding), and updates
each slot by its own AdamW, schedule and clipping. Users never mix: a trial's result depends on its
own samples, settings and seed alone (STYLE 4.9).

Used for fitting e_u, for the private LoRA (eq. 11-13) and for the router cohort's provisional
LoRAs (METHOD 1.7, 3a).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from proper_model.checkpoint import load_checkpoint, save_checkpoint
from proper_model.dropout import mix_seed
from proper_model.encoding import Encoded, Encoder, epoch_order, token_budget_chunks
from proper_model.errors import TrainingError
from proper_model.model import AdaptedModel
from proper_model.optimizer import StackedAdamW, linear_schedule
from proper_model.passes import Pass
from proper_model.trials import Trial, TrialResult, TrialSettings

Progress = Callable[[int, int], None]


def held_back_losses(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[tuple[int, Encoded]],
    make_pass: Callable[[Tensor], Pass],
    tokens_per_step: int,
) -> Tensor:
    """Loss per answer token of (slot, sample) pairs, without dropout or gradient: [len(samples)]."""
    losses = torch.zeros(len(samples), dtype=torch.float64)
    lengths = [len(sample.tokens) for _, sample in samples]
    with torch.no_grad():
        for chunk in token_budget_chunks(lengths, 4 * tokens_per_step):
            rows = [samples[i] for i in chunk]
            batch = encoder.batch(
                [sample for _, sample in rows], [slot for slot, _ in rows], device=model.device
            )
            losses[chunk] = model.answer_loss(batch, make_pass(batch.slots)).double().cpu()
    return losses


class Cohort:
    """Trains `parameters` (tensors [U, ...]) of all trials; see the module docstring.

    Args:
        make_pass: from row slots [B] to a `Pass` that uses the trained parameters.
        checkpoint: file for resuming a killed run; removed by the caller when results are safe.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        trials: Sequence[Trial],
        parameters: Sequence[Tensor],
        make_pass: Callable[[Tensor], Pass],
        settings: TrialSettings,
        *,
        checkpoint: Path | None = None,
        checkpoint_every: int = 50,
    ) -> None:
        self.model, self.encoder, self.trials = model, encoder, list(trials)
        self.parameters, self.make_pass, self.settings = list(parameters), make_pass, settings
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.optimizer = StackedAdamW(
            self.parameters,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
        )
        self.best = [p.detach().clone() for p in self.parameters]
        self.results = [TrialResult() for _ in self.trials]
        self.running = [bool(t.train) for t in self.trials]
        self.step = 0

    def run(self, progress: Progress | None = None) -> list[TrialResult]:
        """Train to the end and leave every slot at its best epoch."""
        total = max((self._last_step(u) for u in range(len(self.trials))), default=0)
        if not self._restore():
            self._evaluate([u for u, trial in enumerate(self.trials) if trial.held_back])
        while any(self.running):
            self._train_step()
            if progress:
                progress(min(self.step, total), total)
            if self.checkpoint and self.step % self.checkpoint_every == 0:
                self._save()
        with torch.no_grad():
            for p, best in zip(self.parameters, self.best, strict=True):
                p.copy_(best)
        if self.checkpoint:
            self._save()
        if progress:
            progress(total, total)
        return self.results

    def _steps_an_epoch(self, u: int) -> int:
        return -(-len(self.trials[u].train) // self.settings.batch_size)

    def _scheduled_steps(self, u: int) -> int:
        return self._steps_an_epoch(u) * self.settings.epochs

    def _last_step(self, u: int) -> int:
        stop = self.trials[u].stop_epoch
        epochs = self.settings.epochs if stop is None else min(stop, self.settings.epochs)
        return self._steps_an_epoch(u) * epochs

    def _train_step(self) -> None:
        self.running = [
            runs and self.step < self._last_step(u) for u, runs in enumerate(self.running)
        ]
        active = [u for u, runs in enumerate(self.running) if runs]
        if not active:
            return
        rows = [row for u in active for row in self._rows(u)]
        lengths = [len(sample.tokens) for _, sample, _, _ in rows]
        finite = torch.ones(len(self.trials), dtype=torch.bool)
        for chunk in token_budget_chunks(lengths, self.settings.tokens_per_step):
            part = [rows[i] for i in chunk]
            batch = self.encoder.batch(
                [sample for _, sample, _, _ in part],
                [u for u, _, _, _ in part],
                seeds=[seed for _, _, seed, _ in part],
                device=self.model.device,
            )
            now = self.make_pass(batch.slots)
            now.dropout = self.settings.dropout
            losses = self.model.answer_loss(batch, now)
            finite[batch.slots[~losses.isfinite()].cpu()] = False
            shares = losses.new_tensor([share for _, _, _, share in part])
            # Slots share no parameter, so the sum over rows has each user's own gradient. Only the
            # trained tensors get one: in stage 2 the experts are in training too, not by this.
            (losses * shares).sum().backward(inputs=self.parameters)
        self._update(active, finite)
        self.step += 1
        ended = [u for u in active if self.step % self._steps_an_epoch(u) == 0]
        self._end_epoch([u for u in ended if self.running[u]])

    def _rows(self, u: int) -> list[tuple[int, Encoded, int, float]]:
        """This step's samples of trial u: (slot, sample, dropout seed, share in the mean)."""
        trial, size = self.trials[u], self.settings.batch_size
        epoch, position = divmod(self.step, self._steps_an_epoch(u))
        order = epoch_order(len(trial.train), seed=trial.seed, epoch=epoch)
        picked = order[position * size : (position + 1) * size]
        return [
            (u, trial.train[i], mix_seed(trial.seed, self.step, k), 1 / len(picked))
            for k, i in enumerate(picked)
        ]

    def _update(self, active: list[int], finite: Tensor) -> None:
        # A finite loss may still have an infinite gradient, which would poison the moments.
        finite = finite & self.optimizer.gradient_norms().isfinite().cpu()
        rates = torch.zeros(len(self.trials), dtype=torch.float64)
        flags = torch.zeros(len(self.trials), dtype=torch.bool)
        for u in active:
            total = self._scheduled_steps(u)
            factor = linear_schedule(self.step, total, int(self.settings.warmup_ratio * total))
            rates[u] = self.trials[u].learning_rate * factor
            if finite[u]:
                flags[u] = True
            else:  # this user leaves with its best state; the others go on
                self.running[u] = False
                self.results[u].failed = True
        device = self.model.device
        self.optimizer.step(rates.to(device), flags.to(device))

    def _end_epoch(self, ended: list[int]) -> None:
        judged = [u for u in ended if self.trials[u].held_back]
        self._evaluate(judged)
        for u in ended:
            result = self.results[u]
            if u not in judged:
                self._keep(u)  # only running slots end an epoch, so never a failed one
            elif len(result.losses) - 1 - result.best_epoch >= self.settings.patience:
                self.running[u] = False

    def _evaluate(self, slots: Sequence[int]) -> None:
        samples = [(u, sample) for u in slots for sample in self.trials[u].held_back]
        if not samples:
            return
        losses = held_back_losses(
            self.model, self.encoder, samples, self.make_pass, self.settings.tokens_per_step
        )
        owners = torch.tensor([u for u, _ in samples])
        for u in slots:
            result = self.results[u]
            result.losses.append(float(losses[owners == u].mean()))
            # A NaN never compares as better, so a diverged epoch is never kept.
            if len(result.losses) == 1 or result.losses[-1] < result.best_loss:
                result.best_epoch = len(result.losses) - 1
                self._keep(u)

    @torch.no_grad()
    def _keep(self, u: int) -> None:
        for best, p in zip(self.best, self.parameters, strict=True):
            best[u] = p[u]

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            "parameter": self.parameters,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
            "best": self.best,
        }

    def _save(self) -> None:
        assert self.checkpoint is not None
        tensors = {
            f"{name}.{i}": t for name, group in self._groups().items() for i, t in enumerate(group)
        }
        tensors["steps"] = self.optimizer.steps
        meta = {
            "step": self.step,
            "running": self.running,
            "results": [[r.losses, r.best_epoch, r.failed] for r in self.results],
        }
        save_checkpoint(self.checkpoint, tensors, meta)

    @torch.no_grad()
    def _restore(self) -> bool:
        found = load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None:
            return False
        tensors, meta = found
        if len(meta["results"]) != len(self.trials):
            raise TrainingError(
                f"checkpoint '{self.checkpoint}' is of {len(meta['results'])} trials, "
                f"expected {len(self.trials)}",
                hint="delete it to start this phase again",
            )
        for name, group in self._groups().items():
            for i, tensor in enumerate(group):
                tensor.copy_(tensors[f"{name}.{i}"])
        self.optimizer.steps.copy_(tensors["steps"])
        self.step = int(meta["step"])
        self.running = [bool(r) for r in meta["running"]]
        self.results = [TrialResult(list(a), int(b), bool(c)) for a, b, c in meta["results"]]
        return True
