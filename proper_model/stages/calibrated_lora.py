"""Stage 3c under a calibration: one training on all own items, confirmed where there are enough.

A release that was calibrated says for each length of history how a private LoRA is trained, by how much
it is scaled and with what weight it is mixed (`settings.calibration`). So nothing is tried: no second
rate, no folds, no refit. Own items only confirm. Of a history of `CONFIRMED_FROM` items or more the
newest `CONFIRMING` are cut in two: a second, short training takes the older part, and its mixture with
the model below is compared with that alone on the newer one, item by item. If it is worse by more than
one standard error there is no adapter, which leaves stage 2. That adds two fifths to the cost at most,
and the less the longer the history is; shorter ones trust the calibration.

All trainings of all people share passes (`engine.cohort`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.folds import Samples
from proper_model.engine.judging import held_back_log_probs
from proper_model.engine.trials import Trial, TrialResult
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded
from proper_model.model.mixture import mixed
from proper_model.model.user_lora import UserLora
from proper_model.settings.calibration import Calibrated
from proper_model.stages.calibration_choice import within_one_error
from proper_model.stages.private_lora import Factors, LoraFit, LoraTrials

CONFIRMED_FROM = 100  # of fewer items, confirming would cost nearly as much as training
CONFIRMING = 50
CONFIRMING_SHARE = 0.2  # of these, the newest, judge


@dataclass(frozen=True)
class Planned:
    """One training of one user; `judged` by whether it is confirmed, where there are such items."""

    user: int
    trial: Trial
    judged: tuple[Encoded, ...] = ()


def plan_trials(users: Sequence[Samples], rows: Sequence[Calibrated | None]) -> list[Planned]:
    """What is trained, by the rows of the release's calibration: one a user, or None for nothing."""
    planned = []
    for u, (user, row) in enumerate(zip(users, rows, strict=True)):
        if row is None or not row.adapts or not user.items:
            continue
        whole = Trial(
            user.items,
            (),
            row.learning_rate,
            user.seed,
            stop_epoch=row.epochs,
            prior=row.shrinkage,
        )
        planned.append(Planned(u, whole))
        if len(user.items) >= CONFIRMED_FROM:
            recent = user.items[-CONFIRMING:]
            cut = len(recent) - round(CONFIRMING_SHARE * len(recent))
            short = dataclasses.replace(whole, train=recent[:cut], seed=mix_seed(user.seed, 9))
            planned.append(Planned(u, short, recent[cut:]))
    return planned


def train_calibrated(
    stage: LoraTrials,
    users: Sequence[Samples],
    rows: Sequence[Calibrated | None],
    checkpoint: Checkpoint | None,
) -> tuple[UserLora, list[LoraFit]]:
    """Train everybody once; leaves `stage.model.lora` holding one slot a user, which is also returned.

    Whoever has no adapter (none planned, diverged, or not confirmed) has one that changes nothing.
    """
    planned = plan_trials(users, rows)
    trials, owners = [one.trial for one in planned], [one.user for one in planned]
    results, states = stage.run(trials, owners, checkpoint)
    confirming = [number for number, one in enumerate(planned) if one.judged]
    verdicts = {planned[n].user: n for n in confirming}
    losses = _confirm(stage, [planned[n] for n in confirming], rows, _factors(states, confirming))
    compared = dict(zip(verdicts, losses, strict=True))
    whole = {one.user: number for number, one in enumerate(planned) if not one.judged}
    fits = [
        _fit(row, None if u not in whole else results[whole[u]], compared.get(u))
        for u, row in enumerate(rows)
    ]
    kept: list[Factors] = []
    for u, (user, fit) in enumerate(zip(users, fits, strict=True)):
        used = fit.trained and not fit.failed and not fit.doubted
        kept.append(_factors(states, [whole[u]])[0] if used else stage.fresh(user.seed))
    return stage.hold(kept, [fit.scale for fit in fits]), fits


def _factors(states: Sequence[Tensor], trials: Sequence[int]) -> list[list[Tensor]]:
    return [[stack[number] for stack in states] for number in trials]


def _confirm(
    stage: LoraTrials,
    planned: Sequence[Planned],
    rows: Sequence[Calibrated | None],
    adapters: Sequence[Factors],
) -> list[tuple[Tensor, Tensor]]:
    """Of every confirming training, losses of its judged items below it and in the mixture."""
    if not planned:
        return []
    own = [row for one in planned if (row := rows[one.user]) is not None]
    stage.hold(adapters, [row.scale for row in own])
    embeddings = stage.embeddings
    if embeddings is not None:
        embeddings = embeddings[[one.user for one in planned]]
    samples = [(slot, item) for slot, one in enumerate(planned) for item in one.judged]
    below, above = (
        held_back_log_probs(
            stage.model,
            stage.encoder,
            samples,
            lambda slots, make=make: make(slots, embeddings),  # type: ignore[misc]
            stage.settings.tokens_judged,
        )
        for make in (stage.below, stage.personal)
    )
    weights = [own[slot].weight for slot, _ in samples]
    both = zip(above, below, weights, strict=True)
    losses = torch.stack([-mixed(a, b, weight).mean() for a, b, weight in both])
    alone = torch.stack([-b.mean() for b in below])
    counts = [len(one.judged) for one in planned]
    return list(zip(alone.split(counts), losses.split(counts), strict=True))


def _fit(
    row: Calibrated | None, result: TrialResult | None, compared: tuple[Tensor, Tensor] | None
) -> LoraFit:
    """What became of one user; `result` None: nothing was trained."""
    none = float("nan")
    if row is None or result is None:
        return LoraFit(none, 0, none, none, trained=False, failed=False)
    below, mixture = (torch.tensor([none]),) * 2 if compared is None else compared
    doubted = compared is not None and not within_one_error(mixture, below)
    return LoraFit(
        learning_rate=row.learning_rate,
        epochs=0 if result.failed or doubted else row.epochs,
        loss_before=float(below.mean()),
        loss_after=float(mixture.mean()),
        trained=True,
        failed=result.failed,
        scale=row.scale,
        judged=0 if compared is None else len(below),
        doubted=doubted,
    )
