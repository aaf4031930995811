"""One training under one promise: what newcomers gain by it, and how its people look to an attacker.

Newcomers are judged on their queries, the embedding inferred from their items as a device does it. An
attacker has everybody's texts, the release and the public base; the score of a candidate is how much lower
the release's loss is on what the candidate would have trained, under an embedding of the own items: the sum
of what stages 1 and 2 learned of a person, in one number that is named before anything is trained.

Letters: N newcomers, C candidates, m crafted canaries, K people of the positive control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client.person.arms import ArmModel
from client.person.learner import Learner, user_seed
from coordinator.pooled_stages import run_pooled_stages
from proper_model.engine import held_back_losses
from proper_model.engine.user_privacy import SeededChance
from proper_model.kernels import Encoded, mix_seed
from proper_model.model import AdaptedModel, MakePass, base_pass, group_pass
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.settings import PrivacySettings, StageSettings, Structure
from proper_model.stages.pooled_users import PooledUser
from proper_model.tasks import User
from proper_model.text import Encoder
from simulations.privacy.epsilon.crafted import crafted_scores
from simulations.privacy.epsilon.people import Roles
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import public_model, train_overfit

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]

UNCLIPPED = "unclipped"
CONTROL_PEOPLE = 12  # on either side of the positive control
CONTROL_ITEMS = 12  # of each
CRAFTED_STREAM = 11


@dataclass(frozen=True)
class Promise:
    """One way to train.

    Attributes:
        name: "1", "8", "inf" (the same mechanism without noise) or "unclipped" (training as it is
            without privacy).
        privacy: with a noise multiplier, draws and noise by seed; None: unclipped.
        epsilon: what the accountant says of it, were the noise the system's; infinite: nothing.
    """

    name: str
    privacy: PrivacySettings | None
    epsilon: float


@dataclass(frozen=True)
class Outcome:
    """What one seed's training gave; losses are means over a person's answers, in nats a token.

    Attributes:
        newcomer: `[N]` who each is, a place among all people.
        public, stage1, stage2: `[N]` losses on newcomers' queries.
        candidate: `[C]` who each is; inside: `[C]` whether trained.
        score: `[C]` the attacker's; untrained: the same of the public base alone.
        crafted: `[m]` sums of crafted users, of whom `crafted_inside` took part; empty without clipping.
        overfit: `[K]` the attacker's of an adapter that saw `overfit_inside` too often; once a seed.
    """

    newcomer: Integers
    public: Floats
    stage1: Floats
    stage2: Floats
    candidate: Integers
    inside: Flags
    score: Floats
    untrained: Floats
    crafted: Floats
    crafted_inside: Flags
    overfit_owner: Integers
    overfit: Floats
    overfit_inside: Flags

    def to_row(self) -> dict[str, Any]:
        """JSON's types; the inverse of `from_row`."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Outcome:
        """Raises KeyError, TypeError or ValueError for what is no row."""
        found: dict[str, Any] = {}
        for field in fields(cls):
            flags = field.name.endswith("inside")
            whole = field.name in ("newcomer", "candidate", "overfit_owner")
            kind = np.bool_ if flags else np.int64 if whole else np.float64
            found[field.name] = np.array(row[field.name], dtype=kind)
        return cls(**found)


@dataclass(frozen=True)
class Trainer:
    """One seed's people, and what is the same under every promise."""

    people: Candidates
    roles: Roles
    structure: Structure
    settings: StageSettings
    seed: int
    canaries: int
    cache: Path
    progress: Progress

    def train(self, promise: Promise) -> Outcome:
        """Stages 1 and 2 under a promise, and all measurements."""
        private = promise.privacy is not None
        release = run_pooled_stages(
            self.roles.pooled(self.people.users, empty_places=private),
            self.people.task,
            self.people.base,
            self.structure,
            replace(self.settings, privacy=promise.privacy),
            seed=self.seed,
            cache=self.cache,
            progress=self.progress,
        )
        self.progress("measuring", 0, 0)
        measured = _Measured(self, release)
        crafted, crafted_inside = self._crafted(promise.privacy)
        overfit = (_NOBODY, _NOTHING, _NOTHING.astype(bool)) if private else measured.overfit()
        return Outcome(
            *measured.newcomers(),
            *measured.candidates(),
            crafted,
            crafted_inside,
            *overfit,
        )

    def _crafted(self, privacy: PrivacySettings | None) -> tuple[Floats, Flags]:
        """The mechanism alone, with draws, noise and coins of their own."""
        if privacy is None:
            return _NOTHING, _NOTHING.astype(bool)
        rng = np.random.default_rng([self.seed, CRAFTED_STREAM])
        inside = rng.random(self.canaries) < 0.5
        chance = SeededChance(mix_seed(self.seed, CRAFTED_STREAM))
        steps = privacy.steps(self.structure)
        return crafted_scores(privacy, steps, inside, chance=chance), inside


_NOTHING: Floats = np.zeros(0)
_NOBODY: Integers = np.zeros(0, dtype=np.int64)


class _Measured:
    """What one release says of people, beside the public base."""

    def __init__(self, trainer: Trainer, release: Release) -> None:
        self.trainer, self.release = trainer, release
        self.task, self.users = trainer.people.task, trainer.people.users
        self.learner = Learner(release)
        self.public, self.encoder = public_model(
            trainer.people, trainer.structure, trainer.settings
        )
        self.tokens = trainer.settings.tokens_per_step

    def newcomers(self) -> tuple[Integers, Floats, Floats, Floats]:
        """Who, and losses on queries: of the public base, of stage 1, of stage 2."""
        places = self.trainer.roles.newcomers
        queries = [self._encoded(self.users[who]).queries for who in places]
        return (
            np.array(places, dtype=np.int64),
            self._losses(self.public, self.encoder, queries, base_pass),
            self._losses(self.learner.model, self.learner.encoder, queries, base_pass),
            self._under_own_embeddings(places, queries),
        )

    def candidates(self) -> tuple[Integers, Flags, Floats, Floats]:
        """Who, whether trained, the attacker's score, and that of what nobody trained."""
        roles, most = self.trainer.roles, self.trainer.settings.group.max_items_per_user
        items = [self._encoded(self.users[who]).capped(most) for who in roles.candidates]
        public = self._losses(self.public, self.encoder, items, base_pass)
        score = public - self._under_own_embeddings(roles.candidates, items)
        return np.array(roles.candidates, dtype=np.int64), roles.inside, score, -public

    def overfit(self) -> tuple[Integers, Floats, Flags]:
        """Some candidates of either side, and scores by an adapter that saw one side far too often."""
        roles = self.trainer.roles
        sides = [np.flatnonzero(roles.inside == side)[:CONTROL_PEOPLE] for side in (True, False)]
        chosen = [int(place) for side in sides for place in side]
        owners = [roles.candidates[place] for place in chosen]
        inside = roles.inside[chosen]
        items = [self._encoded(self.users[who]).history[-CONTROL_ITEMS:] for who in owners]
        seen = [item for own, member in zip(items, inside, strict=True) if member for item in own]
        mean = self.release.mean_embedding[None]
        states = train_overfit(self.learner, [seen], mean, seed=self.trainer.seed)
        arms = ArmModel(self.release, self.task)
        make_pass = arms.make_pass("stage3", states)
        # The adapter is one person's, in slot 0, whoever's item it is.
        found = self._losses(arms.model, arms.encoder, items, lambda slots: make_pass(slots * 0))
        public = self._losses(self.public, self.encoder, items, base_pass)
        return np.array(owners, dtype=np.int64), public - found, inside

    def _under_own_embeddings(
        self, places: Sequence[int], samples: Sequence[Sequence[Encoded]]
    ) -> Floats:
        """Losses of stage 2, each person's embedding inferred from the own history."""
        own = [
            self.learner.split(
                self._encoded(user).history, seed=user_seed(self.trainer.seed, user.user_id)
            )
            for user in (self.users[who] for who in places)
        ]
        embeddings, _ = self.learner.fit_embeddings(own)
        return self._losses(
            self.learner.model,
            self.learner.encoder,
            samples,
            lambda slots: group_pass(slots, embeddings),
        )

    def _losses(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        samples: Sequence[Sequence[Encoded]],
        make_pass: MakePass,
    ) -> Floats:
        """Every person's mean loss; a slot is a place in `samples`, and nobody's are empty."""
        rows = [(slot, one) for slot, own in enumerate(samples) for one in own]
        losses: Tensor = held_back_losses(model, encoder, rows, make_pass, self.tokens)
        slots = np.array([slot for slot, _ in rows])
        return np.bincount(slots, weights=losses.numpy()) / np.bincount(slots)

    def _encoded(self, user: User) -> PooledUser:
        """Tokens as the pooled stages have them."""
        return PooledUser(
            tuple(self.encoder.encode(self.task.history_example(item)) for item in user.history),
            tuple(
                self.encoder.encode(self.task.query_example(query, training=True))
                for query in user.queries
            ),
        )
