"""What a simulated run is asked to do: checked together, then divided into what each phase needs.

`RunOptions` is what a user says. Its `runs()` are the federations that follow, one a fold, each in
four parts: what to read, what to train, on how much of the machine, and where it lies. A phase takes
its parts and never the whole.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from proper_model.data import parse_split
from proper_model.errors import ConfigError
from proper_model.federation.run_plan import LARGEST_SEED, MOST_THREADS, NAME_OF_RELEASE
from proper_model.settings import (
    Stage2People,
    StageSettings,
    Structure,
    check_private_structure,
    load_profile,
    preset,
    usual_preset,
)
from proper_model.storage.files import storage_errors
from simulations.setup.columns import parse_columns
from simulations.setup.dataset_rows import PREFIX, parse_name

CONTROL_ARMS = ("stage3-shuffled",)
ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3", *CONTROL_ARMS)

# Without groups these answer as `stage1` does, and `oppu-mlp` as `stage3`.
GROUP_ARMS = ("stage2-mean", "stage2", "oppu-mlp")

# Ends the label of a dataset's split: what its questions are made of (`dataset_people`).
ASKED_LABEL = "newest fifth of items asked"

# What DATA may be instead of a folder, and the synthetic people that it stands for.
DEMOS = {
    "demo": "synth_tag",
    "demo:tag": "synth_tag",
    "demo:rate": "synth_rate",
    "demo:text": "synth_text",
}


def check_free(place: Path, *, hint: str) -> None:
    """Raise ConfigError where something else than a folder is there."""
    with storage_errors(place):
        taken = place.exists() and not place.is_dir()
    if taken:
        raise ConfigError(f"{place} is a file, expected a folder or nothing", hint=hint)


def missing_task() -> ConfigError:
    """Of data without a task."""
    return ConfigError(
        "--task is missing: which question do these data answer?",
        hint="a shipped task such as LaMP_2M, or the path of a task's TOML file",
    )


@dataclass(frozen=True)
class Files:
    """Real people: OPPU's or LaMP's files or a dataset, under a task and for a base.

    `columns` are a dataset's by what they mean.
    """

    data: str
    task: str
    base: str
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)  # a dict has no hash


@dataclass(frozen=True)
class Demo:
    """Synthetic people, with a task of their own and a base that is made in the folder `bases`."""

    kind: str
    bases: Path


@dataclass(frozen=True)
class People:
    """Who takes part: how the data are split, which of the folds this is, and at most how much."""

    split: str
    fold: int
    folds: int
    pooled_users: int | None
    users: int | None
    max_items: int | None
    stage2_users: Stage2People = Stage2People.POOLED

    @property
    def label(self) -> str:
        """The split as results name it: with the caps that decide who and how much was used.

        And with whose items trained stage 2, where that is not the usual.
        """
        caps = (
            (self.pooled_users, "pooled users"),
            (self.users, "test users"),
            (self.max_items, "items a user"),
        )
        said = [f"at most {number} {what}" for number, what in caps if number is not None]
        return ", ".join([self.split, *said, *filter(None, [self.stage2_users.said])])


@dataclass(frozen=True)
class Reading:
    """What to read. `template` None: the profile's where the task has it, else the task's own.

    `consents`: only people who agreed, by that file, are pooled, for a release of that name.
    """

    origin: Files | Demo
    people: People
    settings: StageSettings
    template: str | None
    seed: int
    consents: Path | None = None
    release_name: str | None = None


@dataclass(frozen=True)
class Training:
    """What to train, and which arms to compare. `structure` follows from the preset."""

    preset: str
    structure: Structure
    arms: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Machinery:
    """How much of the machine to take; None: as it allows. `memory_bytes`: see `--memory-budget`."""

    users_per_node: int | None
    actors: int | None
    threads: int | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Places:
    """Where a run and its cached phases lie, and whether it goes on with what lies there.

    With `holds_folds`, `out` holds a folder for each fold's run; `one_of_folds` is such a folder, and the other
    folds are run behind it.
    """

    out: Path
    cache: Path
    resume: bool
    holds_folds: bool = False
    one_of_folds: bool = False


@dataclass(frozen=True)
class OneRun:
    """One federation, by the phases that need it."""

    reading: Reading
    training: Training
    machinery: Machinery
    places: Places


@dataclass(frozen=True)
class RunOptions:
    """Everything `proper-sim run` takes. `None` means: the default of the data or profile.

    `data` is a folder, a dataset as `hf:NAME`, or one of DEMOS for synthetic people with a base of their own.
    `folds` > 1 with `fold` None stands for all folds, one after another, scored together.
    """

    data: str
    out: Path
    task: str | None = None
    base: str | None = None
    preset: str | None = None
    profile: str | None = None
    columns: str | None = None
    template: str | None = None
    split: str = "given"
    stage2_users: str = "pooled"
    population_only: bool = False
    folds: int = 1
    fold: int | None = None
    pooled_users: int | None = None
    users: int | None = None
    max_items: int | None = None
    seed: int = 0
    arms: tuple[str, ...] = field(default=ARMS)
    users_per_node: int | None = None
    actors: int | None = None
    threads: int | None = None
    memory_budget: float | None = None
    consents: Path | None = None
    release_name: str | None = None
    cache: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        self._check_data()
        self._check_places()
        self._check_numbers()
        self._check_people()
        self._check_arms()
        self._check_stage2()
        if self.release_name is not None and self.consents is None:
            raise ConfigError(
                "--release-name says which release people agreed to, but --consents is missing",
                hint="add --consents FILE",
            )
        if self.release_name is not None and not re.fullmatch(NAME_OF_RELEASE, self.release_name):
            raise ConfigError(
                "--release-name is not 1 to 64 letters, digits, '.', '_' or '-'",
                hint="give the name that people agreed to, such as spring-2027",
            )
        preset(self.preset_name)

    @property
    def all_folds(self) -> bool:
        return self.folds > 1 and self.fold is None

    @property
    def places(self) -> Places:
        """Of the whole run. Cached phases lie beside OUT by default: other arms find them there."""
        cache = self.cache if self.cache is not None else self.out.parent / "cache"
        return Places(self.out, cache, self.resume, self.all_folds)

    @cached_property
    def settings(self) -> StageSettings:
        """Of the profile, read once. Raises ConfigError."""
        return load_profile(self.profile or ("demo" if self.data in DEMOS else "tiny"))

    @property
    def preset_name(self) -> str:
        """The preset that is asked for, or the usual one of the profile."""
        return usual_preset(self.settings) if self.preset is None else self.preset

    def runs(self) -> tuple[OneRun, ...]:
        """The federation that is asked for, or one for each fold in its own folder below OUT."""
        if not self.all_folds:
            return (self._one(self.fold or 0, self.out),)
        return tuple(self._one(fold, self.out / f"fold-{fold}") for fold in range(self.folds))

    def _one(self, fold: int, out: Path) -> OneRun:
        cache = self.places.cache
        budget = self.memory_budget
        memory_bytes = None if budget is None else max(1, int(budget * 1024**3))
        origin: Files | Demo
        if self.data in DEMOS:
            origin = Demo(DEMOS[self.data], cache / "bases")
        else:
            assert self.task is not None  # by `_check_data`
            assert self.base is not None
            origin = Files(self.data, self.task, self.base, parse_columns(self.columns))
        people = People(
            self.split,
            fold,
            self.folds,
            self.pooled_users,
            self.users,
            self.max_items,
            Stage2People(self.stage2_users),
        )
        structure, arms = preset(self.preset_name), self.arms
        if self.population_only:
            structure = structure.without_groups()
            arms = tuple(arm for arm in arms if arm not in GROUP_ARMS)
        if self.settings.privacy is not None:
            check_private_structure(structure)
        return OneRun(
            Reading(
                *(origin, people, self.settings, self.template, self.seed),
                None if self.consents is None else self.consents.resolve(),
                self.release_name,
            ),
            Training(self.preset_name, structure, arms, self.seed),
            Machinery(self.users_per_node, self.actors, self.threads, memory_bytes),
            Places(out, cache, self.resume, one_of_folds=self.all_folds),
        )

    def _check_data(self) -> None:
        demo = self.data in DEMOS
        if self.data.startswith("demo:") and not demo:
            raise ConfigError(f"unknown demo '{self.data}'", hint="known: " + ", ".join(DEMOS))
        if demo and self.columns is not None:
            raise ConfigError(
                "--columns says what the columns of a dataset mean, but the demo has none",
                hint="leave it out, or give hf:NAME instead of 'demo'",
            )
        parse_columns(self.columns)
        if self.data.startswith(PREFIX):
            parse_name(self.data)
        if demo:
            if self.task is not None or self.base is not None:
                raise ConfigError(
                    "the demo brings its own task and base, so --task and --base contradict it",
                    hint="leave them out, or give a data folder instead of 'demo'",
                )
            return
        if self.task is None:
            raise missing_task()
        if self.base is None or not self.base.strip():
            raise ConfigError(
                "--base is missing: which language model is personalized?",
                hint="a folder in Hugging Face form, or a hub id such as org/model",
            )

    def _check_places(self) -> None:
        for option, place in (
            ("--out", self.out),
            ("--cache", self.cache),
            ("--consents", self.consents),
        ):
            try:
                str(place).encode()
            except UnicodeEncodeError:
                raise ConfigError(
                    f"{option} is no UTF-8 path, which the run's plan could not hold",
                    hint="give a folder whose name is UTF-8",
                ) from None
        for option, place in (("--out", self.out), ("--cache", self.cache)):
            if place is not None:
                check_free(place, hint=f"give another {option}")

    def _check_numbers(self) -> None:
        for name in ("pooled_users", "users", "max_items", "users_per_node", "actors", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "--" + name.replace("_", "-")
                chosen = name in ("users_per_node", "actors", "threads")
                raise ConfigError(
                    f"{option} must be at least 1, got {value}",
                    hint=f"leave it out {'to have it chosen' if chosen else 'for no limit'}",
                )
        if self.threads is not None and self.threads > MOST_THREADS:
            raise ConfigError(
                f"--threads must be at most {MOST_THREADS}, got {self.threads}",
                hint=f"this machine has {os.cpu_count() or 1} cores; more threads are slower",
            )
        if self.memory_budget is not None and not 0 < self.memory_budget < math.inf:
            raise ConfigError(
                f"--memory-budget must be a number of GiB above 0, got {self.memory_budget}",
                hint="for example 1.5; leave it out for no limit",
            )
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(
                f"--seed must be from 0 to {LARGEST_SEED}, got {self.seed}",
                hint="any number in that range will do",
            )

    def _check_people(self) -> None:
        chosen = parse_split(self.split)
        if self.folds < 1:
            raise ConfigError(
                f"--folds must be at least 1, got {self.folds}", hint="1 means: no rotation"
            )
        if self.fold is not None and self.folds == 1:
            raise ConfigError(
                "--fold says which of several folds, but --folds is missing",
                hint="add --folds K",
            )
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise ConfigError(
                f"--fold counts from 0 to {self.folds - 1} with --folds {self.folds}, "
                f"got {self.fold}",
                hint="leave --fold out to run all folds",
            )
        if self.folds > 1 and chosen.kind == "inactive":
            raise ConfigError(
                f"--folds rotates who is a test user, but --split {self.split} names them",
                hint="use one of the two",
            )

    def _check_stage2(self) -> None:
        if self.stage2_users not in tuple(Stage2People):
            raise ConfigError(
                f"unknown --stage2-users '{self.stage2_users}'",
                hint="known: " + ", ".join(Stage2People),
            )
        if not self.population_only:
            return
        if self.stage2_users != Stage2People.POOLED:
            raise ConfigError(
                "--population-only leaves stage 2 out, so --stage2-users contradicts it",
                hint="use one of the two",
            )
        contrary = [arm for arm in self.arms if arm in GROUP_ARMS]
        if contrary and tuple(self.arms) != ARMS:  # all of them is what nobody has chosen
            raise ConfigError(
                f"--population-only leaves groups out, so there is no arm {contrary[0]}",
                hint="without groups there are stage1, stage3 and stage3-shuffled",
            )

    def _check_arms(self) -> None:
        if not self.arms:
            raise ConfigError("--arms is empty", hint="arms are: " + ", ".join(ARMS))
        unknown = [arm for arm in self.arms if arm not in ARMS]
        if unknown:
            raise ConfigError(f"unknown arm '{unknown[0]}'", hint="arms are: " + ", ".join(ARMS))
        if len(set(self.arms)) != len(self.arms):
            raise ConfigError("--arms names an arm twice", hint="name each arm once")
        for arm in ("stage2", *CONTROL_ARMS):
            if arm in self.arms and "stage3" not in self.arms:
                raise ConfigError(
                    f"arm {arm} uses what stage3 fitted on the devices, so it needs stage3",
                    hint="add stage3 to --arms",
                )
