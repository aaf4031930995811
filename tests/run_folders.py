"""Hand-made run folders: a plan, devices with their user, predictions and private states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from client.person.state import PersonalState
from client.person.stores import Binding, FolderStore
from proper_model.evaluation.metrics import Prediction
from proper_model.federation.run_plan import DeviceEntry, RunPlan, file_sha256
from proper_model.settings.profile import StageSettings
from proper_model.settings.settings_io import to_mapping
from proper_model.storage.files import make_private_folder, write_atomic
from proper_model.tasks.records import HistoryItem, Query, User, users_to_json
from proper_model.tasks.task import load_task
from simulations.outcome.controls import rows
from simulations.outcome.devices import predictions_file

BUNDLE = "ab" * 32


def make_user(name: str, golds: Sequence[str], *, secret: str = "") -> User:
    history = tuple(
        HistoryItem(f"{name}h{i}", {"description": f"a film {secret}", "tag": gold})
        for i, gold in enumerate(golds)
    )
    prefix = "Which tag does this movie relate to among the following tags? "
    queries = tuple(
        Query(f"{name}q{i}", f"{prefix}] description: film {i} {secret}", gold)
        for i, gold in enumerate(golds)
    )
    return User(name, history, queries)


def make_run(
    out: Path,
    users: Sequence[User],
    outputs: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]],
    *,
    fold: int = 0,
    folds: int = 1,
    fits: Mapping[str, Mapping[str, float | int | str]] | None = None,
) -> RunPlan:
    """`outputs[arm][user_id]` holds (answer, summed loss) a query; every answer has two tokens."""
    make_private_folder(out / "server")
    entries = []
    for index, user in enumerate(users):
        folder = make_private_folder(out / "devices" / f"d{index:05d}")
        write_atomic(folder / "user.json", json.dumps(users_to_json((user,))).encode())
        sha256 = file_sha256(folder / "user.json")
        entries.append(DeviceEntry(device_id=f"d{index:05d}", folder=folder, user_sha256=sha256))
    write_atomic(out / "server" / "pooled.json", b"[]")
    plan = RunPlan(
        name="hand-made",
        task_toml=load_task("LaMP_2M").toml_text,
        template="short",
        base="org/base",
        preset="default",
        settings=to_mapping(StageSettings(name="by-hand")),
        fold=fold,
        folds=folds,
        seed=0,
        arms=tuple(outputs),
        pooled_file=out / "server" / "pooled.json",
        devices=tuple(entries),
        users_per_node=2,
        out=out,
        cache=out / "cache",
        root_public_key="00" * 32,
    )
    for arm, by_user in outputs.items():
        for entry, user in zip(entries, users, strict=True):
            predicted = [
                Prediction(user.user_id, query.id, answer, loss, 2)
                for query, (answer, loss) in zip(user.queries, by_user[user.user_id], strict=True)
            ]
            path = predictions_file(entry, arm)
            make_private_folder(path.parent)
            write_atomic(path, rows(predicted))
    for entry, user in zip(entries, users, strict=True):
        if fits is not None:
            save_user_state(entry, user, fits[user.user_id])
    plan.save()
    return plan


def save_user_state(
    entry: DeviceEntry, user: User, report: Mapping[str, float | int | str]
) -> PersonalState:
    """A stage 3 state whose embedding is the user's number in every place."""
    number = float(sum(user.user_id.encode()))
    state = PersonalState(
        BUNDLE, 0, seed=7, embedding=torch.full((1, 2), number), embedding_report=report
    )
    binding = Binding(BUNDLE, "stage3", user.user_id, seed=7, key="k")
    FolderStore(make_private_folder(entry.folder / "state"), binding).write(state)
    return state
