"""Synthetic populations that tests only read, each made once a process, and what their users ask."""

from __future__ import annotations

import functools
from typing import Any

from proper_model.tasks.records import User
from proper_model.tasks.task import Task, load_task
from simulations.synthetic.people import SyntheticPopulation, make_synthetic

# The truth, the text and the oracle do not depend on how much a base is pretrained on.
QUICK = {"pretrain": 20}


@functools.cache
def made(kind: str, **knobs: Any) -> SyntheticPopulation:
    """The population of these settings, for all who read it."""
    return make_synthetic(kind, **QUICK, **knobs)


@functools.cache
def _task(name: str) -> Task:
    return load_task(name)


def all_users(synthetic: SyntheticPopulation) -> tuple[User, ...]:
    """Pooled, then unseen users."""
    return synthetic.population.pooled + synthetic.population.test


def query_texts(synthetic: SyntheticPopulation, user: User) -> list[str]:
    """What each query of a user is about."""
    task = _task(synthetic.task)
    return [task.query_text(query)["text"] for query in user.queries]
