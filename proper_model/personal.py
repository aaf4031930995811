"""Training private LoRAs for a cohort of users (PROPER eq. 11-13, METHOD 1.7 3a and 3c).

Every (user, learning rate) pair is one trial in a slot of its own, so all candidates train in the
same passes; a user keeps the learning rate and epoch with the lowest loss on own held-back items,
"no training" included. The same function without experts is the baseline OPPU-mlp, with the same
number of trials and the same stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from proper_model.cohort import Cohort, Progress, Trial, TrialResult, TrialSettings
from proper_model.config import UserRouting
from proper_model.embeddings import Samples
from proper_model.encoding import Encoder
from proper_model.lora import UserLora
from proper_model.model import AdaptedModel, Pass


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
    model.lora = model.new_user_lora([trial.seed for trial in trials])
    rows = torch.tensor(owners, device=model.device)
    slot_embeddings = None if embeddings is None else embeddings[rows]

    def make_pass(slots: Tensor) -> Pass:
        return personal_pass(slots, embeddings=slot_embeddings, routing=routing, experts=experts)

    parameters = [*model.lora.a, *model.lora.b]
    for parameter in parameters:
        parameter.requires_grad_(True)
    results = Cohort(
        model, encoder, trials, parameters, make_pass, settings, checkpoint=checkpoint
    ).run(progress)
    chosen = [_best_trial(results, rates, u) for u in range(len(users))]
    model.lora = _take(model, chosen)
    fits = [_fit(trials[slot], results[slot]) for slot in chosen]
    return model.lora, fits


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
    taken.requires_grad_(False)
    return taken
