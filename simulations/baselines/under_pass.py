"""Adapted models of methods to compare with: how they train own LoRAs and answer, as PROPER's do.

Everything but the method itself is what PROPER's own arms have: how items are split, which learning
rates are tried, patience, the training on all items again, greedy answers and their longest length.
So a difference between two arms is one between methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from client.person.arms import ArmModel, prediction_of
from client.person.learner import user_seed
from proper_model.answering import Question, answer_queries, inference_tokens
from proper_model.engine import Samples, free_bytes, lora_settings, split_items, within
from proper_model.evaluation import Prediction
from proper_model.model import AdaptedModel, Pass, UserLora, personal_pass
from proper_model.settings import UserRouting
from proper_model.stages import LoraFit, train_user_loras
from proper_model.tasks import Example, Task, User
from simulations.baselines.arm import Benchmark


class Wording(Protocol):
    """How a user's items and queries become examples."""

    def items(self, task: Task, user: User) -> list[Example]:
        """The own items as training examples, oldest first. Raises DataError for a missing field."""
        ...

    def queries(self, task: Task, user: User) -> list[Example]:
        """One example a query, in the order of queries."""
        ...


class TaskWording:
    """As the task's template says, with nothing before it."""

    def items(self, task: Task, user: User) -> list[Example]:
        return [task.history_example(item) for item in user.history]

    def queries(self, task: Task, user: User) -> list[Example]:
        return [task.query_example(query) for query in user.queries]


PLAIN = TaskWording()


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


def split_users(given: Benchmark, users: Sequence[User], wording: Wording = PLAIN) -> list[Samples]:
    """Every user's items as samples, cut and seeded as on a device."""
    encoder, user_settings = given.release.encoder(), given.release.settings.user
    return [
        split_items(
            [encoder.encode(example) for example in wording.items(given.task, user)],
            fraction=user_settings.held_back_fraction,
            folds=user_settings.held_back_folds,
            minimum=user_settings.min_items_to_train,
            seed=user_seed(given.seed, user.user_id),
        )
        for user in users
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


def predict_under(
    given: Benchmark,
    model: AdaptedModel,
    make_pass: Callable[[Tensor], Pass],
    *,
    name: str,
    wording: Wording = PLAIN,
) -> list[Prediction]:
    """Greedy answers to the test users' queries; slot = place of a user among `given.users`."""
    task, settings = given.task, given.release.settings
    limits = ArmModel(given.release, task)  # measures labels
    asked = [
        (
            user,
            query,
            Question(
                slot=slot,
                example=example,
                labels=tuple(task.labels_for(query)) if "mae_expected" in task.metrics else (),
                max_new_tokens=limits.answer_limit(query),
            ),
        )
        for slot, user in enumerate(given.users)
        for query, example in zip(user.queries, wording.queries(task, user), strict=True)
    ]
    answers = answer_queries(
        model,
        given.release.encoder(),
        [question for _, _, question in asked],
        make_pass,
        tokens_per_step=inference_tokens(
            given.memory_bytes,
            model,
            users=len(given.users),
            longest=settings.max_prompt_tokens + settings.max_answer_tokens,
            tokens=settings.tokens_per_step,
            answer=settings.max_answer_tokens,
        ),
        progress=partial(given.progress, name),
    )
    return [
        prediction_of(user.user_id, query.id, answer)
        for (user, query, _), answer in zip(asked, answers, strict=True)
    ]
