"""Reading simulated devices' folders: what a simulation may do and a coordinator may not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from proper_model.data import read_users
from proper_model.errors import ReportError, StateError
from proper_model.evaluation import Prediction
from proper_model.federation.run_plan import DeviceEntry, RunPlan, file_sha256
from proper_model.tasks import Task, User, task_from_toml

if TYPE_CHECKING:
    from client.person.state import PersonalState

RESUME_HINT = (
    "go on with the run: proper-sim run ... --resume, or start it as proper-sim prepare says"
)
AGAIN_HINT = (
    "this run's results.json stays as it is; to score it anew, run it again with another --out"
)


def plan_task(plan: RunPlan) -> Task:
    """The task of a run under its template."""
    return task_from_toml(plan.task_toml, template=plan.template, where="plan: task_toml")


def read_device_user(entry: DeviceEntry, plan: RunPlan) -> User:
    """The one user of a device. Raises ReportError if the folder holds anything else."""
    users = read_users(entry.folder / "user.json", plan_task(plan))
    if len(users) != 1:
        raise ReportError(
            f"device {entry.device_id}: user.json holds {len(users)} users, expected one"
        )
    return users[0]


def predictions_file(entry: DeviceEntry, arm: str) -> Path:
    """Where a device writes its answers under an arm."""
    return entry.folder / "predictions" / f"{arm}.jsonl"


def read_predictions(path: Path) -> list[Prediction]:
    """Rows that a device wrote. Raises ReportError with file and line, never quoting a row."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ReportError(f"{path}: predictions are missing", hint=RESUME_HINT) from None
    return [_prediction(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _prediction(line: str, where: str) -> Prediction:
    try:
        row = json.loads(line)
        return Prediction(**row)
    except (ValueError, TypeError):
        raise ReportError(
            f"{where}: not a prediction; expected user_id, query_id, output, nll, answer_tokens "
            "and expected"
        ) from None


def fit_report(entry: DeviceEntry, arm: str) -> Mapping[str, float | int | str]:
    """What a device noted about its own fit for an arm; empty where it has no such state.

    Raises ReportError for a file that is none, or of an earlier version.
    """
    from client.person.stores import report_in

    try:
        return report_in(entry.folder / "state", arm)
    except FileNotFoundError:
        return {}
    except StateError as error:
        raise _unusable(entry, error) from None


def read_state(entry: DeviceEntry, arm: str, user_id: str) -> PersonalState:
    """A device's private state, checked against its own header as the device itself would.

    Raises ReportError.
    """
    from client.person.stores import FolderStore

    try:
        return FolderStore.found(entry.folder / "state", arm, user_id).read()
    except FileNotFoundError:
        raise ReportError(
            f"device {entry.device_id}: the private state of arm {arm} is missing", hint=RESUME_HINT
        ) from None
    except StateError as error:
        raise _unusable(entry, error) from None


def _unusable(entry: DeviceEntry, error: StateError) -> ReportError:
    return ReportError(f"device {entry.device_id}: {error.message}", hint=AGAIN_HINT)


def changed(entries: Iterable[DeviceEntry]) -> list[str]:
    """Ids of the devices whose data is not what the plan was made with."""
    return [
        entry.device_id
        for entry in entries
        if file_sha256(entry.folder / "user.json") != entry.user_sha256
    ]


def incomplete(entries: Iterable[DeviceEntry], arms: Iterable[str]) -> list[str]:
    """`device/arm` of every prediction file that is not there yet."""
    arms = list(arms)
    return [
        f"{entry.device_id}/{arm}"
        for entry in entries
        for arm in arms
        if not predictions_file(entry, arm).is_file()
    ]
