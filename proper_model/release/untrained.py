"""A release without people: a base as it is, for one person who has no coordinator.

Of the paper's three stages it holds none: a population LoRA whose factors are zero, so that W_p = W_0
(eq. 6), and no experts (`Structure.population_only`). All that personalizes it is a private LoRA.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from proper_model.base.sites import find_sites
from proper_model.bundle.file_names import BASE, CONFIG
from proper_model.bundle.manifest import BaseReference
from proper_model.release.contents import Release, release_to_files, unread_embeddings
from proper_model.release.recipe import BaseSource
from proper_model.settings.presets import preset
from proper_model.settings.profile import FFN_TARGETS, StageSettings
from proper_model.tasks.task import Task


def untrained_settings(settings: StageSettings) -> StageSettings:
    """The settings with the smallest population LoRA, at linears that every base has."""
    population = dataclasses.replace(settings.population, targets=FFN_TARGETS, rank=1)
    return dataclasses.replace(settings, population=population)


def untrained_files(
    model: Any,
    tokenizer: Any,
    task: Task,
    settings: StageSettings,
    reference: BaseReference,
    config: bytes,
) -> dict[str, bytes]:
    """The files of a release over a base that it refers to, the same for the same arguments.

    Args:
        model: the base's language model on the meta device; its weights are not needed.
        settings: as `untrained_settings` gives them.
        config: config.json of the base.
    """
    release = Release(
        base=None,
        tokenizer=tokenizer,
        task=task,
        structure=preset("default").without_groups(),
        settings=settings,
        seed=0,
        shared=unread_embeddings(),
        population=_zero_factors(model),
        notes={},
    )
    files = release_to_files(release, base=BaseSource(reference.hub_id, reference.revision))
    files[BASE + CONFIG] = config
    return files


def _zero_factors(model: Any) -> dict[str, Tensor]:
    """A [1, i] and B [o, 1] of every feed-forward linear, under PEFT's names."""
    factors = {}
    for site in find_sites(model):
        name = f"base_model.model.{site.path}.lora_"
        factors[f"{name}A.weight"] = torch.zeros(1, site.d_in)
        factors[f"{name}B.weight"] = torch.zeros(site.d_out, 1)
    return factors
