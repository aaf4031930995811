"""Write everything a simulated federation starts from: plan, pooled users, device folders, keys.

A device folder holds that one user's data and the pinned trust root and nothing of anybody else.
`plan.json` is written last, so a folder with a plan is a complete one. Layout: see
`proper_model.federation.run_plan`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from coordinator.run_keys import make_run_root
from proper_model.base.model_types import LARGEST_EMBEDDED_PARAMETERS
from proper_model.checks import read_config
from proper_model.federation.machine import useful_threads
from proper_model.federation.run_plan import DeviceEntry, RunPlan
from proper_model.settings import to_mapping
from proper_model.storage.files import make_private_folder, storage_errors, write_atomic
from proper_model.tasks import User, users_to_json
from simulations.setup.calibrate import shape_of
from simulations.setup.options import RunOptions
from simulations.setup.placement import (
    Placement,
    base_bytes,
    check_choices,
    choose_placement,
    this_machine,
)
from simulations.setup.run_folder import (
    TRUTH_FILE,
    check_owner,
    check_same,
    existing_plan,
    made_folder,
)
from simulations.setup.sources import Progress, Source, load_source


@dataclass(frozen=True)
class Prepared:
    """The content of a run's folder before it is written."""

    plan: RunPlan
    files: Mapping[Path, bytes]


def prepare(options: RunOptions, progress: Progress) -> RunPlan:
    """Check everything, then write OUT, or with `resume` compare OUT with what would be written.

    Raises ConfigError if OUT is in use, or holds another run than the one to resume; StorageError
    if it cannot be written.
    """
    out = options.out.resolve()
    # Before data are read: they may take minutes.
    check_choices(this_machine().cores, actors=options.actors, threads=None)
    for folder in (out, options.cache_folder):
        check_owner(folder)
    with storage_errors(out):
        existing = existing_plan(out, resume=options.resume)
        # Made first: a place that cannot be written is told before a base is trained for it.
        with made_folder(out):
            prepared = build(options, load_source(options, progress), out)
            if existing is not None:
                check_same(existing, prepared.plan, prepared.files)
                return existing
            write(prepared, progress)
    return prepared.plan


def write(prepared: Prepared, progress: Progress) -> None:
    """Write every file of a new run, the plan last."""
    progress("writing devices", 0, len(prepared.files))
    for done, (path, data) in enumerate(prepared.files.items(), start=1):
        make_private_folder(path.parent)
        write_atomic(path, data)
        progress("writing devices", done, len(prepared.files))
    prepared.plan.save()


def build(options: RunOptions, source: Source, out: Path) -> Prepared:
    """Plan and files of the run that `options` describe."""
    shape = shape_of(read_config(source.config_base))
    # Before anything is written: a contradiction must leave OUT free.
    placement = place(options, source, len(source.population.test), shape.hidden)
    run_root = make_run_root(out / "server", now=datetime.now(UTC))
    people = [_json((user,)) for user in source.population.test]
    entries = tuple(
        DeviceEntry(
            device_id=f"d{index:05d}",
            folder=out / "devices" / f"d{index:05d}",
            user_sha256=hashlib.sha256(data).hexdigest(),
        )
        for index, data in enumerate(people)
    )
    files = {out / "server" / "pooled.json": _json(source.population.pooled)}
    if source.truth is not None:
        files[out / TRUTH_FILE] = source.truth.encode()
    for entry, data in zip(entries, people, strict=True):
        files[entry.folder / "user.json"] = data
        files[entry.folder / "root.json"] = run_root.root_bytes
    plan = RunPlan(
        name=source.name,
        task_toml=source.task.toml_text,
        template=source.task.template,
        base=source.base,
        embed_base=shape.parameters <= LARGEST_EMBEDDED_PARAMETERS,
        preset=options.preset,
        settings=to_mapping(source.settings),
        split=source.people,
        fold=options.fold or 0,
        folds=options.folds,
        seed=options.seed,
        arms=options.arms,
        pooled_file=out / "server" / "pooled.json",
        devices=entries,
        users_per_node=placement.users_per_node,
        out=out,
        cache=options.cache_folder.resolve(),
        root_public_key=run_root.public_key,
        node_memory_bytes=memory_bytes(options.memory_budget),
        actors=options.actors,
        node_threads=placement.threads,
        server_threads=options.threads or useful_threads(shape.hidden),
    )
    return Prepared(plan, files)


def _json(users: Sequence[User]) -> bytes:
    return (json.dumps(users_to_json(tuple(users)), ensure_ascii=False) + "\n").encode()


def place(options: RunOptions, source: Source, users: int, hidden: int) -> Placement:
    """Processes and nodes for `users` devices on this machine. Raises ConfigError."""
    machine = this_machine()
    return choose_placement(
        users=users,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        base=base_bytes(source.base, source.settings),
        gpu_memory_bytes=machine.gpu_memory_bytes,
        most_threads=useful_threads(hidden),
        training_bytes=memory_bytes(options.memory_budget),
        actors=options.actors,
        users_per_node=options.users_per_node,
    )


def memory_bytes(budget: float | None) -> int | None:
    """Bytes of a budget in GiB."""
    return None if budget is None else max(1, int(budget * 1024**3))
