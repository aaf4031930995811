"""The control every gain needs: the same queries answered with somebody else's adapter.

A gain that survives `stage3-shuffled` is not personalization (docs/method.md 1.9). Here, and nowhere
else, private states cross between users: after the run, on the machine that simulates them all.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.publish import latest
from proper_model.errors import DataError
from proper_model.federation.run_plan import RunPlan, file_sha256
from proper_model.progress import Progress
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from proper_model.tasks import User
from simulations.outcome.devices import read_device_user, read_state

if TYPE_CHECKING:
    from client.person.state import PersonalState
    from proper_model.evaluation import Prediction
    from proper_model.release.contents import Release

SHUFFLED = "stage3-shuffled"
CONTROLS_FOLDER = "controls"


def derangement(count: int, *, seed: int) -> list[int]:
    """A permutation of range(count) without a fixed point, drawn by seed.

    Every derangement is equally likely: permutations are drawn until one has no fixed point,
    about e times in the mean. Raises DataError for fewer than two.
    """
    if count < 2:
        raise DataError(
            f"{count} test users: the shuffled control needs at least two",
            hint="leave stage3-shuffled out of --arms, or add test users",
        )
    generator = random.Random(f"{seed}/derangement")
    while True:
        order = list(range(count))
        generator.shuffle(order)
        if all(place != source for place, source in enumerate(order)):
            return order


def shuffled_states(
    users: Sequence[User], states: Mapping[str, PersonalState], *, seed: int
) -> dict[str, PersonalState]:
    """For every user the state of another one, over the whole test set."""
    order = derangement(len(users), seed=seed)
    return {
        user.user_id: states[users[source].user_id]
        for user, source in zip(users, order, strict=True)
    }


def control_file(plan: RunPlan, arm: str) -> Path:
    """Where a control's rows lie: beside the devices' folders, not in them."""
    return plan.out / CONTROLS_FOLDER / f"{arm}.jsonl"


def _key_file(plan: RunPlan, arm: str) -> Path:
    return control_file(plan, arm).with_suffix(".key")


def _key(plan: RunPlan) -> bytes:
    """A hash of what a control depends on: release, plan, and the devices' data as they are now."""
    release = latest(plan.server_folder / "release")
    content = {
        "bundle": release.bundle_id if release else "",
        "plan": plan.fingerprint(),
        "users": [file_sha256(entry.folder / "user.json") for entry in plan.devices],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest().encode()


def controls_missing(plan: RunPlan) -> bool:
    """True if the plan asks for the control and it was not computed for exactly this run."""
    if SHUFFLED not in plan.arms:
        return False
    try:
        stored = read_regular(_key_file(plan, SHUFFLED), limit_bytes=1024)
    except OSError:
        return True
    return stored != _key(plan) or not control_file(plan, SHUFFLED).is_file()


def run_controls(plan: RunPlan, progress: Progress) -> None:
    """Predict the shuffled control for every query of every device."""
    from client.person.arms import predict

    target = control_file(plan, SHUFFLED)
    users = [read_device_user(entry, plan) for entry in plan.devices]
    states = {
        user.user_id: read_state(entry, "stage3", user.user_id)
        for entry, user in zip(plan.devices, users, strict=True)
    }
    release = _release(plan)
    predictions = predict(
        release,
        users,
        "stage3",
        shuffled_states(users, states, seed=plan.seed),
        progress=lambda _arm, done, total: progress(SHUFFLED, done, total),
    )
    make_private_folder(target.parent)
    # As on a device: after a crash an old key beside new rows would say that they are finished.
    _key_file(plan, SHUFFLED).unlink(missing_ok=True)
    write_atomic(target, rows(predictions))
    write_atomic(_key_file(plan, SHUFFLED), _key(plan))


def rows(predictions: Sequence[Prediction]) -> bytes:
    """One JSON line a prediction."""
    lines = [json.dumps(asdict(p), ensure_ascii=False, allow_nan=False) for p in predictions]
    return "".join(line + "\n" for line in lines).encode()


def _release(plan: RunPlan) -> Release:
    """The release that node 0 verified and installed, loaded as the node would load it."""
    from client.node.host_work import Engine

    return Engine(plan.node_threads, plan.base).release(plan.node_folder(0))
