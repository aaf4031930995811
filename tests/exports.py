"""Tiny untrained releases with noise in every tensor, one user's noise, and exports of the two."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.export.folder import write_merged, write_peft
from client.export.request import Exported, Request
from client.export.runtimes import write_gguf, write_gguf_merged, write_mlx
from client.person.arms import ArmModel
from proper_model.base.population_lora import attach_population, merge_population, population_state
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, release_to_files, shared_tensors
from proper_model.release.recipe import BaseSource
from proper_model.settings.presets import preset
from proper_model.settings.profile import ATTENTION_TARGETS, PopulationSettings, StageSettings
from proper_model.tasks.task import load_task
from tests.releases import release_in_memory
from tests.tiny import randomize, sample, tiny_base, words

BUNDLE = "ab" * 32
PUBLIC = BaseSource("example/tiny", "c0ffee" * 6 + "c0ff")
USER = "zq-user-canary"
Write = Callable[..., Exported]
SETTINGS = StageSettings(
    name="export-test",
    template="short",
    max_prompt_tokens=32,
    max_answer_tokens=8,
    tokens_per_step=64,  # so few that measuring takes several passes
    dtype="float32",
)


def noisy_release(
    preset_name: str = "device",
    *,
    base: Any = None,
    targets: tuple[str, ...] = ATTENTION_TARGETS,
    referenced: bool = False,
) -> Release:
    """A release in memory; `referenced` merges a noisy population LoRA and keeps it."""
    base = tiny_base(dtype=torch.float32) if base is None else base
    population: Mapping[str, Tensor] = {}
    settings = dataclasses.replace(
        SETTINGS, population=PopulationSettings(targets=targets, rank=3, alpha=7.0)
    )
    if referenced:
        model = attach_population(base, settings.population, seed=1)
        randomize((p for n, p in model.named_parameters() if "lora_" in n), seed=4)
        population = population_state(model)
        base = merge_population(model.unload(), settings.population, population)
    structure = preset(preset_name)
    drawn = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(1))
    randomize(drawn.parameters(), seed=2)
    mean = torch.zeros(drawn.embedding_shape)
    return Release(
        base=base,
        tokenizer=words(),
        task=load_task("LaMP_3", template="short"),
        structure=structure,
        settings=settings,
        seed=0,
        shared={**shared_tensors(drawn), "mean_embedding": mean, "prototypes": mean[None][:0]},
        population=population,
        notes={},
    )


def installed(release: Release, folder: Path) -> Release:
    """The release as a device reads it, embedded or with the base of `folder / "base"`.

    Writes an embedded base there, for other programs to load.
    """
    if release.population:
        files = release_to_files(release, base=PUBLIC)
        return release_in_memory(files, folder / "base")
    files = release_to_files(release)
    (folder / "base").mkdir()
    for name, data in files.items():
        if name.startswith("base/"):
            (folder / name).write_bytes(data)
    return release_in_memory(files)


def public_base(folder: Path) -> Path:
    """The base of `noisy_release` as a folder of a hub, before any population LoRA."""
    tiny_base(dtype=torch.float32).save_pretrained(folder / "base")
    noisy_release().tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def user_tensors(release: Release, seed: int = 5) -> dict[str, Tensor]:
    """A noisy embedding and adapter that fit the release."""
    model = release.model()
    tensors = {
        "embedding": torch.zeros(model.embedding_shape),
        **{
            f"lora.{site.path}.{factor}": torch.zeros(shape)
            for site in model.sites
            for factor, shape in (
                ("A", (model.structure.rank, site.d_in)),
                ("B", (site.d_out, model.structure.rank)),
            )
        },
    }
    randomize(tensors.values(), seed=seed)
    return tensors


def _written_by(write: Callable[[Path, Request], Exported], *, whole: bool = False) -> Write:
    """The writer of a format, called with the parts of what it writes."""

    def written(
        out: Path, release: Release, tensors: Mapping[str, Tensor], **options: Any
    ) -> Exported:
        if write in (write_gguf, write_gguf_merged):
            pytest.importorskip("gguf")
        base = PUBLIC if release.population and not whole else None
        return write(out, Request(release, tensors, BUNDLE, base=base, **options))

    return written


peft_of, gguf_of, mlx_of = (_written_by(write) for write in (write_peft, write_gguf, write_mlx))
merged_of, gguf_merged_of = (
    _written_by(write, whole=True) for write in (write_merged, write_gguf_merged)
)


def release_and_user(preset_name: str = "device", **options: Any) -> tuple[Release, Any]:
    """A noisy release, and an embedding and adapter that fit it."""
    release = noisy_release(preset_name, **options)
    return release, user_tensors(release)


def own_items(count: int = 12) -> tuple[Encoded, ...]:
    rng = random.Random(9)
    return tuple(sample(rng) for _ in range(count))


@torch.no_grad()
def our_logits(
    release: Release,
    tensors: Mapping[str, Tensor],
    item: Encoded,
    *,
    double: bool = False,
    arm: str = "stage3",
) -> Tensor:
    """At the item's answer, by PROPER's own model and the pass of an arm."""
    answering = ArmModel(release, release.task)
    model = answering.model
    if double:
        model.double()
        tensors = {name: tensor.double() for name, tensor in tensors.items()}
    make_pass = answering.make_pass(arm, [tensors])
    if double:
        model.lora.double()
    batch = release.encoder().batch([item], [0])
    return model.answer_logits(batch, make_pass(batch.slots))


@torch.no_grad()
def logits_of(model: Any, item: Encoded) -> Tensor:
    """The same by any causal LM of Hugging Face."""
    logits: Tensor = model(input_ids=torch.tensor([item.tokens])).logits
    return logits[0, item.prompt_tokens - 1 : -1]
