"""What the released LoRA-aware router W_l tells about its cohort.

Members are the pooled people whose provisional LoRAs trained W_l; the others are as much part of stages 1
and 2. The cohort's LoRAs are thrown away, so the attacker trains one on the person's items, and asks by
how much W_l helps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from client.person.arms import ArmModel
from proper_model.engine import pooled_settings, pooled_training
from proper_model.kernels import Batch
from simulations.privacy.membership.attacked import Attacked, Row, State
from simulations.privacy.membership.found import Floats, Found, Truth, log_p, of_people
from simulations.privacy.membership.targets import look, overfit_epochs, train_adapters
from simulations.privacy.statistics.shares import Control

OVERFIT_RATE = 1e-2


def on_cohort(attacked: Attacked) -> list[Found]:
    """By how much W_l helps a LoRA that the attacker trains on the person's known items.

    The positive control is a W_l that saw the cohort's items far too often, under the attacker's own
    LoRAs; the negative one asks without W_l.
    """
    people, cohort = attacked.trained, attacked.target.cohort
    sets = [(str(who), attacked.known.encoded_of(who)) for who in people]
    states = train_adapters(attacked.learner, sets, seed=attacked.seed).states
    shared = {
        name: torch.zeros_like(tensor) if name.endswith(".lora") else tensor
        for name, tensor in attacked.release.shared.items()
    }
    without = replace(attacked.release, shared=shared)
    found: list[Found] = []
    for records, fresh in ((attacked.known, False), (attacked.fresh, True)):
        if fresh and "fresh" not in attacked.levels:
            continue
        places = records.of(people)
        rows = [(people.index(int(records.owner[i])), records.encoded[i]) for i in places]
        owner = records.owner[places]
        truth = Truth(np.array([cohort[who] for who in owner], dtype=np.bool_), owner)
        none = log_p(attacked.personal_views(states, rows, without))
        inside = [row for row, member in zip(rows, truth.member, strict=True) if member]
        scores: Mapping[Control, Floats] = {
            "none": log_p(attacked.personal_views(states, rows)) - none,
            "positive": overfit_log_p(attacked, states, inside, rows) - none,
            "negative": none,
        }
        for control, score in scores.items():
            gain = {"loss-minus-without": score}
            found += of_people("router-cohort", gain, truth, control, fresh=fresh)
    return found


def overfit_log_p(
    attacked: Attacked, states: Sequence[State], members: Sequence[Row], rows: Sequence[Row]
) -> Floats:
    """What a W_l that trained on `members` far too often says of the rows, under the same LoRAs: [n]."""
    arms = ArmModel(attacked.release, attacked.candidates.task)
    make_pass, model = arms.make_pass("stage3", states), arms.model
    routers = [model.router(number).lora for number in range(len(model.sites))]
    weights = [weight for weight in routers if weight is not None]
    for weight in weights:
        weight.requires_grad_(True)

    def losses(batch: Batch) -> tuple[Tensor, None]:
        return model.answer_loss(batch, make_pass(batch.slots)), None

    settings = replace(
        pooled_settings.PooledSettings.of(
            attacked.settings.router, attacked.settings, seed=attacked.seed
        ),
        epochs=overfit_epochs(attacked.settings),
        early_stopping=False,
    )
    pooled_training.PooledTraining(
        attacked.encoder,
        members,
        torch.optim.AdamW(weights, lr=OVERFIT_RATE, weight_decay=0.0),
        losses,
        lambda _: torch.zeros(1),  # nothing is chosen: the last epoch is kept
        settings,
        device=model.device,
    ).run()
    for weight in weights:
        weight.requires_grad_(False)
    return log_p(look(model, attacked.encoder, rows, make_pass, attacked.tokens))
