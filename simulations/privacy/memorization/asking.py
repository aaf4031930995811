"""What is asked of a target about some people, and what the answers come to: canaries and own items.

A canary that is planted nowhere is the negative control of all targets. Records are the people's own items:
members are those that trained or were there to be found, the others are the same people's items that were
kept apart. Letters: n canaries or records, R candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import DataError
from proper_model.tasks import Example, HistoryItem, Task, counted
from simulations.privacy.memorization.planting import Canary, Planted
from simulations.privacy.memorization.recall import Floats, Integers, Recall, Target, exposures
from simulations.privacy.statistics.measures import Scored
from simulations.privacy.statistics.shares import Control


@dataclass(frozen=True)
class CanariesFound:
    """Canaries of one thing in one seed, all planted as often: `[n]` each.

    Attributes:
        owner: whose it is, a place among the candidates.
        exposure: by the target's probabilities, in bits.
        against_public: by their ratio to the public base's, in bits.
        greedy: 1 where the secret is answered at temperature 0, else 0.
        sampled: chance that it is among so many answers at temperature 1.
    """

    thing: str
    insertions: int
    control: Control
    owner: Integers
    exposure: Floats
    against_public: Floats
    greedy: Floats
    sampled: Floats

    @property
    def name(self) -> str:
        """What tells it from the other rows of a file."""
        return f"{self.thing}/{self.insertions}/{self.control}"


@dataclass(frozen=True)
class RecordsFound:
    """Own items of one thing in one seed.

    Attributes:
        produced: `[n]`, 1 where the answer is produced word for word, or seen.
    """

    thing: str
    attack: str
    control: Control
    scored: Scored
    produced: Floats

    @property
    def name(self) -> str:
        """What tells it from the other rows of a file."""
        return f"{self.thing}/records/{self.attack}/{self.control}"


@dataclass
class Found:
    """All that one seed found."""

    canaries: list[CanariesFound] = field(default_factory=list)
    records: list[RecordsFound] = field(default_factory=list)


@dataclass(frozen=True)
class Questions:
    """Canaries and records of some people; slots are places in `people`, owners are the people."""

    people: tuple[int, ...]
    canaries: tuple[tuple[int, Canary], ...]
    records: tuple[tuple[int, Example], ...]
    member: NDArray[np.bool_]

    def secrets(self, task: Task) -> list[tuple[int, Example]]:
        """Every canary's secret and candidates: 1 + R rows each."""
        return [(slot, one) for slot, canary in self.canaries for one in canary.asked(task)]

    def only_planted(self) -> Questions:
        """Without the canaries that are not there."""
        return replace(self, canaries=tuple(row for row in self.canaries if row[1].times))

    def check(self, insertions: Sequence[int]) -> None:
        """Raise DataError unless there are canaries of every number of insertions."""
        missing = sorted(set(insertions) - {canary.times for _, canary in self.canaries})
        if missing:
            raise DataError(
                f"nobody of {len(self.people)} people has a canary that is planted {counted(missing[0], 'time')}",
                hint="take more --people, or fewer --insertions",
            )

    def owners(self, slots: Sequence[int]) -> Integers:
        """Whose rows of these slots are."""
        return np.array([self.people[slot] for slot in slots], dtype=np.int64)


def questions(planted: Planted, people: Sequence[int], task: Task) -> Questions:
    """All that is asked about some people: planted canaries, absent ones, own items, items kept apart."""
    canaries = [
        (slot, kind[who])
        for kind in (planted.planted, planted.absent)
        for slot, who in enumerate(people)
    ]

    def examples(items: Sequence[Sequence[HistoryItem]]) -> list[tuple[int, Example]]:
        return [
            (slot, task.history_example(item))
            for slot, who in enumerate(people)
            for item in items[who]
        ]

    own, apart = examples(planted.own), examples(planted.draw.fresh)
    member = np.arange(len(own) + len(apart)) < len(own)
    return Questions(tuple(people), tuple(canaries), (*own, *apart), member)


def ask_canaries(
    thing: str,
    control: Control,
    target: Target,
    asked: Questions,
    task: Task,
    *,
    public: Floats | None,
    samples: int,
) -> list[CanariesFound]:
    """What a target gives away of canaries, by how often they were planted.

    Args:
        public: log-probabilities of the public base for the rows of `asked.secrets`; None: it has none.
    """
    said = target(asked.secrets(task))
    rows = len(asked.canaries)
    own = said.log_prob.reshape(rows, -1)
    found = {
        "exposure": exposures(own[:, 0], own[:, 1:]),
        "greedy": said.greedy.reshape(rows, -1)[:, 0].astype(np.float64),
        "sampled": said.sampled(samples).reshape(rows, -1)[:, 0],
    }
    ratio = own if public is None else own - public.reshape(rows, -1)
    found["against_public"] = exposures(ratio[:, 0], ratio[:, 1:])
    owner = asked.owners([slot for slot, _ in asked.canaries])
    times = np.array([canary.times for _, canary in asked.canaries])
    return [
        CanariesFound(
            thing,
            count,
            control if count else "negative",
            owner[times == count],
            **{name: values[times == count] for name, values in found.items()},
        )
        for count in sorted(set(times.tolist()))
    ]


def ask_records(
    thing: str, control: Control, target: Target, asked: Questions, *, public: Recall | None
) -> list[RecordsFound]:
    """How well a model tells own items from those kept apart, by its loss, and by that minus the public base's.

    Args:
        public: what the public base says of the records; None: the target is that itself.
    """
    said = target(asked.records)
    scores = {"loss": said.log_prob / said.tokens}
    if public is not None:
        scores["loss-minus-public"] = (said.log_prob - public.log_prob) / said.tokens
    return [_records(thing, attack, control, asked, said, of) for attack, of in scores.items()]


def look_for_records(
    thing: str, control: Control, target: Target, asked: Questions
) -> list[RecordsFound]:
    """The same of a server that saw prompts: a record is there or not."""
    said = target(asked.records)
    return [_records(thing, "seen", control, asked, said, said.greedy.astype(np.float64))]


def _records(
    thing: str, attack: str, control: Control, asked: Questions, said: Recall, score: Floats
) -> RecordsFound:
    owner = asked.owners([slot for slot, _ in asked.records])
    scored = Scored(score, asked.member, owner)
    return RecordsFound(thing, attack, control, scored, said.greedy.astype(np.float64))
