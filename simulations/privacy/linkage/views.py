"""What is held of people as one vector each: [P, D], float64.

embedding        e_u
user-routing     softmax(W_e e_u), the part of eq. 8 that no text enters, of every router
routing          mean routing weights of the tokens of the own items under stage 3: what a log
                 of expert use would hold
adapter          B_u A_u of every site, which does not depend on the factors' basis
adapter-factors  A_u and B_u as they lie in a file
answers          which words a person's server answered to fixed questions
texts            the items themselves, as TF-IDF: a positive control
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from client.person.arms import ArmModel
from proper_model.answering import routing_weights
from proper_model.kernels import budget_chunks
from proper_model.tasks import HistoryItem, Query, Task, User
from simulations.privacy.linkage.releases import Held, State

Floats = NDArray[np.float64]
COLUMNS = 1 << 13


def embedding(held: Held) -> Floats:
    """e_u, all tables."""
    return _flat([[state["embedding"]] for state in held.states])


def user_routing(held: Held) -> Floats:
    """Weights of every router for everybody, the text left out."""
    model = held.release.model()
    found = []
    for state in held.states:
        own = state["embedding"].to(model.device)
        found.append(
            [
                (own[model.table(n), model.columns(n)] @ model.user_weight(n).T).softmax(-1)
                for n in range(len(model.sites))
            ]
        )
    return _flat(found)


def routing(held: Held) -> Floats:
    """Mean weights over the own items' tokens, every item weighing the same."""
    release = held.release
    arms = ArmModel(release, held.task)
    make_pass = arms.make_pass("stage3", held.states)
    rows = [
        (slot, arms.encoder.encode(held.task.history_example(item)))
        for slot, items in enumerate(held.items)
        for item in items
    ]
    routers, experts = len(arms.model.sites), release.structure.experts
    total = torch.zeros(len(held.states), routers, experts, dtype=torch.float64)
    lengths = [len(record.tokens) for _, record in rows]
    for chunk in budget_chunks(lengths, release.settings.tokens_per_step):
        slots = [rows[i][0] for i in chunk]
        batch = arms.encoder.batch([rows[i][1] for i in chunk], slots, device=arms.model.device)
        weights = routing_weights(arms.model, batch, make_pass(batch.slots))  # [S, R, N]
        total.index_add_(0, torch.tensor(slots), weights.transpose(0, 1).double())
    counts = torch.tensor([len(items) for items in held.items])
    return np.asarray((total / counts[:, None, None]).flatten(1).numpy())


def adapter(held: Held) -> Floats:
    """B_u A_u of all sites."""
    return _flat([[b @ a for a, b in _factors(state)] for state in held.states])


def adapter_factors(held: Held) -> Floats:
    """A_u and B_u of all sites."""
    return _flat([[one for pair in _factors(state) for one in pair] for state in held.states])


def _factors(state: State) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sites = [name.removesuffix(".A") for name in state if name.endswith(".A")]
    return [(state[f"{site}.A"], state[f"{site}.B"]) for site in sites]


def _flat(parts: Sequence[Sequence[torch.Tensor]]) -> Floats:
    rows = [torch.cat([one.detach().cpu().double().flatten() for one in own]) for own in parts]
    return np.asarray(torch.stack(rows).numpy())


def questions_of(users: Sequence[User], count: int) -> list[Query]:
    """Questions of people whose texts an attacker has, one a person in turn."""
    turns = zip(*(user.queries for user in users), strict=False)
    return [query for turn in turns for query in turn][:count]


def answers(held: Held, questions: Sequence[Query]) -> Floats:
    """1 for every (question, word) that somebody's server answered; no probabilities.

    A pair has its column by hash, so that two releases have the same ones.
    """
    arms = ArmModel(held.release, held.task)
    asked = [
        (slot, held.task.query_example(query), query)
        for slot, query in product(range(len(held.states)), questions)
    ]
    counts = [len(items) for items in held.items]
    found = np.zeros((len(held.states), COLUMNS))
    for place, one in enumerate(arms.answers(asked, "stage3", held.states, items=counts)):
        slot, number = divmod(place, len(questions))
        for word in one.output.casefold().split():
            found[slot, crc32(f"{number}|{word}".encode()) % COLUMNS] = 1
    return found


def texts(task: Task, *sets: Sequence[Sequence[HistoryItem]]) -> list[Floats]:
    """TF-IDF of everybody's items, one array a set of the same people, over the words of all sets.

    Where an answer is a label, a word of the question counts together with it as well: a habit is which
    label a person gives to what.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    def terms(items: Sequence[HistoryItem]) -> list[str]:
        found = []
        for item in items:
            example = task.history_example(item)
            asked, answer = example.prompt.casefold().split(), example.answer.casefold()
            found += [*asked, *answer.split()]
            if task.kind != "generation":
                found += [f"{word}|{answer}" for word in dict.fromkeys(asked)]
        return found

    documents = [items for one in sets for items in one]
    found = TfidfVectorizer(analyzer=terms, sublinear_tf=True).fit_transform(documents).toarray()
    return [np.asarray(part) for part in np.split(found, len(sets))]
