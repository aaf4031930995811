"""User-level privacy of a run of the pooled stages: what is refused, and what its release says of it.

The mechanism is `proper_model.engine.user_privacy`, the reasons are in docs/method.md 1.12.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from proper_model.accounting import Spent, account
from proper_model.errors import ConfigError
from proper_model.settings import (
    PrivacySettings,
    StageSettings,
    Structure,
    check_private_structure,
)
from proper_model.tasks import User

INFINITE = "infinite"  # epsilon where there is no guarantee: JSON has no infinity
COVERS = (
    "stage 1: the population LoRA",
    "stage 2: experts, routers and what infers embeddings",
)
DOES_NOT_COVER = (
    "the base model, which was trained before",
    "how many users were pooled, and that somebody else's data say the same of a person",
    "other releases: each spends its own budget, and their epsilons add up",
    "settings that were chosen by looking at what these users' data give under several of them",
    "caches and checkpoints on the server, which hold more than the release",
)


def spend(privacy: PrivacySettings, steps: int) -> Spent:
    """The budget of `steps` steps under these settings, and z if they name a target instead.

    Raises as `account`. It is not asked where nothing depends on it: reproducible settings with a
    noise multiplier.
    """
    if privacy.reproducible and privacy.noise_multiplier is not None:
        return Spent(privacy.noise_multiplier, math.inf, "none")
    found = account(
        sampling_rate=privacy.sampling_rate,
        steps=steps,
        delta=privacy.delta,
        noise_multiplier=privacy.noise_multiplier,
        epsilon=privacy.epsilon,
    )
    return dataclasses.replace(found, epsilon=math.inf) if privacy.reproducible else found


def spent_on(
    settings: StageSettings, structure: Structure, *, shuffled: bool, more: Sequence[User] = ()
) -> tuple[StageSettings, Spent | None]:
    """Settings whose privacy has a noise multiplier, and the budget; both as before without privacy.

    `more`: people who are not pooled and are to train stage 2 by their histories.

    Raises ConfigError for a structure or data that privacy cannot cover, and where no accountant is
    installed; before anything is trained.
    """
    privacy = settings.privacy
    if privacy is None:
        return settings, None
    check_private_structure(structure)
    if shuffled:
        raise ConfigError(
            "privacy is of whole users, and --stage2-users shuffled deals a user's items to others",
            hint="leave one of the two out",
        )
    if more:
        raise ConfigError(
            "privacy is of pooled users, and --stage2-users everybody has others' histories train stage 2, "
            "who would be fewer and have a budget of their own",
            hint="leave one of the two out",
        )
    spent = spend(privacy, privacy.steps(structure))
    noisy = privacy.with_noise(spent.noise_multiplier)
    return dataclasses.replace(settings, privacy=noisy), spent


def privacy_notes(
    settings: StageSettings, structure: Structure, spent: Spent | None, users: int
) -> dict[str, Any]:
    """What a release's notes say of it, under `privacy`; nothing where there is none."""
    privacy = settings.privacy
    if privacy is None or spent is None:
        return {}
    steps = {"population": privacy.population_steps}
    if not structure.population_only:
        steps["group"] = privacy.group_steps
    known = math.isfinite(spent.epsilon)
    said = {
        "unit": "user",
        "epsilon": spent.epsilon if known else INFINITE,
        "delta": privacy.delta,
        "neighbours": "pools that differ in one user, whose data are replaced by none",
        "accountant": spent.accountant,
        "noise_multiplier": spent.noise_multiplier,
        "clip_norm": privacy.clip_norm,
        "sampling_rate": privacy.sampling_rate,
        "steps": steps,
        "users": users,
        "covers": list(COVERS[: len(steps)]),
        "does_not_cover": list(DOES_NOT_COVER),
    }
    return {"privacy": said}
