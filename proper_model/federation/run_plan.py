"""The run plan: one JSON file that says everything a simulated federation needs to know.

`proper-sim prepare` writes it, the Flower server and nodes only get its path (`plan=...`), so
that Flower's own command and ours run the same thing. It holds folders, counts and settings; a
user's data lies in that user's device folder, never in the plan. Folders under `out`: `server/`
(pooled users, keys, release, journal), `devices/<id>/` (one user each), `nodes/<k>/` (what a node
host shares: the installed bundle), `plan.json`, `progress.json`, `messages.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from proper_model.bundle.signed_time import MAX_RELEASE_DAYS
from proper_model.errors import ConfigError, ProperError
from proper_model.settings.presets import Structure, preset
from proper_model.settings.profile import StageSettings
from proper_model.settings.settings_io import from_mapping
from proper_model.settings.stage2_people import Stage2People
from proper_model.storage.files import make_private_folder, read_regular, write_atomic

PLAN_FILE = "plan.json"
PLAN_VARIABLE = "PROPER_PLAN"
MAX_PLAN_BYTES = 64 * 1024 * 1024

# Not cores of this machine: a plan may be made on one and run on another. More cores than servers
# have; torch itself crashes somewhere above 8192.
MOST_THREADS = 1024
# What k-means takes, hours into a run. torch would take twice as many bits.
LARGEST_SEED = 2**32 - 1

ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3", "stage3-shuffled")

# `stage3-shuffled` predicts with another user's state: only the simulation's controls can do that.
ARMS_OUTSIDE_NODES = frozenset({"stage3-shuffled"})

NAME_OF_RELEASE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class DeviceEntry(BaseModel):
    """One simulated device: its id (not the user's), its own folder, and a hash of its data.

    `user_sha256` is of `user.json` as it was prepared. It says nothing of what is in it and ties
    the plan's fingerprint to the data that results are about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    folder: Path
    user_sha256: str = Sha256


class RunPlan(BaseModel):
    """See the module docstring. Paths are absolute; times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=1, ge=1, le=1, strict=True)  # Literal[1] also takes `true`
    name: str
    task_toml: str
    template: str | None = None
    base: str
    embed_base: bool = True
    preset: str
    settings: dict[str, Any]
    split: str = "given"
    stage2_users: Stage2People = Stage2People.POOLED
    population_only: bool = False
    fold: int = Field(default=0, ge=0)
    folds: int = Field(default=1, ge=1)
    seed: int = Field(ge=0, le=LARGEST_SEED)
    arms: tuple[str, ...]
    pooled_file: Path
    # Where the coordinator keeps who agreed to be pooled, the name of the release that they were asked
    # about, and how many people of the data are not in `pooled_file`, having no standing consent.
    consents: Path | None = None
    release_name: str | None = Field(default=None, pattern=NAME_OF_RELEASE)
    left_out: int = Field(default=0, ge=0)
    devices: tuple[DeviceEntry, ...]
    users_per_node: int = Field(ge=1)
    out: Path
    cache: Path
    # Of the root role that every device pins: Ed25519, in hexadecimal.
    root_public_key: str = Sha256
    bundle_days: int = Field(default=365, ge=1, le=MAX_RELEASE_DAYS)
    # Threads are part of the plan because sums of floats depend on them: both launch commands
    # have to give the same numbers.
    server_threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    node_threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    # What a node's training may take beside the base; None: what a GPU has free.
    node_memory_bytes: int | None = Field(default=None, ge=1)
    actors: int | None = Field(default=None, ge=1)  # None: from cores and memory
    message_timeout_s: float = Field(default=600.0, gt=0)
    round_timeout_s: float = Field(default=12 * 3600.0, gt=0)
    attempts: int = Field(default=3, ge=1)
    # What to do when fewer than `node_count` nodes have appeared within `message_timeout_s`.
    fewer_nodes: Literal["fail", "proceed"] = "fail"

    @field_validator("out", "cache", "pooled_file", "consents")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("must be an absolute path: Flower's processes start elsewhere")
        return value

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [arm for arm in value if arm not in ARMS]
        if unknown or not value or len(set(value)) != len(value):
            raise ValueError(f"must be distinct members of {list(ARMS)}")
        return value

    @field_validator("devices")
    @classmethod
    def _distinct_devices(cls, value: tuple[DeviceEntry, ...]) -> tuple[DeviceEntry, ...]:
        if not value or len({entry.device_id for entry in value}) != len(value):
            raise ValueError("must be a non-empty list of distinct devices")
        if not all(entry.folder.is_absolute() for entry in value):
            raise ValueError("every folder must be an absolute path")
        return value

    @cached_property
    def stage_settings(self) -> StageSettings:
        return from_mapping(StageSettings, self.settings, where="plan.settings")

    @cached_property
    def structure(self) -> Structure:
        chosen = preset(self.preset)
        return chosen.without_groups() if self.population_only else chosen

    @property
    def node_count(self) -> int:
        """Nodes that host all devices, `users_per_node` each."""
        return -(-len(self.devices) // self.users_per_node)

    @property
    def server_folder(self) -> Path:
        return self.out / "server"

    @property
    def personalized_file(self) -> Path:
        """The test users' histories, where they train stage 2; their queries are not in it."""
        return self.server_folder / "personalized.json"

    @property
    def node_arms(self) -> tuple[str, ...]:
        """Arms that nodes predict themselves."""
        return tuple(arm for arm in self.arms if arm not in ARMS_OUTSIDE_NODES)

    @property
    def state_arms(self) -> tuple[str, ...]:
        """Arms whose private state has to be fitted, in a fixed order."""
        needed = {self.state_of(arm) for arm in self.arms}
        return tuple(arm for arm in ARMS if arm in needed)

    def state_of(self, arm: str) -> str | None:
        """The arm whose state `arm` predicts with, or None if it needs none.

        A stage 3 state holds the fitted embedding, so stage 2 shares it where there is one.
        """
        has_stage3 = not {"stage3", "stage3-shuffled"}.isdisjoint(self.arms)
        return {
            "stage2": "stage3" if has_stage3 else "stage2",
            "stage3": "stage3",
            "stage3-shuffled": "stage3",
            "oppu-mlp": "oppu-mlp",
        }.get(arm)

    def node_folder(self, partition: int) -> Path:
        return self.out / "nodes" / str(partition)

    def devices_of(self, partition: int, partitions: int) -> tuple[DeviceEntry, ...]:
        """The devices that node `partition` of `partitions` hosts.

        With `node_count` nodes or more that is `users_per_node` each; with fewer nodes, as when
        `flwr run .` is started by hand without a size, each hosts an equal larger share.
        """
        if not 0 <= partition < partitions:
            raise ConfigError(f"node {partition} is not one of {partitions} nodes")
        share = max(self.users_per_node, -(-len(self.devices) // partitions))
        return self.devices[partition * share : (partition + 1) * share]

    def fingerprint(self) -> str:
        """SHA-256 of what the result depends on; how and where it runs is left out."""
        where_and_how = {
            "out", "cache", "users_per_node", "actors", "devices", "pooled_file",
            "message_timeout_s", "round_timeout_s", "attempts", "fewer_nodes", "name",
            "consents", "release_name", "left_out",  # who is left is in `pooled_sha256`
        }  # fmt: skip
        content = self.model_dump(mode="json", exclude=where_and_how)
        content["devices"] = [[entry.device_id, entry.user_sha256] for entry in self.devices]
        content["pooled_sha256"] = file_sha256(self.pooled_file)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path | None = None) -> Path:
        """Write the plan atomically, by default to `out/plan.json`, and return its path."""
        target = path or self.out / PLAN_FILE
        make_private_folder(target.parent)
        write_atomic(target, (self.model_dump_json(indent=1) + "\n").encode())
        return target

    @staticmethod
    def load(path: Path) -> RunPlan:
        """Read a plan. Raises ConfigError naming the file and the fields that are wrong."""
        try:
            plan = RunPlan.model_validate_json(read_regular(path, limit_bytes=MAX_PLAN_BYTES))
        except OSError as error:
            raise ConfigError(
                f"run plan {path}: cannot be read ({os.strerror(error.errno or 0)})",
                hint="write one with: proper-sim prepare DATA --task T --base B --out OUT",
            ) from None
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)[:5]
            )
            raise ConfigError(
                f"run plan {path}: {problems}",
                hint="remove it, then repeat proper-sim run, or prepare, with the options of before and --resume",
            ) from None
        try:
            _ = plan.stage_settings, plan.structure
        except ProperError as error:
            raise ConfigError(f"run plan {path}: {error.message}", hint=error.hint) from None
        return plan


def find_plan(configured: object) -> Path:
    """The plan's path: the run configuration's, else $PROPER_PLAN. Raises ConfigError if none."""
    chosen = str(configured or "") or os.environ.get(PLAN_VARIABLE, "")
    if not chosen:
        raise ConfigError(
            "no run plan given",
            hint="first `proper-sim prepare DATA --task T --base B --out OUT`, then `proper-sim "
            f"launch OUT` (or set {PLAN_VARIABLE} to /absolute/OUT/plan.json)",
        )
    path = Path(chosen)
    if not path.is_absolute():
        raise ConfigError(
            f"run plan {path}: expected an absolute path, since Flower starts its processes in "
            "a folder of its own"
        )
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks; ConfigError if it cannot be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None
