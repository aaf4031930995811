"""Adapted models of methods to compare with: how they train own LoRAs and answer, as PROPER's do.

Everything but the method itself is what PROPER's own arms have: how items are split, which learning
rates are tried, patience, the training on all items again, greedy answers and their longest length.
So a difference between two arms is one between methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from client.person.arms import ArmModel, Private, prediction_of
from client.person.learner import user_seed
from proper_model.engine import Samples, free_bytes, lora_settings, split_items, within
from proper_model.evaluation import Prediction
from proper_model.model import AdaptedModel, Pass, UserLora, personal_pass
from proper_model.settings import UserRouting
from proper_model.stages import LoraFit, train_user_loras
from proper_model.tasks import OwnItems, User
from simulations.baselines.arm import Benchmark


def private_model(
    given: Benchmark, targets: Sequence[str], *, rank: int, alpha: float
) -> AdaptedModel:
    """The release's base with private LoRAs of this rank on linears of these names, frozen."""
    model = AdaptedModel(
        given.release.base,
        dataclasses.replace(given.release.structure, rank=rank, alpha=alpha),
        generator=torch.Generator().manual_seed(given.seed),
        targets=targets,
    )
    model.requires_grad_(False)
    return model


def split_users(given: Benchmark, users: Sequence[User]) -> list[Samples]:
    """Every user's items as samples, cut and seeded as on a device.

    Own items stand before them where the task retrieves some.
    """
    encoder, own = given.release.encoder(), given.release.settings.user
    return [
        split_items(
            [encoder.encode(items.history_example(item)) for item in items.items],
            fraction=own.held_back_fraction,
            folds=own.held_back_folds,
            minimum=own.min_items_to_train,
            seed=user_seed(given.seed, user.user_id),
        )
        for user, items in (
            (user, OwnItems(given.task, user.history, encoder.room)) for user in users
        )
    ]


def train_loras(
    given: Benchmark, model: AdaptedModel, users: Sequence[Samples], *, phase: str, dropout: float
) -> tuple[UserLora, list[LoraFit]]:
    """A private LoRA of each, tuned as the profile tunes a device's; left in `model.lora`.

    `phase` names the training for progress and its checkpoint.
    """
    settings, encoder = given.release.settings, given.release.encoder()
    chosen = dataclasses.replace(
        lora_settings(settings, epochs=settings.user.epochs), dropout=dropout
    )
    trials = len(settings.user.learning_rates) * sum(len(user.folds) for user in users)
    budget = free_bytes(model.device) if given.memory_bytes is None else given.memory_bytes
    return train_user_loras(
        model,
        encoder,
        users,
        embeddings=None,
        routing=UserRouting.USER_AWARE,
        experts=False,
        learning_rates=settings.user.learning_rates,
        settings=within(
            budget,
            model,
            encoder,
            [item for user in users for item in user.items],
            max(len(users), trials),
            chosen,
        ),
        checkpoint=given.folder / phase,
        progress=partial(given.progress, phase),
    )


def own_pass(slots: Tensor) -> Pass:
    """Every row through its own user's LoRA, and no experts."""
    return personal_pass(slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False)


class _UnderPass(ArmModel):
    """Answers as PROPER's arms do, under a model and a pass of a method's own."""

    def __init__(
        self, given: Benchmark, model: AdaptedModel, own: Callable[[Tensor], Pass]
    ) -> None:
        super().__init__(given.release, given.task)
        self.model, self._own = model, own

    def make_pass(self, _arm: str, _people: Sequence[Private]) -> Callable[[Tensor], Pass]:
        return self._own


def predict_under(
    given: Benchmark, model: AdaptedModel, make_pass: Callable[[Tensor], Pass], *, name: str
) -> list[Prediction]:
    """Greedy answers to the test users' queries; slot = place of a user among `given.users`.

    Own items stand before the queries where the task retrieves some.
    """
    room = given.release.encoder().room
    people = [OwnItems(given.task, user.history, room) for user in given.users]
    asked = [
        (slot, own.query_example(query), query)
        for slot, (user, own) in enumerate(zip(given.users, people, strict=True))
        for query in user.queries
    ]
    answers = _UnderPass(given, model, make_pass).answers(
        asked,
        name,
        [{}] * len(people),
        memory_bytes=given.memory_bytes,
        progress=partial(given.progress, name),
    )
    return [
        prediction_of(given.users[slot].user_id, query.id, answer)
        for (slot, _, query), answer in zip(asked, answers, strict=True)
    ]
