"""One seed as an attacker finds it: the draw, the release that was trained on it, and the public base.

Every attack asks through this: what a model says of records, and what a person's own items give.

Letters: P people, n records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from client.person.arms import ArmModel
from client.person.learner import Learner
from proper_model.kernels import Encoded
from proper_model.model import base_pass, group_pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import StageSettings, Structure
from proper_model.stages import PooledUser
from proper_model.tasks import HistoryItem
from simulations.privacy.membership.found import Integers, Level, Truth
from simulations.privacy.membership.population import Candidates, Draw, draw_members
from simulations.privacy.membership.targets import (
    MakePass,
    ReleaseTarget,
    TokenView,
    look,
    public_model,
    train_release,
)

State = Mapping[str, Tensor]
"""`embedding` and `lora.<site>.A|B` of one person."""
Row = tuple[int, Encoded]
"""A slot of a pass, such as a place in a list of states, and a record."""
RELEASE_THINGS = ("population", "experts")


@dataclass(frozen=True)
class Records:
    """Records of the candidates in one list, and whose each is (a place among the candidates)."""

    encoded: tuple[Encoded, ...]
    items: tuple[HistoryItem, ...]
    owner: Integers

    def of(self, people: Sequence[int]) -> list[int]:
        """Places of the records of some people."""
        return [i for i, owner in enumerate(self.owner.tolist()) if owner in set(people)]

    def encoded_of(self, who: int) -> list[Encoded]:
        """One person's records."""
        return [self.encoded[i] for i in self.of([who])]


class Attacked:
    """One seed's release, and what can be asked of it.

    Args:
        shadows: how many models the attacker trains to compare with; 0: none.
    """

    def __init__(
        self,
        candidates: Candidates,
        structure: Structure,
        settings: StageSettings,
        *,
        seed: int,
        cache: Path,
        levels: Sequence[Level],
        shadows: int,
        progress: Progress,
    ) -> None:
        self.candidates, self.seed, self.levels = candidates, seed, levels
        self.structure, self.settings = structure, settings
        self.cache, self.shadows, self.progress = cache, shadows, progress
        self.draw: Draw = draw_members(candidates.users, seed)
        self.target: ReleaseTarget = train_release(
            candidates, self.draw, structure, settings, seed=seed, cache=cache, progress=progress
        )
        self.release: Release = self.target.release
        self.learner = Learner(self.release, progress=progress)
        self.tokens = settings.tokens_per_step
        self.public, self.encoder = public_model(candidates, structure, settings)
        self.known = self._records(self.draw.known)
        self.fresh = self._records(self.draw.fresh)

    def _records(self, items: Sequence[Sequence[HistoryItem]]) -> Records:
        task, flat = self.candidates.task, [item for own in items for item in own]
        owners = [place for place, own in enumerate(items) for _ in own]
        return Records(
            tuple(self.learner.encode(flat, task)), tuple(flat), np.array(owners, dtype=np.int64)
        )

    @property
    def sides(self) -> list[int]:
        """People on either side: pooled people who were held back are on none."""
        return [place for place, aside in enumerate(self.target.aside) if not aside]

    @property
    def trained(self) -> list[int]:
        """People who trained stages 1 and 2, by their places."""
        return [place for place, inside in enumerate(self.target.trained) if inside]

    @property
    def newcomers(self) -> list[int]:
        """People whose data the release has nothing of, by their places."""
        return [place for place, inside in enumerate(self.draw.pooled) if not inside]

    @property
    def grouped(self) -> bool:
        """Whether the release has experts and what belongs to them."""
        return not self.release.structure.population_only

    def pooled_users(self, people: Sequence[int]) -> list[PooledUser]:
        """What the coordinator has of people if they are pooled: known items, and queries."""
        task = self.candidates.task
        return [
            PooledUser(
                tuple(self.known.encoded_of(who)),
                tuple(
                    self.encoder.encode(task.query_example(query, training=True))
                    for query in self.candidates.users[who].queries
                ),
            )
            for who in people
        ]

    def truth(self, records: Records, places: Sequence[int]) -> Truth:
        """Of records at these places: members are those of people who trained the release."""
        owner = records.owner[list(places)]
        return Truth(np.array([self.target.trained[who] for who in owner], dtype=np.bool_), owner)

    def passes(self, release: Release) -> dict[str, MakePass]:
        """How a release is asked as each of the things that it is made of."""
        passes: dict[str, MakePass] = {"population": base_pass}
        if not release.structure.population_only:
            mean = release.mean_embedding[None]
            passes["experts"] = lambda slots: group_pass(slots, mean)
        return passes

    def public_views(self, records: Sequence[Encoded]) -> list[TokenView]:
        """What the public base says."""
        rows = [(0, record) for record in records]
        return look(self.public, self.encoder, rows, base_pass, self.tokens)

    def views(
        self, rows: Sequence[Row], make_pass: MakePass, release: Release | None = None
    ) -> list[TokenView]:
        """What the release, or another one, says under a pass."""
        model = self.learner.model if release is None else release.model()
        return look(model, self.encoder, rows, make_pass, self.tokens)

    def personal_views(
        self, states: Sequence[State], rows: Sequence[Row], release: Release | None = None
    ) -> list[TokenView]:
        """What stage 3 says of (place in `states`, record) pairs."""
        arms = ArmModel(release or self.release, self.candidates.task)
        make_pass = arms.make_pass("stage3", states)
        return look(arms.model, self.encoder, rows, make_pass, self.tokens)

    def embeddings(self, sets: Sequence[Sequence[Encoded]]) -> Tensor:
        """As `embeddings_over` the release."""
        return embeddings_over(self.release, sets, seed=self.seed, progress=self.progress)

    def own_embeddings(self, sets: Sequence[Sequence[Encoded]]) -> Tensor:
        """The same as the model takes them, where it is: [sets, tables, e]."""
        mean = self.release.mean_embedding
        return self.embeddings(sets).to(mean).reshape(len(sets), *mean.shape)


def embeddings_over(
    release: Release, sets: Sequence[Sequence[Encoded]], *, seed: int, progress: Progress
) -> Tensor:
    """An embedding from each set of records, found for all in the same way: [sets, tables * e].

    No prototype is offered to the fit: it would put people on the very points that are attacked.
    """
    bare = {**release.shared, "prototypes": release.shared["prototypes"][:0]}
    learner = Learner(replace(release, shared=bare), progress=progress)
    samples = [learner.split(records, seed=seed) for records in sets]
    return learner.fit_embeddings(samples)[0].flatten(1).double().cpu()
