"""What is trained on pooled users of whom some mean harm: a release, or W_l alone over an honest one.

    experts   stages 1 and 2 of everybody; W_l, which nothing reads there, is left out
    router    stages 1 and 2 of honest users, and a W_l (3a-3b) whose cohort has the malicious ones

So what `router` shows is W_l's alone: it can only choose among experts who never met the trigger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from client.person.learner import Learner
from coordinator.pooled_stages import run_pooled_stages
from proper_model.model import AdaptedModel
from proper_model.progress import Progress
from proper_model.release.contents import Release, shared_tensors
from proper_model.settings import StageSettings, Structure, UserRouting
from proper_model.stages import pool, router_cohort, train_lora_router
from proper_model.tasks import User
from simulations.privacy.membership.population import Candidates
from simulations.privacy.membership.targets import train_adapters

OTHER_START = 5  # of a W_l that is trained alone


@dataclass(frozen=True)
class Bench:
    """How everything of one seed is trained."""

    candidates: Candidates
    structure: Structure
    seed: int
    cache: Path
    progress: Progress

    def release(self, users: Sequence[User], settings: StageSettings) -> Release:
        """Stages 1 and 2 on these users."""
        routed = replace(
            self.structure,
            user_routing=UserRouting.USER_AWARE,
            private_lora_router=False,
        )
        return run_pooled_stages(
            users,
            self.candidates.task,
            self.candidates.base,
            routed,
            settings,
            seed=self.seed,
            cache=self.cache,
            progress=self.progress,
        )

    def with_router(
        self, honest: Release, users: Sequence[User], settings: StageSettings
    ) -> Release:
        """The honest release with a W_l trained on the cohort out of `users`.

        The cohort's embeddings are fitted to what it gives, as a device's are.
        """
        self.progress("router", 0, 0)
        start = AdaptedModel(
            honest.base,
            self.structure,
            generator=torch.Generator().manual_seed(self.seed + OTHER_START),
        )
        fresh = {n: t for n, t in shared_tensors(start).items() if n.endswith(".lora")}
        release = replace(
            honest,
            structure=self.structure,
            settings=settings,
            shared={**honest.shared, **{name: tensor.clone() for name, tensor in fresh.items()}},
        )
        learner = Learner(release, progress=self.progress)
        data = pool(users, self.candidates.task, learner.encoder, settings, self.seed)
        cohort = [
            data.trained[place]
            for place in router_cohort(data.trained, settings.router.cohort, self.seed)
        ]
        cap = settings.group.max_items_per_user
        own = [learner.split(user.history[-cap:], seed=self.seed) for user in cohort]
        embeddings, _ = learner.fit_embeddings(own)
        model = release.model()
        train_lora_router(
            model,
            learner.encoder,
            cohort,
            embeddings,
            settings,
            seed=self.seed,
            progress=lambda done, total: self.progress("router", done, total),
        )
        trained = {n: t for n, t in shared_tensors(model).items() if n.endswith(".lora")}
        return replace(release, shared={**release.shared, **trained})


def states_of(
    release: Release, people: Sequence[User], *, adapters: bool, seed: int, progress: Progress
) -> list[Mapping[str, torch.Tensor]]:
    """Newcomers' private parts over a release, as devices make them; without adapters embeddings alone."""
    learner = Learner(release, progress=progress)
    items = [(user.user_id, learner.encode(user.history, release.task)) for user in people]
    if adapters:
        return list(train_adapters(learner, items, seed=seed).states)
    embeddings, _ = learner.fit_embeddings([learner.split(own, seed=seed) for _, own in items])
    return [{"embedding": own.cpu().clone()} for own in embeddings]
