"""Write everything a simulated federation starts from: plan, pooled users, device folders, keys.

A device folder holds that one user's data and the pinned trust root and nothing of anybody else.
`plan.json` is written last, so a folder with a plan is a complete one. Layout: see
`proper_model.federation.run_plan`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from coordinator.consents import read_consents
from coordinator.run_keys import make_run_root
from proper_model.data import parse_split
from proper_model.errors import ConfigError
from proper_model.federation.machine import useful_threads
from proper_model.federation.run_plan import DeviceEntry, RunPlan
from proper_model.progress import Progress
from proper_model.settings import Stage2People, to_mapping
from proper_model.storage.files import make_private_folder, storage_errors, write_atomic
from proper_model.tasks import User, counted, users_to_json
from simulations.setup.options import CONTROL_ARMS, Machinery, OneRun
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
from simulations.setup.sources import Source, load_source

FEWEST_SHUFFLED = 2  # test users


@dataclass(frozen=True)
class Prepared:
    """The content of a run's folder before it is written."""

    plan: RunPlan
    files: Mapping[Path, bytes]


def prepare(run: OneRun, progress: Progress) -> RunPlan:
    """Check everything, then write OUT, or with `resume` compare OUT with what would be written.

    Raises ConfigError if OUT is in use, or holds another run than the one to resume; StorageError
    if it cannot be written.
    """
    places, out = run.places, run.places.out.resolve()
    # Before data are read: they may take minutes.
    check_choices(this_machine().cores, actors=run.machinery.actors, threads=None)
    check_control(run)
    for folder in (out, places.cache):
        check_owner(folder)
    with storage_errors(out):
        existing = existing_plan(places)
        # Made first: a place that cannot be written is told before a base is trained for it.
        with made_folder(out):
            prepared = build(run, load_source(run.reading, progress))
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


def build(run: OneRun, source: Source) -> Prepared:
    """Plan and files of a run."""
    # Before anything is written: a contradiction must leave OUT free.
    check_control(run, source)
    placement = place(run.machinery, source)
    out = run.places.out.resolve()
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
    if run.reading.people.stage2_users is Stage2People.EVERYBODY:
        unasked = [replace(user, queries=()) for user in _agreed(run, source.population.test)]
        files[out / "server" / "personalized.json"] = _json(unasked)
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
        embed_base=source.found.is_embedded,
        preset=run.training.preset,
        population_only=run.training.structure.population_only,
        stage2_users=run.reading.people.stage2_users,
        settings=to_mapping(source.settings),
        split=source.people,
        fold=run.reading.people.fold,
        folds=run.reading.people.folds,
        seed=run.training.seed,
        arms=run.training.arms,
        pooled_file=out / "server" / "pooled.json",
        consents=run.reading.consents,
        release_name=run.reading.release_name,
        left_out=source.left_out,
        devices=entries,
        users_per_node=placement.users_per_node,
        out=out,
        cache=run.places.cache.resolve(),
        root_public_key=run_root.public_key,
        node_memory_bytes=run.machinery.memory_bytes,
        actors=run.machinery.actors,
        node_threads=placement.threads,
        server_threads=server_threads(run.machinery, source),
    )
    return Prepared(plan, files)


def check_control(run: OneRun, source: Source | None = None) -> None:
    """Raise ConfigError for too few test users to deal private states to somebody else.

    Of all folds, where the others are run behind this one: not after hours. `source` None: before data are
    read, so at most as many as the options allow.
    """
    people, where = run.reading.people, ""
    if source is None:
        caps = (people.users, parse_split(people.split).count)  # 0: as many as the data have
        test_users = min((cap for cap in caps if cap), default=FEWEST_SHUFFLED)
    elif run.places.one_of_folds and source.fewest_tested is not None:
        test_users, where = source.fewest_tested, f" in the smallest of {people.folds} folds"
    else:
        test_users = len(source.population.test)
    arms = [arm for arm in run.training.arms if arm not in CONTROL_ARMS]
    if test_users < FEWEST_SHUFFLED and len(arms) < len(run.training.arms):
        raise ConfigError(
            f"{counted(test_users, 'test user')}{where}: arm {CONTROL_ARMS[0]} gives everybody the private "
            f"state of somebody else, which takes at least {FEWEST_SHUFFLED}",
            hint=f"take more test users, or leave the arm out: --arms {','.join(arms)}",
        )


def _agreed(run: OneRun, users: Sequence[User]) -> list[User]:
    """Test users whose histories may train stage 2: with consents, those who agreed as pooled people do."""
    if run.reading.consents is None:
        return list(users)
    agreed = read_consents(run.reading.consents).standing(run.reading.release_name)
    return [user for user in users if user.user_id in agreed]


def _json(users: Sequence[User]) -> bytes:
    return (json.dumps(users_to_json(tuple(users)), ensure_ascii=False) + "\n").encode()


def place(machinery: Machinery, source: Source) -> Placement:
    """Processes and nodes for the test users' devices on this machine. Raises ConfigError."""
    machine = this_machine()
    return choose_placement(
        users=len(source.population.test),
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        base=base_bytes(source.found, source.settings),
        gpu_memory_bytes=machine.gpu_memory_bytes,
        most_threads=useful_threads(source.found.hidden),
        training_bytes=machinery.memory_bytes,
        actors=machinery.actors,
        users_per_node=machinery.users_per_node,
    )


def server_threads(machinery: Machinery, source: Source) -> int:
    """Threads of the pooled stages."""
    return machinery.threads or useful_threads(source.found.hidden)
