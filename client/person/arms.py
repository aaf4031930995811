"""Answers of a personalized model to its users' queries, each row with its own user's state.

Arms: `stage1` is the merged base alone; `stage2-mean` adds experts routed by the mean embedding;
`stage2` uses the fitted embedding; `stage3` adds the private LoRA and its routing; `oppu-mlp` is the
private LoRA without experts (docs/method.md 1.9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from client.node.cohort_adaptation import STATEFUL_ARMS, UserState, known_arms
from proper_model.answering import Answer, Question, answer_queries, inference_tokens
from proper_model.errors import ConfigError
from proper_model.evaluation import Prediction
from proper_model.model import (
    AdaptedModel,
    Pass,
    group_pass,
    personal_pass,
    private_tensor,
    stack_adapters,
)
from proper_model.release.contents import Release
from proper_model.settings import UserRouting
from proper_model.tasks import Query, Task, User
from proper_model.text import Encoder

Progress = Callable[[str, int, int], None]


def predict(
    release: Release,
    users: Sequence[User],
    arm: str,
    states: Mapping[str, UserState],
    *,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """One prediction a query of every user.

    Args:
        states: by user id, for arms that need one; a state of `stage3` also serves `stage2`.
        memory_bytes: what answering may take beside the base; None: what a GPU has free.

    Raises:
        StateError: if a state is missing or lacks what the arm needs.
    """
    model, encoder, task = release.model(), release.encoder(), release.task
    make_pass = arm_pass(release, model, users, arm, states)
    queries = [(u, query) for u, user in enumerate(users) for query in user.queries]
    numeric = "mae_expected" in task.metrics
    limits = AnswerLimits(task, encoder, release.settings.max_answer_tokens)
    questions = [
        Question(
            slot=u,
            example=task.query_example(query),
            labels=tuple(task.labels_for(query)) if numeric else (),
            max_new_tokens=limits.of(query),
        )
        for u, query in queries
    ]
    answers = answer_queries(
        model,
        encoder,
        questions,
        make_pass,
        tokens_per_step=answering_tokens(release, model, memory_bytes, users=len(users)),
        progress=None if progress is None else (lambda d, t: progress(arm, d, t)),
    )
    return [
        prediction_of(users[u].user_id, query.id, answer)
        for (u, query), answer in zip(queries, answers, strict=True)
    ]


def answering_tokens(
    release: Release, model: AdaptedModel, memory_bytes: int | None, *, users: int
) -> int:
    """Tokens of one pass of answering with so many users' adapters, within the budget."""
    settings = release.settings
    return inference_tokens(
        memory_bytes,
        model,
        users=users,
        longest=settings.max_prompt_tokens + settings.max_answer_tokens,
        tokens=settings.tokens_per_step,
        answer=settings.max_answer_tokens,
    )


def prediction_of(user_id: str, query_id: str, answer: Answer) -> Prediction:
    """An answer as a row of what is scored."""
    return Prediction(
        user_id=user_id,
        query_id=query_id,
        output=answer.output,
        nll=answer.nll,
        answer_tokens=answer.answer_tokens,
        expected=answer.expected,
    )


def arm_pass(
    release: Release,
    model: AdaptedModel,
    users: Sequence[User],
    arm: str,
    states: Mapping[str, UserState],
) -> Callable[[Tensor], Pass]:
    """From row slots (positions in `users`) to the pass of an arm; loads adapters into `model`."""
    if arm == "stage1":
        return lambda slots: Pass(
            slots=slots,
            experts=False,
            lora=False,
            embeddings=None,
            routing=UserRouting.USER_AWARE,
        )
    if arm == "stage2-mean":
        mean = release.mean_embedding[None].repeat(len(users), 1, 1)
        return lambda slots: group_pass(slots, mean)
    if arm not in STATEFUL_ARMS:
        raise ConfigError(f"unknown arm '{arm}'", hint=f"known: {known_arms()}")
    has_embedding, has_lora = STATEFUL_ARMS[arm]
    embeddings = None
    if has_embedding:
        rows = [private_tensor(_tensors(states, user), "embedding") for user in users]
        embeddings = torch.stack(rows).to(model.device)
    if not has_lora:
        assert embeddings is not None
        fitted = embeddings
        return lambda slots: group_pass(slots, fitted)
    load_adapters(model, users, states)
    routing = model.structure.user_routing if has_embedding else UserRouting.USER_AWARE
    return lambda slots: personal_pass(
        slots, embeddings=embeddings, routing=routing, experts=has_embedding
    )


def load_adapters(
    model: AdaptedModel, users: Sequence[User], states: Mapping[str, UserState]
) -> None:
    """Stack the users' LoRA factors into `model.lora`, slot = position in `users`."""
    stack_adapters(model, [_tensors(states, user) for user in users])


def _tensors(states: Mapping[str, UserState], user: User) -> Mapping[str, Tensor]:
    state = states.get(user.user_id)
    return {} if state is None else state.tensors


class AnswerLimits:
    """Tokens to generate: a query's longest label and its end, or `most` for free text."""

    def __init__(self, task: Task, encoder: Encoder, most: int) -> None:
        self.task, self.encoder, self.most = task, encoder, most
        self.known: dict[tuple[str, ...], int] = {}

    def of(self, query: Query) -> int:
        """The limit of one query; label lists that repeat are measured once."""
        task, most = self.task, self.most
        labels = tuple(task.labels_for(query)) if task.kind != "generation" else ()
        if labels not in self.known:
            lengths = [len(self.encoder.text_ids(" " + label)) for label in labels]
            self.known[labels] = min(max(lengths) + 1, most) if labels else most
        return self.known[labels]
