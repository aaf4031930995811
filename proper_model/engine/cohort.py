"""Training many users' private parameters in shared passes over the frozen base.

A cohort is a list of `Trial`s; each is one user (or one user at one learning rate) and trains in a
slot of the stacked tensors (`slots`). A step takes the next small batch of every trial in a slot,
runs them together and updates each slot by its own AdamW, schedule and clipping. Users never mix: a
trial's result depends on its own samples, settings and seed alone (docs/contributing.md 3.4).

Used for fitting e_u, for the private LoRA (eq. 11-13) and for the router cohort's provisional
LoRAs (docs/method.md 1.7, 3a).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.anchors import Anchors
from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.judging import held_back_losses
from proper_model.engine.optimizer import StackedAdamW, linear_schedule
from proper_model.engine.pooled_settings import PassTokens
from proper_model.engine.recompute import recomputing
from proper_model.engine.slots import Slots, Start
from proper_model.engine.training_loop import Row, TrainingLoop
from proper_model.engine.trials import Trial, TrialResult, TrialSettings
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.layout import queued
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.progress import Steps
from proper_model.text.encoding import Encoder, epoch_order

# From row slots [B] and the trial in every slot [K] to a pass that uses the trained parameters.
MakePass = Callable[[Tensor, Tensor], Pass]


class Cohort(TrainingLoop[Tensor]):
    """Trains all trials in the slots of `parameters`; see the module docstring.

    Args:
        parameters: stacked tensors [K, ...] that `make_pass` uses; K trials train at once.
        start: starting values of a trial.
        checkpoint, checkpoint_every: as for `TrainingLoop`.
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
    ) -> None:
        super().__init__(
            encoder,
            parameters,
            device=model.device,
            tokens=PassTokens(settings.tokens_per_step, settings.tokens_judged),
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
        )
        self.model, self.trials = model, list(trials)
        self.make_pass, self.settings = make_pass, settings
        self.results = [TrialResult() for _ in self.trials]
        self.steps = [0] * len(self.trials)
        self.left = [not trial.train for trial in self.trials]
        self.orders: dict[int, list[int]] = {}  # of the running epochs, derived and never saved
        waiting = [u for u, trial in enumerate(self.trials) if trial.train]
        waiting.sort(key=self._last_step, reverse=True)
        optimizer = StackedAdamW(
            self.parameters,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
        )
        self.slots = Slots(self.parameters, optimizer, start, waiting, len(self.trials))
        pulled = any(trial.prior for trial in self.trials)
        self.anchors = Anchors(self.parameters, start) if pulled else None

    @property
    def best(self) -> list[Tensor]:
        """Every trial's best state, [trials, ...] for each parameter, in host memory."""
        return self.slots.best

    def run(self, progress: Steps | None = None) -> list[TrialResult]:
        """Train every trial to its end; `best` holds what became of them."""
        self._restore()
        with self.model.attached(), recomputing(self.model, active=self.settings.recompute):
            self._train(progress)
        self._save()
        if progress:
            total = self._done()[1]
            progress(total, total)
        return self.results

    def _done(self) -> tuple[int, int]:
        last = [self._last_step(u) for u in range(len(self.trials))]
        done = (
            end if left else step
            for end, left, step in zip(last, self.left, self.steps, strict=True)
        )
        return sum(done), sum(last)

    def _steps_an_epoch(self, u: int) -> int:
        return -(-len(self.trials[u].train) // self.settings.batch_size)

    def _scheduled_steps(self, u: int) -> int:
        return self._steps_an_epoch(u) * self.settings.epochs

    def _last_step(self, u: int) -> int:
        stop = self.trials[u].stop_epoch
        epochs = self.settings.epochs if stop is None else min(stop, self.settings.epochs)
        return self._steps_an_epoch(u) * epochs

    def _step_is_left(self) -> bool:
        """Empty the slots of trials that ended, fill them, judge who is new; false at the end."""
        while True:
            for slot, u in self.slots.occupied():
                if self.left[u] or self.steps[u] >= self._last_step(u):
                    self.left[u] = True
                    self.slots.leave(slot)
            filled = self.slots.fill()
            self._evaluate([slot for slot in filled if self._trial(slot).held_back])
            if not any(self._last_step(self.slots.resident[slot]) == 0 for slot in filled):
                return bool(self.slots.occupied())

    def _pull(self, u: int) -> float:
        """Weight of trial u's prior in one step: its loss is a mean over items, the prior is one."""
        return self.trials[u].prior / max(1, len(self.trials[u].train))

    def _trial(self, slot: int) -> Trial:
        return self.trials[self.slots.resident[slot]]

    def _rows(self) -> list[Row]:
        return [row for slot, u in self.slots.occupied() for row in self._rows_of(slot, u)]

    def _rows_of(self, slot: int, u: int) -> list[Row]:
        """The next step's samples of trial u."""
        trial, size, step = self.trials[u], self.settings.batch_size, self.steps[u]
        epoch, position = divmod(step, self._steps_an_epoch(u))
        if position == 0 or u not in self.orders:
            self.orders[u] = epoch_order(len(trial.train), seed=trial.seed, epoch=epoch)
        picked = self.orders[u][position * size : (position + 1) * size]
        return [
            Row(slot, trial.train[i], mix_seed(trial.seed, step, k), len(picked))
            for k, i in enumerate(picked)
        ]

    def _backward(self, part: Sequence[Row]) -> Tensor:
        """One pass of a step: adds its gradients; [K], over 0 where a slot's loss was not finite."""
        batch = self._batch(part)
        now = self.make_pass(batch.slots, self.slots.residents(self.device))
        now.dropout = self.settings.dropout
        losses = self.model.answer_loss(batch, now)
        shares = torch.tensor([1 / row.count for row in part], dtype=losses.dtype)
        # Slots share no parameter, so the sum over rows has each user's own gradient. Only the
        # trained tensors get one: in stage 2 the experts are in training too, not by this.
        (losses * queued(shares, self.device)).sum().backward(inputs=self.parameters)
        # Looked at once a step: a GPU must not wait for the CPU after every pass.
        bad = torch.zeros(len(self.slots.resident), device=self.device)
        return bad.index_add(0, batch.slots, (~losses.isfinite()).float())

    def _update(self, found: Sequence[Tensor]) -> None:
        if self.anchors is not None:
            pulls = {u: self._pull(u) for _, u in self.slots.occupied()}
            self.anchors.add_gradients(self.slots.occupied(), pulls)
        # A finite loss may still have an infinite gradient, which would poison the moments.
        norms = self.slots.optimizer.gradient_norms()
        finite = (norms.isfinite() & (torch.stack(list(found)).sum(0) == 0)).cpu()
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
        self.slots.optimizer.step(rates.to(self.device), flags.to(self.device), norms)

    def _after_step(self) -> None:
        """Judge the trials that have ended an epoch; a failed one ends none."""
        ended = [
            slot
            for slot, u in self.slots.occupied()
            if self.steps[u] % self._steps_an_epoch(u) == 0 and not self.left[u]
        ]
        judged = [slot for slot in ended if self._trial(slot).held_back]
        self._evaluate(judged)
        for slot in judged:
            u = self.slots.resident[slot]
            result = self.results[u]
            if len(result.losses) - 1 - result.best_epoch >= self.settings.patience:
                self.left[u] = True
        self.slots.keep([slot for slot in ended if slot not in judged])

    def _evaluate(self, slots: Sequence[int]) -> None:
        samples = [(slot, sample) for slot in slots for sample in self._trial(slot).held_back]
        if not samples:
            return
        residents = self.slots.residents(self.device)
        losses = held_back_losses(
            self.model,
            self.encoder,
            samples,
            lambda rows: self.make_pass(rows, residents),
            self.judge_tokens,
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

    def _extent(self, meta: Mapping[str, Any]) -> str:
        trials, slots = (len(meta.get(name, ())) for name in ("results", "resident"))
        return f"{trials} trials in {slots} slots"

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.slots.tensors(), {
            "taken": self.taken,
            "steps": self.steps,
            "left": self.left,
            "resident": self.slots.resident,
            "waiting": self.slots.waiting,
            "results": [[r.losses, r.best_epoch, r.failed] for r in self.results],
        }

    def _resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.slots.restore(tensors)
        self.slots.resident = [int(u) for u in meta["resident"]]
        self.slots.waiting = [int(u) for u in meta["waiting"]]
        self.taken = int(meta["taken"])
        self.steps = [int(step) for step in meta["steps"]]
        self.left = [bool(left) for left in meta["left"]]
        self.results = [TrialResult(list(a), int(b), bool(c)) for a, b, c in meta["results"]]
