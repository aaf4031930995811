"""A small trained release on the synthetic smoke population, for tests of what comes after it.

Base and release are made once for all processes of a test run: phases are cached by what they depend
on, and whoever comes second waits for the first and reads.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

from filelock import FileLock

from coordinator.stages import run_pooled_stages
from proper_model.artifact import Release
from proper_model.records import User
from proper_model.structure import preset
from proper_model.tasks import load_task
from simulations.synthetic import SyntheticPopulation, make_synthetic
from simulations.tiny_base import make_tiny_base
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
