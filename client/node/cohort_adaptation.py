"""Stage 3: private adaptation of one user, or of a cohort on a simulation host.

One pure function: a release, users and a seed in; private states out. Nothing is logged, sent or
kept between calls, and a user's result depends on that user's data, id and the seed alone. On a
device the cohort has one member; a simulation host passes many, who share passes over the base.

First `e_u` is fitted on the user's own history, then (A_u, B_u), each judged on held-back own items
(PROPER eq. 11-13; docs/method.md 1.5 f and 1.7 3c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from client.person.learner import (
    Learner,
    Progress,
    embedding_report,
    lora_report,
    samples_report,
    user_seed,
)
from proper_model.errors import ConfigError
from proper_model.release.contents import Release
from proper_model.tasks import User

# Arms with a private state, and whether it holds an embedding and an adapter.
STATEFUL_ARMS: Mapping[str, tuple[bool, bool]] = {
    "stage2": (True, False),
    "stage3": (True, True),
    "oppu-mlp": (False, True),
}
STATELESS_ARMS = ("stage1", "stage2-mean")


@dataclass(frozen=True)
class UserState:
    """What one user owns after adaptation. Never leaves the device.

    Attributes:
        tensors: `embedding` [tables, e] and `lora.<site>.A|B` [r, d_in] / [d_out, r], as the arm
            needs.
        report: numbers about the fit: losses per answer token, distances, choices.
    """

    user_id: str
    arm: str
    bundle_id: str
    tensors: Mapping[str, Tensor]
    report: Mapping[str, float | int | str]


def adapt(
    release: Release,
    users: Sequence[User],
    *,
    arms: Sequence[str],
    bundle_id: str,
    seed: int,
    checkpoint: Path | None = None,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], UserState]:
    """Adapt every user; one state for each (arm, user id) of the arms that have one.

    Args:
        arms: any of the known arms; those without private state are skipped.
        checkpoint: path prefix of resumable training state, in the caller's private folder.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and on a
            CPU no limit but the profile's `tokens_per_step`.

    Raises:
        ConfigError: for an unknown arm.
        TaskError, DataError: if a history item does not fit the release's task.
    """
    wanted = [arm for arm in arms if arm in STATEFUL_ARMS]
    unknown = sorted(set(arms) - set(STATEFUL_ARMS) - set(STATELESS_ARMS))
    if unknown:
        raise ConfigError(f"unknown arms {unknown}", hint=f"known: {known_arms()}")
    if not users or not wanted:
        return {}
    if progress:
        progress("tokenize", 0, 0)
    learner = Learner(release, checkpoint=checkpoint, memory_bytes=memory_bytes, progress=progress)
    encoded = [learner.encode(user.history, release.task) for user in users]
    seeds = [user_seed(seed, user.user_id) for user in users]
    samples = [learner.split(items, seed=one) for items, one in zip(encoded, seeds, strict=True)]
    states: dict[tuple[str, str], UserState] = {}
    embeddings, fits = None, None
    if any(STATEFUL_ARMS[arm][0] for arm in wanted):
        embeddings, fits = learner.fit_embeddings(samples)
    for arm in wanted:
        has_embedding, has_lora = STATEFUL_ARMS[arm]
        lora, lora_fits = None, None
        if has_lora:
            lora, lora_fits = learner.train_loras(
                samples, embeddings if has_embedding else None, phase=arm
            )
        for u, user in enumerate(users):
            tensors: dict[str, Tensor] = {}
            report = samples_report(samples[u])
            if has_embedding:
                assert embeddings is not None and fits is not None
                tensors["embedding"] = embeddings[u].cpu().clone()
                report |= embedding_report(fits[u])
            if lora is not None and lora_fits is not None:
                tensors |= learner.lora_tensors(lora, u)
                report |= lora_report(lora_fits[u])
            states[arm, user.user_id] = UserState(user.user_id, arm, bundle_id, tensors, report)
    return states


def known_arms() -> str:
    """Names of all arms, for messages."""
    return ", ".join((*STATELESS_ARMS, *STATEFUL_ARMS))
