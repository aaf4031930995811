"""A small trained release on the synthetic smoke population, for tests of what comes after it.

Base and release are made once for all processes of a test run: phases are cached by what they depend
on, and whoever comes second waits for the first and reads.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from coordinator.pooled_stages import run_pooled_stages
from proper_model.base.checked import CheckedFiles
from proper_model.bundle.file_names import BASE, CONFIG, RECIPE, is_base_file
from proper_model.bundle.manifest import BaseReference
from proper_model.checks.release import check_files
from proper_model.release.contents import Release, release_from_files
from proper_model.release.recipe import parse_recipe
from proper_model.settings.presets import preset
from proper_model.storage.files import write_atomic
from proper_model.tasks.records import User
from proper_model.tasks.task import load_task
from simulations.synthetic.people import SyntheticPopulation, make_synthetic
from simulations.synthetic.tiny_base import make_tiny_base
from tests.planted_run import SETTINGS

SMALL = dataclasses.replace(
    SETTINGS,
    name="small",
    population=dataclasses.replace(SETTINGS.population, epochs=2),
    group=dataclasses.replace(SETTINGS.group, epochs=6, batch_size=32, patience=6),
    user=dataclasses.replace(
        SETTINGS.user,
        epochs=4,
        embedding_epochs=4,
        learning_rates=(4e-3, 1e-2),
        held_back_folds=1,
    ),
)

SHARED_FOLDER = "PROPER_TEST_RELEASES"
"""Environment variable, set by conftest.py: where the processes of this test run share them."""


@functools.cache
def small_population() -> SyntheticPopulation:
    return make_synthetic("synth_tag", preset="demo", test_users_per_group=2, pretrain=1200)


def small_users() -> tuple[tuple[User, ...], tuple[User, ...]]:
    """Pooled and unseen users."""
    population = small_population().population
    return population.pooled, population.test


def small_base() -> Path:
    """The word-level base, pretrained by the first who asks. Nobody writes into it."""
    population, folder = small_population(), Path(os.environ[SHARED_FOLDER])
    with FileLock(folder / "base.lock"):
        return make_tiny_base(
            folder / "base", population.pretrain_texts, vocabulary=population.vocabulary
        )


def small_release(preset_name: str = "default") -> Release:
    """Stages 1 to 3b, trained in seconds by the first who asks."""
    folder = Path(os.environ[SHARED_FOLDER])
    with FileLock(folder / "release.lock"):
        return run_pooled_stages(
            small_users()[0],
            load_task("synth_tag"),
            str(small_base()),
            dataclasses.replace(preset(preset_name), embedding_dim=16),
            SMALL,
            seed=0,
            cache=folder / "cache",
        )


def hashed(folder: Path) -> CheckedFiles:
    """A base's folder as it is now."""
    hashes = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if is_base_file(path.name)
    }
    return CheckedFiles(folder, hashes)


def release_in_memory(files: Mapping[str, bytes], base: Path | None = None) -> Release:
    """A release of files that no bundle holds, checked as a device would; `base`: what it refers to."""
    if base is not None:
        named, own = parse_recipe(files[RECIPE]).base, hashed(base)
        assert named is not None
        reference = BaseReference(named.name, named.revision, own.hashes)
        content = check_files(files, reference, config=(base / CONFIG).read_bytes())
        return release_from_files(files, content, own)
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            if name.startswith(BASE):
                write_atomic(Path(scratch) / name.removeprefix(BASE), data)
        return release_from_files(files, check_files(files), hashed(Path(scratch)))


def with_user(release: Release, **changes: Any) -> Release:
    """The release with other settings of private training."""
    user = dataclasses.replace(release.settings.user, **changes)
    return dataclasses.replace(release, settings=dataclasses.replace(release.settings, user=user))
