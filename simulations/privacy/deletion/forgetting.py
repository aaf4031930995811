"""A device forgets items: adapters before and after, against adapters that never saw the items.

Every newcomer adapts to all known items, forgets a quarter of them, and trains again as `proper forget` does,
from what was stored. The reference begins with an empty state and the same seed, and only ever has the
other items; its adapter and embedding must be the same numbers. Members are forgotten items, others are
fresh ones, which never trained anything.

Letters: P people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from client.person import adapting
from client.person.adapting import Histories, histories_of
from client.person.learner import user_seed
from client.person.state import PersonalState
from proper_model.tasks import HistoryItem
from simulations.privacy.deletion.found import Attempt, Retrained, Scope, difference
from simulations.privacy.membership.attacked import Attacked, Row
from simulations.privacy.membership.found import Truth, record_scores
from simulations.privacy.membership.targets import TokenView, train_overfit
from simulations.privacy.statistics.shares import Control

FORGOTTEN_SHARE = 0.25
ADAPTER = "adapter"


def draw_forgotten(items: Sequence[HistoryItem], seed: int, who: int) -> tuple[str, ...]:
    """Ids of a quarter of a person's items, by seed."""
    rng = np.random.default_rng([seed, who, 8])
    chosen = rng.permutation(len(items))[: max(1, round(FORGOTTEN_SHARE * len(items)))]
    return tuple(items[place].id for place in sorted(chosen.tolist()))


@dataclass(frozen=True)
class Forgetting:
    """People's states: with the items, after forgetting them, and of somebody who never had them: [P] each."""

    gone: tuple[tuple[str, ...], ...]
    before: tuple[PersonalState, ...]
    after: tuple[PersonalState, ...]
    never: tuple[PersonalState, ...]

    @classmethod
    def of(cls, attacked: Attacked) -> Forgetting:
        """Train all three, everybody in shared passes."""
        task, people = attacked.candidates.task, attacked.newcomers
        items = [attacked.draw.known[who] for who in people]
        gone = tuple(
            draw_forgotten(own, attacked.seed, who) for own, who in zip(items, people, strict=True)
        )
        empty = [
            PersonalState(
                "", 0, seed=user_seed(attacked.seed, attacked.candidates.users[who].user_id)
            )
            for who in people
        ]
        left = [
            tuple(item for item in own if item.id not in ids)
            for own, ids in zip(items, gone, strict=True)
        ]
        before = _learned(attacked, empty, [{task.name: (task, own)} for own in items])
        forgot = [
            adapting.without(state, task.name, ids) for state, ids in zip(before, gone, strict=True)
        ]
        after = _learned(attacked, forgot, [histories_of(state) for state in forgot])
        never = _learned(attacked, empty, [{task.name: (task, own)} for own in left])
        return cls(gone, before, after, never)

    def retrained(self, name: str) -> Retrained:
        """Adapters after forgetting against those that never had the items."""
        exact = [
            difference(after.private(name), never.private(name))
            for after, never in zip(self.after, self.never, strict=True)
        ]
        changed = [
            difference(after.private(name), before.private(name))[1]
            for after, before in zip(self.after, self.before, strict=True)
        ]
        different = sum(differs for differs, _ in exact)
        distance = max(gap for _, gap in exact)
        return Retrained(ADAPTER, len(exact), different, distance, max(changed))


def on_forgetting(attacked: Attacked) -> list[Attempt | Retrained]:
    """Attacks on adapters before and after, with their controls, and how exact forgetting is."""
    attacked.progress("forgetting", 0, 0)
    made, name = Forgetting.of(attacked), attacked.candidates.task.name
    rows, truth = _rows(attacked, made.gone)
    public = attacked.public_views([record for _, record in rows])
    states: dict[tuple[Scope, Control], Sequence[Mapping[str, Tensor]]] = {
        ("before", "none"): [state.private(name) for state in made.before],
        ("after", "none"): [state.private(name) for state in made.after],
        ("before", "positive"): _overfit(attacked, made.gone),
        ("before", "negative"): [state.private(name) for state in made.never],
    }
    views = {key: attacked.personal_views(own, rows) for key, own in states.items()}
    controls: tuple[Control, ...] = ("positive", "negative")
    for control in controls:
        views["after", control] = views["before", control]
    return [*_attempts(views, public, truth), made.retrained(name)]


def _attempts(
    views: Mapping[tuple[Scope, Control], Sequence[TokenView]],
    public: Sequence[TokenView],
    truth: Truth,
) -> list[Attempt]:
    return [
        Attempt(scope, ADAPTER, attack, "record", control, truth.scored(score))
        for (scope, control), view in views.items()
        for attack, score in record_scores(view, public).items()
    ]


def _rows(attacked: Attacked, gone: Sequence[Sequence[str]]) -> tuple[list[Row], Truth]:
    """Everybody's forgotten and fresh items, each asked of the own adapter."""
    rows: list[Row] = []
    member: list[bool] = []
    owner: list[int] = []
    for slot, (who, ids) in enumerate(zip(attacked.newcomers, gone, strict=True)):
        for records, forgotten in ((attacked.known, True), (attacked.fresh, False)):
            for place in records.of([who]):
                if not forgotten or records.items[place].id in ids:
                    rows.append((slot, records.encoded[place]))
                    member.append(forgotten)
                    owner.append(who)
    return rows, Truth(np.array(member, dtype=np.bool_), np.array(owner, dtype=np.int64))


def _learned(
    attacked: Attacked, states: Sequence[PersonalState], histories: Sequence[Histories]
) -> tuple[PersonalState, ...]:
    members = [
        adapting.member_of(attacked.learner, *one) for one in zip(states, histories, strict=True)
    ]
    (found,) = adapting.learn(attacked.learner, members, adapting.ADAPTER).values()
    return tuple(found)


def _overfit(attacked: Attacked, gone: Sequence[Sequence[str]]) -> Sequence[Mapping[str, Tensor]]:
    """Adapters that saw the forgotten items, and nothing else, far too often."""
    records = attacked.known
    sets = [
        [records.encoded[place] for place in records.of([who]) if records.items[place].id in ids]
        for who, ids in zip(attacked.newcomers, gone, strict=True)
    ]
    means = attacked.release.mean_embedding[None].repeat(len(sets), 1, 1)
    return train_overfit(attacked.learner, sets, means, seed=attacked.seed)
