"""Training private LoRAs for a cohort of users (PROPER eq. 11-13, METHOD 1.7 3a and 3c).

Every (user, learning rate) pair is one trial in a slot of its own, so all candidates train in the
same passes; a user keeps the learning rate and epoch with the lowest loss on own held-back items,
"no training" included, and then trains once more on all own items for as long. The same function without experts is the baseline OPPU-mlp, with the same
number of trials and the same stopping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proper_model.checkpoint import beside
from proper_model.cohort import Cohort, Progress, Trial, TrialResult, TrialSettings
from proper_model.embeddings import Samples
from proper_model.encoding import Encoder
from proper_model.lora import UserLora
from proper_model.model import AdaptedModel
from proper_model.passes import Pass
from proper_model.structure import UserRouting


@dataclass(frozen=True)
class LoraFit:
    """How one user's adapter was chosen; losses per answer token on held-back items."""

    learning_rate: float
    epochs: int
    loss_before: float
    loss_after: float
    trained: bool
    failed: bool


def personal_pass(
    slots: Tensor, *, embeddings: Tensor | None, routing: UserRouting, experts: bool
) -> Pass:
    """Stage 3: experts plus user LoRA; without experts the baseline OPPU-mlp."""
    return Pass(slots=slots, experts=experts, lora=True, embeddings=embeddings, routing=routing)


def train_user_loras(
    model: AdaptedModel,
    encoder: Encoder,
    users: Sequence[Samples],
    *,
    embeddings: Tensor | None,
    routing: UserRouting,
    experts: bool,
    learning_rates: Sequence[float],
    settings: TrialSettings,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> tuple[UserLora, list[LoraFit]]:
    """Train and choose; leaves `model.lora` holding one slot a user, which is also returned.

    Args:
        embeddings: `[U, tables, e]`, frozen here; None without experts.
    """
    rates = list(learning_rates)
    trials, owners = [], []
    for u, user in enumerate(users):
        for rate in rates:
            train = user.train if user.held_back else ()
            trials.append(Trial(train, user.held_back, rate, user.seed))
            owners.append(u)
    stage = _Stage(model, encoder, embeddings, routing, experts, settings, progress)
    results = stage.run(trials, owners, checkpoint)
    chosen = [_best_trial(results, rates, u) for u in range(len(users))]
    fits = [_fit(trials[slot], results[slot]) for slot in chosen]
    if settings.refit:
        refits = [
            dataclasses.replace(
                trials[slot],
                train=user.items,
                held_back=(),
                stop_epoch=0 if results[slot].failed else results[slot].best_epoch,
            )
            for slot, user in zip(chosen, users, strict=True)
        ]
        stage.run(refits, range(len(users)), beside(checkpoint, ".refit"))
    else:
        model.lora = _take(model, chosen)
    model.lora.requires_grad_(False)
    return model.lora, fits


@dataclass(frozen=True)
class _Stage:
    """What all trials of one call share."""

    model: AdaptedModel
    encoder: Encoder
    embeddings: Tensor | None
    routing: UserRouting
    experts: bool
    settings: TrialSettings
    progress: Progress | None

    def run(
        self, trials: Sequence[Trial], owners: Sequence[int], checkpoint: Path | None
    ) -> list[TrialResult]:
        """Train fresh adapters, one a trial, in `model.lora`; `owners` are positions of users."""
        own = None if self.embeddings is None else self.embeddings[list(owners)]
        self.model.lora = self.model.new_user_lora([trial.seed for trial in trials])
        parameters = [*self.model.lora.a, *self.model.lora.b]
        for parameter in parameters:
            parameter.requires_grad_(True)

        def make_pass(slots: Tensor) -> Pass:
            return personal_pass(
                slots, embeddings=own, routing=self.routing, experts=self.experts
            )

        return Cohort(
            self.model,
            self.encoder,
            trials,
            parameters,
            make_pass,
            self.settings,
            checkpoint=checkpoint,
        ).run(self.progress)


def _best_trial(results: Sequence[TrialResult], rates: Sequence[float], u: int) -> int:
    slots = range(u * len(rates), (u + 1) * len(rates))
    return min(slots, key=lambda slot: results[slot].best_loss if results[slot].losses else 0.0)


def _fit(trial: Trial, result: TrialResult) -> LoraFit:
    before = result.losses[0] if result.losses else float("nan")
    return LoraFit(
        learning_rate=trial.learning_rate,
        epochs=result.best_epoch,
        loss_before=before,
        loss_after=result.best_loss,
        trained=bool(trial.train),
        failed=result.failed,
    )


def _take(model: AdaptedModel, slots: Sequence[int]) -> UserLora:
    """The adapters of the given slots as a new, frozen stack."""
    rows = torch.tensor(list(slots), dtype=torch.long, device=model.device)
    taken = model.new_user_lora([0] * len(slots))
    with torch.no_grad():
        for new, old in zip([*taken.a, *taken.b], [*model.lora.a, *model.lora.b], strict=True):
            new.copy_(old[rows])
    return taken
