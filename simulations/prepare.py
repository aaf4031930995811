"""Write everything a simulated federation starts from: plan, pooled users, device folders, keys.

A device folder holds that one user's data and the pinned trust root and nothing of anybody else.
`plan.json` is written last, so a folder with a plan is a complete one. Layout: see
`proper_model.runplan`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.keys import load_or_create_key
from proper_model.errors import ConfigError
from proper_model.files import make_private_folder, write_atomic
from proper_model.records import User, users_to_json
from proper_model.runplan import PLAN_FILE, DeviceEntry, RunPlan
from proper_model.settings_io import to_mapping
from proper_model.trust import TrustedRoot, public_bytes
from simulations.calibrate import base_config, shape_of
from simulations.devices import TRUTH_FILE
from simulations.environment import total_memory_bytes
from simulations.options import RunOptions
from simulations.sources import Progress, Source, load_source

KEY_FILE = "release.pem"
# Larger bases travel as a reference: every node host would otherwise hold a copy.
LARGEST_EMBEDDED_PARAMETERS = 500_000_000
# A GPU host trains all its devices in one cohort; a CPU host splits them over its cores.
LARGEST_COHORT = 256


@dataclass(frozen=True)
class Prepared:
    """The content of a run's folder before it is written."""

    plan: RunPlan
    files: Mapping[Path, bytes]


def prepare(options: RunOptions, progress: Progress) -> RunPlan:
    """Check everything, then write OUT, or with `resume` compare OUT with what would be written.

    Raises ConfigError if OUT is in use, or holds another run than the one to resume.
    """
    out = options.out.resolve()
    existing = existing_plan(out, resume=options.resume)
    source = load_source(options, progress)
    make_private_folder(out)
    prepared = build(options, source, out)
    if existing is not None:
        check_same(existing, prepared)
        return existing
    progress("writing devices", 0, len(prepared.files))
    for done, (path, data) in enumerate(prepared.files.items(), start=1):
        make_private_folder(path.parent)
        write_atomic(path, data)
        progress("writing devices", done, len(prepared.files))
    prepared.plan.save()
    return prepared.plan


def existing_plan(out: Path, *, resume: bool) -> RunPlan | None:
    """The plan of a run to go on with; None for a new one. Never touches a folder in use."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, expected a folder or nothing")
    used = out.is_dir() and any(out.iterdir())
    if used and not resume:
        raise ConfigError(
            f"{out} is not empty",
            hint="give a new --out, or go on with the run in it: --resume",
        )
    if used and (out / PLAN_FILE).is_file():
        return RunPlan.load(out / PLAN_FILE)
    if used and not (out / "server").is_dir():
        raise ConfigError(
            f"{out} holds no run to resume", hint="give the --out of the run that was stopped"
        )
    return None


def build(options: RunOptions, source: Source, out: Path) -> Prepared:
    """Plan and files of the run that `options` describe."""
    shape = shape_of(base_config(source.base))
    key = load_or_create_key(make_private_folder(out / "server" / "keys") / KEY_FILE)
    root = TrustedRoot.of([key]).to_bytes()
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
        files[entry.folder / "root.json"] = root
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
        users_per_node=options.users_per_node or cohort_size(len(people)),
        out=out,
        cache=options.cache_folder.resolve(),
        root_public_key=public_bytes(key).hex(),
        server_threads=options.threads or server_threads(shape.hidden),
    )
    return Prepared(plan, files)


def check_same(existing: RunPlan, prepared: Prepared) -> None:
    """Raise ConfigError unless OUT holds exactly the run that would be prepared now."""
    old = _comparable(existing)
    new = _comparable(prepared.plan)
    # How devices share nodes changes no result, and threads only last digits: a run that goes on,
    # perhaps on another machine, keeps its first choice.
    free = {"users_per_node", "actors", "cache", "server_threads", "node_threads"}
    differing = sorted(key for key in new if key not in free and new[key] != old[key])
    if not differing:
        differing = [
            str(path.relative_to(existing.out))
            for path, data in prepared.files.items()
            if not path.is_file() or path.read_bytes() != data
        ][:3]
    if differing:
        raise ConfigError(
            f"{existing.out} holds another run; it differs in: {', '.join(differing)}",
            hint="repeat the options of that run, or give a new --out",
        )


def _comparable(plan: RunPlan) -> dict[str, Any]:
    """The plan without its hashes of devices' data: the files themselves are compared and named."""
    content = plan.model_dump(mode="json")
    for entry in content["devices"]:
        del entry["user_sha256"]
    return content


def flwr_command(plan: RunPlan) -> str:
    """The command that runs this plan through Flower itself, to be typed as it stands."""
    import torch

    from simulations.launch import choose_resources

    resources = choose_resources(
        plan,
        cpus=os.cpu_count() or 1,
        gpus=torch.cuda.device_count(),
        free_bytes=total_memory_bytes(),
    )
    return (
        f"flwr run . --stream --run-config 'plan=\"{plan.out / PLAN_FILE}\"' "
        f'--federation-config "{resources.federation_config()}"'
    )


def _json(users: Sequence[User]) -> bytes:
    return (json.dumps(users_to_json(tuple(users)), ensure_ascii=False) + "\n").encode()


def cohort_size(users: int) -> int:
    """Devices a node hosts unless told otherwise."""
    import torch

    hosts = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    return min(LARGEST_COHORT, -(-users // hosts))


def server_threads(hidden: int) -> int:
    """Threads of the pooled stages unless told otherwise.

    One for small bases: they gain little from more, and on a machine that does something else two
    threads waiting for each other were several times slower than one. The number is part of the
    plan because sums of floats depend on it.
    """
    return 1 if hidden < 512 else min(8, os.cpu_count() or 1)
