"""Users and predictions of a finished run, or of all folds of one, from devices' folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import ReportError
from proper_model.evaluation import Prediction
from proper_model.federation.run_plan import ARMS_OUTSIDE_NODES, PLAN_FILE, DeviceEntry, RunPlan
from proper_model.tasks import Task, User
from simulations.outcome.controls import control_file
from simulations.outcome.devices import (
    plan_task,
    predictions_file,
    read_device_user,
    read_predictions,
)


@dataclass(frozen=True)
class RunData:
    """One scored set: users of one run, or of all folds. `devices` names each user's device."""

    plans: tuple[RunPlan, ...]
    task: Task
    users: tuple[User, ...]
    devices: Mapping[str, str]
    predictions: Mapping[str, tuple[Prediction, ...]]

    @property
    def plan(self) -> RunPlan:
        return self.plans[0]


def run_plans(out: Path) -> tuple[RunPlan, ...]:
    """The plan in `out`, or those of all its folds in order."""
    if (out / PLAN_FILE).is_file():
        return (RunPlan.load(out / PLAN_FILE),)
    found = sorted(out.glob(f"fold-*/{PLAN_FILE}"), key=lambda p: int(p.parent.name[5:]))
    plans = tuple(RunPlan.load(path) for path in found)
    if not plans:
        raise ReportError(
            f"{out}: no run plan in it", hint="give the --out folder of proper-sim run"
        )
    if len(plans) != plans[0].folds:
        raise ReportError(
            f"{out}: {len(plans)} of {plans[0].folds} folds have been prepared",
            hint="go on with the run: --resume",
        )
    return plans


def load_run(out: Path) -> RunData:
    """Users and predictions of all devices, controls included where they were computed."""
    plans = run_plans(out)
    task = plan_task(plans[0])
    users: list[User] = []
    devices: dict[str, str] = {}
    predictions: dict[str, list[Prediction]] = {arm: [] for arm in plans[0].arms}
    for plan in plans:
        for entry in plan.devices:
            user = read_device_user(entry, plan)
            if user.user_id in devices:
                raise ReportError(f"{out}: a user is on two devices, one of them {entry.device_id}")
            users.append(user)
            devices[user.user_id] = device_name(entry, plan, plans)
        for arm in plan.arms:
            predictions[arm] += arm_predictions(plan, arm)
    return RunData(
        plans, task, tuple(users), devices, {arm: tuple(p) for arm, p in predictions.items()}
    )


def arm_predictions(plan: RunPlan, arm: str) -> list[Prediction]:
    """All devices' rows of one arm."""
    if arm in ARMS_OUTSIDE_NODES:
        return read_predictions(control_file(plan, arm))
    return [row for entry in plan.devices for row in read_predictions(predictions_file(entry, arm))]


def device_name(entry: DeviceEntry, plan: RunPlan, plans: Sequence[RunPlan]) -> str:
    """A device's name in a set of plans: its id, after its fold's number where there are several."""
    return f"f{plan.fold}-{entry.device_id}" if len(plans) > 1 else entry.device_id
