"""OUT before a run: is it free, does it hold the run to go on with, and what differs if not.

Nothing heavy is imported here, so that a folder in use is refused before anything is loaded,
trained or written.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from proper_model.errors import ConfigError, StorageError
from proper_model.federation.run_plan import PLAN_FILE, RunPlan
from proper_model.storage.files import make_private_folder, storage_errors
from simulations.setup.options import ASKED_LABEL, Places

TRUTH_FILE = "truth.json"  # in OUT of synthetic people only
# What of a plan decides results, under the name that the user gave it.
OPTION_OF = {
    "name": "DATA",
    "devices": "DATA",
    "task_toml": "--task",
    "template": "--template",
    "base": "--base",
    "embed_base": "--base",
    "preset": "--preset",
    "settings": "--profile",
    "fold": "--fold",
    "folds": "--folds",
    "seed": "--seed",
    "stage2_users": "--stage2-users",
    "population_only": "--population-only",
    "arms": "--arms",
    "out": "--out (the run was prepared in another place)",
    "pooled_file": "--out (the run was prepared in another place)",
    "consents": "--consents",
    "release_name": "--release-name",
    "left_out": "--consents (people agreed or withdrew since)",
    "root_public_key": "the root key in OUT/server/keys",
}
# How devices share nodes changes no result; threads and the memory budget, which cuts steps into
# passes, only last digits. A run that goes on, perhaps on another machine, keeps its first choice.
FREE = frozenset(
    {"users_per_node", "actors", "cache", "server_threads", "node_threads", "node_memory_bytes"}
)


def check_owner(folder: Path) -> None:
    """Raise StorageError if another account may change what lies in a folder: it is trained on.

    One that is not there yet will be ours.
    """
    with storage_errors(folder):
        if not folder.exists():
            return
        status = folder.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"{folder}: another account owns this folder or may write to it",
            hint=f"close it (chmod o-w {shlex.quote(str(folder))}), or give a new --out, or --cache",
        )


def check_out(places: Places) -> None:
    """Raise ConfigError or StorageError if OUT is in use or not ours alone; writes nothing."""
    for folder in (places.out, places.cache):
        check_owner(folder)
    with storage_errors(places.out):
        if places.holds_folds:
            check_folds_folder(places)
        else:
            existing_plan(places)


def existing_plan(places: Places) -> RunPlan | None:
    """The plan of a run to go on with; None for a new one. Never touches a folder in use."""
    out = places.out.resolve()
    used = out.is_dir() and any(out.iterdir())
    if used and not places.resume:
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


def check_folds_folder(places: Places) -> None:
    """Refuse a folder in use, or one that holds a run without folds."""
    out = places.out
    if not out.is_dir() or not any(out.iterdir()) or not places.resume:
        existing_plan(replace(places, resume=False))
    elif not any(out.glob("fold-*")):
        raise ConfigError(
            f"{out} holds no run of folds to resume",
            hint="repeat the options of the run in it, or give a new --out",
        )


@contextmanager
def made_folder(out: Path) -> Iterator[None]:
    """OUT exists within the block; if that fails, folders made for it and still empty go again."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_private_folder(out)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty: there is something to go on with
            for folder in missing:
                folder.rmdir()
        raise


def check_same(existing: RunPlan, plan: RunPlan, files: Mapping[Path, bytes]) -> None:
    """Raise ConfigError unless OUT holds exactly the run that would be prepared now."""
    differing = changed_options(existing, plan, demo=plan.out / TRUTH_FILE in files)
    if not differing:
        changed = [
            str(path.relative_to(existing.out))
            for path, data in files.items()
            if not path.is_file() or path.read_bytes() != data
        ]
        differing = [f"DATA ({', '.join(changed[:3])})"] if changed else []
    if differing:
        raise ConfigError(
            f"{existing.out} holds another run; it differs in: {', '.join(differing)}",
            hint="repeat the options of that run, or give a new --out",
        )


def changed_options(old: RunPlan, new: RunPlan, *, demo: bool) -> list[str]:
    """Options in which two plans differ, without what only follows from another one."""
    before, after = _comparable(old), _comparable(new)
    keys = {key for key in after if key not in FREE and after[key] != before[key]}
    if "out" in keys:
        keys -= {"pooled_file", "devices"}
    if "split" in keys or keys & {"fold", "folds", "name"}:
        keys -= {"devices"}
    if demo and keys & {"name", "seed"}:
        keys -= {"task_toml", "base"}
    split = _people_options(old.split, new.split) if "split" in keys else set()
    return sorted({OPTION_OF.get(key, key) for key in keys - {"split"}} | split)


def _people_options(old: str, new: str) -> set[str]:
    """Which options made two labels of the split differ, see `People.label`."""
    endings = {
        "pooled users": "--pooled-users",
        "test users": "--users",
        "items a user": "--max-items",
        ASKED_LABEL: "DATA",
        "stage 2 with test users' histories": "--stage2-users",
        "stage 2 with shuffled identities": "--stage2-users",
    }
    return {
        next((option for end, option in endings.items() if part.endswith(end)), "--split")
        for part in {*old.split(", ")} ^ {*new.split(", ")}
    }


def _comparable(plan: RunPlan) -> dict[str, Any]:
    """The plan without its hashes of devices' data: the files themselves are compared and named."""
    content = plan.model_dump(mode="json")
    for entry in content["devices"]:
        del entry["user_sha256"]
    return content
