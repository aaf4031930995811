"""Training many users' private parameters in shared passes over the frozen base.

A cohort is a list of `Trial`s; each is one user (or one user at one learning rate) and trains in a
slot of the stacked tensors (`slots`). A step takes the next small batch of every trial in a slot,
runs them together, cut by length and a token budget, which changes nothing but rounding, and updates
each slot by its own AdamW, schedule and clipping. Users never mix: a trial's result depends on its
own samples, settings and seed alone (docs/contributing.md). When memory runs out the budget halves and the
step is taken again.

Used for fitting e_u, for the private LoRA (eq. 11-13) and for the router cohort's provisional
LoRAs (docs/method.md 1.7, 3a).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from proper_model.engine.judging import held_back_losses
from proper_model.engine.memory import is_out_of_memory, release_memory
from proper_model.engine.optimizer import StackedAdamW, linear_schedule
from proper_model.engine.recompute import recomputing
from proper_model.engine.slots import Slots, Start
from proper_model.engine.trials import Row, Trial, TrialResult, TrialSettings, length_matched
from proper_model.errors import TrainingError
from proper_model.kernels.dropout import mix_seed
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.text.encoding import Encoder, epoch_order

Progress = Callable[[int, int], None]
# From row slots [B] and the trial in every slot [K] to a pass that uses the trained parameters.
MakePass = Callable[[Tensor, Tensor], Pass]


class Cohort:
    """Trains all trials in the slots of `parameters`; see the module docstring.

    Args:
        parameters: stacked tensors [K, ...] that `make_pass` uses; K trials train at once.
        start: starting values of a trial.
        checkpoint: file for resuming a killed run; removed by the caller when results are safe.
            Saved every so many steps and seconds: a step may take seconds on a small device.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        trials: Sequence[Trial],
        parameters: Sequence[Tensor],
        start: Start,
        make_pass: MakePass,
        settings: TrialSettings,
        *,
        checkpoint: Checkpoint | None = None,
        checkpoint_every: int = 50,
        checkpoint_every_s: float = 20.0,
    ) -> None:
        self.model, self.encoder, self.trials = model, encoder, list(trials)
        self.parameters, self.make_pass, self.settings = list(parameters), make_pass, settings
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.checkpoint_every_s = checkpoint_every_s
        self.tokens_per_step = settings.tokens_per_step
        self.results = [TrialResult() for _ in self.trials]
        self.steps = [0] * len(self.trials)
        self.left = [not trial.train for trial in self.trials]
        self.taken = 0
        self.orders: dict[int, list[int]] = {}  # of the running epochs, derived and never saved
        waiting = [u for u, trial in enumerate(self.trials) if trial.train]
        waiting.sort(key=self._last_step, reverse=True)
        optimizer = StackedAdamW(
            self.parameters,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
        )
        self.slots = Slots(self.parameters, optimizer, start, waiting, len(self.trials))

    @property
    def best(self) -> list[Tensor]:
        """Every trial's best state, [trials, ...] for each parameter, in host memory."""
        return self.slots.best

    def run(self, progress: Progress | None = None) -> list[TrialResult]:
        """Train every trial to its end; `best` holds what became of them."""
        total = sum(self._last_step(u) for u in range(len(self.trials)))
        self._restore()
        saved = time.monotonic()
        with self.model.attached(), recomputing(self.model, active=self.settings.recompute):
            while self._admit():
                self._train_step()
                self.taken += 1
                if progress:
                    progress(self._done(), total)
                late = time.monotonic() - saved > self.checkpoint_every_s
                if self.checkpoint and (late or self.taken % self.checkpoint_every == 0):
                    self._save()
                    saved = time.monotonic()
        if self.checkpoint:
            self._save()
        if progress:
            progress(total, total)
        return self.results

    def cancel(self, trial: int) -> None:
        """Take a trial out after the step that runs now; it keeps its best state so far."""
        self.left[trial] = True

    def _done(self) -> int:
        return sum(
            self._last_step(u) if self.left[u] else self.steps[u] for u in range(len(self.trials))
        )

    def _steps_an_epoch(self, u: int) -> int:
        return -(-len(self.trials[u].train) // self.settings.batch_size)

    def _scheduled_steps(self, u: int) -> int:
        return self._steps_an_epoch(u) * self.settings.epochs

    def _last_step(self, u: int) -> int:
        stop = self.trials[u].stop_epoch
        epochs = self.settings.epochs if stop is None else min(stop, self.settings.epochs)
        return self._steps_an_epoch(u) * epochs

    def _admit(self) -> bool:
        """Empty the slots of trials that ended, fill them, judge who is new; false at the end."""
        while True:
            for slot, u in self.slots.occupied():
                if self.left[u] or self.steps[u] >= self._last_step(u):
                    self.left[u] = True
                    self.slots.leave(slot)
            self.slots.waiting = [u for u in self.slots.waiting if not self.left[u]]
            filled = self.slots.fill()
            self._evaluate([slot for slot in filled if self._trial(slot).held_back])
            if not any(self._last_step(self.slots.resident[slot]) == 0 for slot in filled):
                return bool(self.slots.occupied())

    def _trial(self, slot: int) -> Trial:
        return self.trials[self.slots.resident[slot]]

    def _train_step(self) -> None:
        rows = [row for slot, u in self.slots.occupied() for row in self._rows(slot, u)]
        while True:
            try:
                finite = self._gradients(rows)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._shrink(rows):
                    raise
            # Outside the handler: the exception holds the failed step's activations alive.
            release_memory(self.model.device)
        self._update(finite)
        ended = [
            slot
            for slot, u in self.slots.occupied()
            if self.steps[u] % self._steps_an_epoch(u) == 0
        ]
        self._end_epoch([slot for slot in ended if not self.left[self.slots.resident[slot]]])

    def _rows(self, slot: int, u: int) -> list[Row]:
        """The next step's samples of trial u."""
        trial, size, step = self.trials[u], self.settings.batch_size, self.steps[u]
        epoch, position = divmod(step, self._steps_an_epoch(u))
        if position == 0 or u not in self.orders:
            self.orders[u] = epoch_order(len(trial.train), seed=trial.seed, epoch=epoch)
        picked = self.orders[u][position * size : (position + 1) * size]
        return [
            Row(slot, trial.train[i], mix_seed(trial.seed, step, k), 1 / len(picked))
            for k, i in enumerate(picked)
        ]

    def _gradients(self, rows: Sequence[Row]) -> Tensor:
        """Accumulate gradients of all rows; which slots had finite losses, [K]."""
        finite = torch.ones(len(self.slots.resident), dtype=torch.bool)
        residents = self.slots.residents(self.model.device)
        for part in length_matched(rows, self.tokens_per_step):
            batch = self.encoder.batch(
                [row.sample for row in part],
                [row.slot for row in part],
                seeds=[row.seed for row in part],
                device=self.model.device,
            )
            now = self.make_pass(batch.slots, residents)
            now.dropout = self.settings.dropout
            losses = self.model.answer_loss(batch, now)
            finite[batch.slots[~losses.isfinite()].cpu()] = False
            shares = losses.new_tensor([row.share for row in part])
            # Slots share no parameter, so the sum over rows has each user's own gradient. Only the
            # trained tensors get one: in stage 2 the experts are in training too, not by this.
            (losses * shares).sum().backward(inputs=self.parameters)
        return finite

    def _shrink(self, rows: Sequence[Row]) -> bool:
        """Half the budget, nothing accumulated; false where one sample alone is too much."""
        for parameter in self.parameters:
            parameter.grad = None
        parts = length_matched(rows, self.tokens_per_step)
        largest = max(sum(len(row.sample.tokens) for row in part) for part in parts)
        self.tokens_per_step = min(self.tokens_per_step, largest) // 2
        return any(len(part) > 1 for part in parts)

    def _update(self, finite: Tensor) -> None:
        # A finite loss may still have an infinite gradient, which would poison the moments.
        norms = self.slots.optimizer.gradient_norms()
        finite = finite & norms.isfinite().cpu()
        rates = torch.zeros(len(finite), dtype=torch.float64)
        flags = torch.zeros(len(finite), dtype=torch.bool)
        for slot, u in self.slots.occupied():
            total = self._scheduled_steps(u)
            warmup = int(self.settings.warmup_ratio * total)
            rates[slot] = self.trials[u].learning_rate * linear_schedule(
                self.steps[u], total, warmup
            )
            self.steps[u] += 1
            if finite[slot]:
                flags[slot] = True
            else:  # this user leaves with its best state; the others go on
                self.left[u] = self.results[u].failed = True
        device = self.model.device
        self.slots.optimizer.step(rates.to(device), flags.to(device), norms)

    def _end_epoch(self, ended: list[int]) -> None:
        judged = [slot for slot in ended if self._trial(slot).held_back]
        self._evaluate(judged)
        for slot in judged:
            u = self.slots.resident[slot]
            result = self.results[u]
            if len(result.losses) - 1 - result.best_epoch >= self.settings.patience:
                self.left[u] = True
        # Only running slots end an epoch, so never a failed one.
        self.slots.keep([slot for slot in ended if slot not in judged])

    def _evaluate(self, slots: Sequence[int]) -> None:
        samples = [(slot, sample) for slot in slots for sample in self._trial(slot).held_back]
        if not samples:
            return
        residents = self.slots.residents(self.model.device)
        losses = held_back_losses(
            self.model,
            self.encoder,
            samples,
            lambda rows: self.make_pass(rows, residents),
            self.settings.tokens_judged,
        )
        owners = torch.tensor([slot for slot, _ in samples])
        better = []
        for slot in slots:
            result = self.results[self.slots.resident[slot]]
            result.losses.append(float(losses[owners == slot].mean()))
            # A NaN never compares as better, so a diverged epoch is never kept.
            if len(result.losses) == 1 or result.losses[-1] < result.best_loss:
                result.best_epoch = len(result.losses) - 1
                better.append(slot)
        self.slots.keep(better)

    def _save(self) -> None:
        assert self.checkpoint is not None
        meta = {
            "taken": self.taken,
            "tokens_per_step": self.tokens_per_step,
            "steps": self.steps,
            "left": self.left,
            "resident": self.slots.resident,
            "waiting": self.slots.waiting,
            "results": [[r.losses, r.best_epoch, r.failed] for r in self.results],
        }
        save_checkpoint(self.checkpoint, self.slots.tensors(), meta)

    def _restore(self) -> None:
        found = load_checkpoint(self.checkpoint) if self.checkpoint else None
        if found is None:
            return
        tensors, meta = found
        found_shape = [len(meta.get("results", ())), len(meta.get("resident", ()))]
        expected = [len(self.trials), len(self.slots.resident)]
        if found_shape != expected:
            raise TrainingError(
                f"checkpoint '{self.checkpoint}' is of {found_shape[0]} trials in "
                f"{found_shape[1]} slots, expected {expected[0]} in {expected[1]}",
                hint="delete it to start this phase again",
            )
        self.slots.restore(tensors)
        self.slots.resident = [int(u) for u in meta["resident"]]
        self.slots.waiting = [int(u) for u in meta["waiting"]]
        self.taken = int(meta["taken"])
        # As it was cut before, whatever memory is free now: the same bits.
        self.tokens_per_step = int(meta.get("tokens_per_step", self.tokens_per_step))
        self.steps = [int(step) for step in meta["steps"]]
        self.left = [bool(left) for left in meta["left"]]
        self.results = [TrialResult(list(a), int(b), bool(c)) for a, b, c in meta["results"]]
