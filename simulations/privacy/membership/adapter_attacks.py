"""What a newcomer's private parts tell about the items that trained them.

The adapter alone or with the embedding, one that was trained under privacy of items, the merged export, and the
answers of the person's own server, which are text without probabilities. Members are the half of a newcomer's known items that trained the adapter.
Positive controls are adapters that saw those far too often; negative ones are adapters as they begin.

Letters: P newcomers, n records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from client.person.arms import ArmModel
from proper_model.accounting import account
from proper_model.engine import Samples, user_privacy
from proper_model.kernels import Encoded
from proper_model.model import base_pass
from proper_model.settings import ItemPrivacy
from proper_model.tasks import Example, HistoryItem, Query
from simulations.privacy.membership.attacked import Attacked, Row, State
from simulations.privacy.membership.found import (
    Floats,
    Found,
    Truth,
    log_p,
    of_records,
    record_scores,
)
from simulations.privacy.membership.reference import References, reference_scores
from simulations.privacy.membership.shadows import shadow_adapters
from simulations.privacy.membership.targets import (
    TokenView,
    merged_export,
    train_adapters,
    train_overfit,
    untrained,
)
from simulations.privacy.statistics.shares import Control

PRIVATE = "adapter-dp"
OWN_THINGS = ("adapter", "adapter-embedding", PRIVATE, "export", "answers")
PRIVACY = ItemPrivacy(8.0)  # of PRIVATE, as `proper adapt --private-epsilon 8` asks for it


@dataclass(frozen=True)
class Newcomers:
    """Newcomers' records, and which of them train an adapter.

    Attributes:
        rows: known records, people one after another; the slot is a place among the newcomers.
        others: the fresh records of the same people, in the same form: nobody's members.
        trained: of each person what trains the adapter; fresh: of each person what never does.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    items: tuple[HistoryItem, ...]
    others: tuple[Row, ...]
    truth: Truth
    trained: tuple[tuple[Encoded, ...], ...]
    fresh: tuple[tuple[Encoded, ...], ...]

    @classmethod
    def of(cls, attacked: Attacked) -> Newcomers:
        """As the seed's draw has them."""
        people, known, fresh = attacked.newcomers, attacked.known, attacked.fresh
        places = known.of(people)
        halves = [attacked.draw.halves[who] for who in people]
        own = [known.encoded_of(who) for who in people]
        never = [tuple(fresh.encoded_of(who)) for who in people]
        return cls(
            tuple(attacked.candidates.users[who].user_id for who in people),
            tuple((slot, record) for slot, records in enumerate(own) for record in records),
            tuple(known.items[i] for i in places),
            tuple((slot, record) for slot, records in enumerate(never) for record in records),
            Truth(
                np.array([flag for half in halves for flag in half], dtype=np.bool_),
                known.owner[places],
            ),
            tuple(
                tuple(item for item, chosen in zip(records, half, strict=True) if chosen)
                for records, half in zip(own, halves, strict=True)
            ),
            tuple(never),
        )


@dataclass(frozen=True)
class Held:
    """What the attacker holds of all newcomers: as devices trained it, overfit, and as it begins."""

    leaked: tuple[State, ...]
    overfit: tuple[State, ...]
    untrained: tuple[State, ...]
    items: tuple[int, ...]

    @classmethod
    def of(cls, attacked: Attacked, newcomers: Newcomers) -> Held:
        """All three, each for everybody in shared passes."""
        sets = list(zip(newcomers.names, newcomers.trained, strict=True))
        adapters = train_adapters(attacked.learner, sets, seed=attacked.seed)
        embeddings = torch.stack([state["embedding"] for state in adapters.states])
        overfit = train_overfit(
            attacked.learner,
            newcomers.trained,
            embeddings.to(attacked.learner.model.device),
            seed=attacked.seed,
        )
        # The embedding is fitted on the members too, so what nobody trained has the mean.
        mean = attacked.release.mean_embedding.cpu()[None]
        nobody = untrained(attacked.learner, mean.repeat(len(sets), 1, 1))
        return cls(adapters.states, overfit, nobody, adapters.items)

    @property
    def by_control(self) -> dict[Control, tuple[State, ...]]:
        """Of each kind of target."""
        return {"none": self.leaked, "positive": self.overfit, "negative": self.untrained}


def on_adapters(attacked: Attacked, things: Sequence[str]) -> list[Found]:
    """Attacks on the private parts that are asked for; `record` is the only level."""
    newcomers = Newcomers.of(attacked)
    attacked.progress("adapters of newcomers", 0, 0)
    held = Held.of(attacked, newcomers)
    public = attacked.public_views([record for _, record in newcomers.rows])
    found: list[Found] = []
    parts = {thing: held for thing in ("adapter", "adapter-embedding") if thing in things}
    if PRIVATE in things:
        parts[PRIVATE] = replace(held, leaked=_private(attacked, newcomers))
    if parts:
        found += _on_parts(attacked, parts, newcomers, public)
    if "export" in things:
        for control, states in held.by_control.items():
            own = newcomers.fresh if control == "negative" else newcomers.trained
            exported = _exports(attacked, states, newcomers.rows, own)
            scores = record_scores(exported, public)
            found += of_records("export", scores, newcomers.truth, control)
    if "answers" in things:
        found += _on_answers(attacked, newcomers, held)
    return found


def _private(attacked: Attacked, newcomers: Newcomers) -> tuple[State, ...]:
    """Adapters under privacy of items. Their noise follows from the seed, so that a seed repeats."""
    found = account(
        sampling_rate=PRIVACY.sampling_rate,
        steps=PRIVACY.steps,
        delta=PRIVACY.delta,
        epsilon=PRIVACY.epsilon,
    )
    promised = PRIVACY.promised(found.noise_multiplier, found.epsilon, found.accountant)
    learner = attacked.learner.under(promised, user_privacy.SeededChance(attacked.seed))
    sets = list(zip(newcomers.names, newcomers.trained, strict=True))
    return train_adapters(learner, sets, seed=attacked.seed).states


def _on_parts(
    attacked: Attacked,
    things: Mapping[str, Held],
    newcomers: Newcomers,
    public: Sequence[TokenView],
) -> list[Found]:
    """The adapter's own parameters, read under the embedding that leaked, or the mean without it.

    Shadows are trained as `adapter` is, also for one under privacy.
    """
    mean = attacked.release.mean_embedding.cpu()
    shadows = shadow_adapters(attacked, attacked.newcomers) if attacked.shadows else None
    rows, known = (*newcomers.rows, *newcomers.others), len(newcomers.rows)
    slots = np.array([slot for slot, _ in rows], dtype=np.int64)
    found: list[Found] = []
    for thing, held in things.items():
        references = None
        if shadows is not None:
            said = shadows.log_p(attacked, _leaked(thing, shadows.states, mean), rows)
            references = References(said, shadows.flags, slots)
        for control, states in held.by_control.items():
            # An overfit adapter was trained under its embedding, and is to be recognised for certain.
            read = states if control == "positive" else _leaked(thing, states, mean)
            views = attacked.personal_views(read, rows)
            scores = record_scores(views[:known], public)
            if references is not None:
                scores |= reference_scores(log_p(views), references)
            found += of_records(thing, scores, newcomers.truth, control)
    return found


def _leaked(thing: str, states: Sequence[State], mean: Tensor) -> list[State]:
    """What a thief has: without the embedding it is read under the released mean."""
    return [{**state, "embedding": mean} if thing == "adapter" else state for state in states]


def _exports(
    attacked: Attacked,
    states: Sequence[State],
    rows: Sequence[Row],
    own: Sequence[Sequence[Encoded]],
) -> list[TokenView]:
    """What every person's merged model says of the person's records; `own`: what it is merged on."""
    found: list[TokenView] = []
    for place, (state, items) in enumerate(zip(states, own, strict=True)):
        attacked.progress("attacking merged exports", place, len(states))
        mine = [(0, record) for slot, record in rows if slot == place]
        with merged_export(attacked.release, state, Samples(tuple(items), (), attacked.seed)):
            found += attacked.views(mine, base_pass)
    return found  # rows stand in the order of people


def _on_answers(attacked: Attacked, newcomers: Newcomers, held: Held) -> list[Found]:
    """Whether a person's server answers as the record does: text alone, since it gives nothing else.

    `proper serve` answers greedily and refuses any other temperature, so there is nothing to sample.
    """
    attacked.progress("asking servers", 0, 0)
    release = _right(attacked, "stage2-mean" if attacked.grouped else "stage1", newcomers, (), None)
    found: list[Found] = []
    for control, states in held.by_control.items():
        counts = held.items if control == "none" else None
        right = _right(attacked, "stage3", newcomers, states, counts)
        scores = {"answered-right": right, "answered-right-minus-release": right - release}
        found += of_records("answers", scores, newcomers.truth, control)
    return found


def _right(
    attacked: Attacked,
    arm: str,
    newcomers: Newcomers,
    states: Sequence[State],
    counts: Sequence[int] | None,
) -> Floats:
    """Share of the right answer's words in what is answered, the question as the record has it: [n]."""
    task = attacked.candidates.task
    people: Sequence[State] = states or [{}] * len(newcomers.names)
    asked: list[tuple[int, Example, Query]] = []
    for (slot, _), item in zip(newcomers.rows, newcomers.items, strict=True):
        example = task.history_example(item)
        asked.append((slot, example, Query(item.id, example.prompt, example.answer)))
    answers = ArmModel(attacked.release, task).answers(asked, arm, people, items=counts)
    return np.array(
        [
            overlap(one.output, example.answer)
            for one, (_, example, _) in zip(answers, asked, strict=True)
        ]
    )


def overlap(answer: str, right: str) -> float:
    """Share of the right answer's distinct words that the answer holds; of a label 0 or 1."""
    wanted = set(right.casefold().split())
    return len(wanted & set(answer.casefold().split())) / max(1, len(wanted))
