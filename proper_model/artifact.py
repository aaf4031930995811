"""What a release contains, as files: the frozen model every device starts from.

Independent of signing (`bundle`) and transport. Files:

    base/*                    merged base W_p and its configuration, when embedded
    tokenizer/*               the tokenizer
    adapters/population/*     the population LoRA under PEFT's names, when the base is referenced
    shared.safetensors        experts, routers, mean embedding, prototypes
    recipe.json               structure, stage-3 settings, seed, versions
    task.toml                 the task with its templates

No user embedding is in it, only the mean and prototypes over at least ten users each.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from proper_model.base import Population, compute_dtype, default_device, load_base
from proper_model.config import BaseWeights, StageSettings
from proper_model.encoding import Encoder
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.experts import Experts
from proper_model.files import write_atomic
from proper_model.model import AdaptedModel
from proper_model.population import population_config
from proper_model.portable_config import make_portable
from proper_model.quantized import is_quantized
from proper_model.settings_io import from_mapping, to_mapping
from proper_model.structure import Structure
from proper_model.tasks import Task, task_from_toml

RECIPE_FORMAT = 1
POPULATION = "adapters/population/"
IN_PLACE = ("base/", "tokenizer/")  # what transformers reads by itself


@dataclass(frozen=True)
class BaseSource:
    """A base that is not shipped: its public name, no path, and the revision it was trained on."""

    name: str
    revision: str


@dataclass
class Release:
    """A frozen model with its task and settings; what stages 1 and 2 produce and stage 3 needs.

    Attributes:
        base: causal LM with the population LoRA merged (W_p, eq. 6).
        shared: tensors of `shared.safetensors` by name.
        population: PEFT state of the population LoRA and its `adapter_config` JSON.
        notes: numbers about training, for reports; no user data.
        chosen_weights: how this host holds the base, where that is not as the release says.
        memory_bytes: what answering may take beside the base on this host; None: no limit.
    """

    base: Any
    tokenizer: Any
    task: Task
    structure: Structure
    settings: StageSettings
    seed: int
    shared: Mapping[str, Tensor]
    population: Mapping[str, Tensor]
    notes: Mapping[str, Any]
    chosen_weights: BaseWeights | None = None
    memory_bytes: int | None = None

    def encoder(self) -> Encoder:
        return Encoder(
            self.tokenizer,
            max_prompt_tokens=self.settings.max_prompt_tokens,
            max_answer_tokens=self.settings.max_answer_tokens,
        )

    def model(self) -> AdaptedModel:
        """An adapted model around the base, loaded with the shared tensors and frozen."""
        model = AdaptedModel(
            self.base, self.structure, generator=torch.Generator().manual_seed(self.seed)
        )
        load_shared(model, self.shared)
        model.requires_grad_(False)
        return model

    @property
    def mean_embedding(self) -> Tensor:
        """`[tables, e]`, where an unseen user starts."""
        return self.shared["mean_embedding"].to(default_device())

    @property
    def prototypes(self) -> Tensor:
        """`[K, tables, e]`; K may be 0."""
        return self.shared["prototypes"].to(default_device())


def shared_tensors(model: AdaptedModel) -> dict[str, Tensor]:
    """Experts and routers under their names on disk, detached and on the CPU."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in _named_targets(model).items()
    }


@torch.no_grad()
def load_shared(model: AdaptedModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy shared tensors into a model of the same structure.

    Raises BundleFormatError if a tensor is missing or has another shape.
    """
    for name, target in _named_targets(model).items():
        if name not in tensors or tensors[name].shape != target.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise BundleFormatError(
                f"shared.safetensors: expected '{name}' of shape {tuple(target.shape)}, "
                f"found {found}",
                hint="the release was made for another base or preset",
            )
        target.copy_(tensors[name])


def _named_targets(model: AdaptedModel) -> dict[str, Tensor]:
    targets: dict[str, Tensor] = {}
    for number, site in enumerate(model.sites):
        experts, router = model.experts[number], model.router(number)
        assert isinstance(experts, Experts)
        targets[f"experts.{site.path}.A"] = experts.a
        targets[f"experts.{site.path}.B"] = experts.b
        for kind, weight in (
            ("text", router.text),
            ("user", router.user),
            ("lora", router.lora),
        ):
            if weight is not None:
                targets[f"routers.{site.path}.{kind}"] = weight
    if model.tied_user is not None:
        targets["routers.tied.user"] = model.tied_user
    return targets


def release_to_files(release: Release, *, base: BaseSource | None = None) -> dict[str, bytes]:
    """A release as named byte strings. Without `base` the merged base is embedded.

    Raises BaseModelError if a quantized base would be: every device packs the full one itself.
    """
    if base is None and is_quantized(release.base):
        raise BaseModelError(
            "a release embeds its base in full, and this one is quantized",
            hint="use the release as the pooled stages return it",
        )
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        release.tokenizer.save_pretrained(folder / "tokenizer")
        if base is None:
            release.base.save_pretrained(folder / "base", max_shard_size="512MB")
            make_portable(folder / "base")
        make_portable(folder / "tokenizer")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
    if base is not None:
        files[POPULATION + "adapter_model.safetensors"] = save(dict(release.population))
        files[POPULATION + "adapter_config.json"] = population_config(
            release.settings.population, base.name
        ).encode()
    files["shared.safetensors"] = save({n: t.contiguous() for n, t in release.shared.items()})
    files["task.toml"] = release.task.toml_text.encode()
    recipe = {
        "format": RECIPE_FORMAT,
        "structure": to_mapping(release.structure),
        "settings": to_mapping(release.settings),
        "template": release.task.template,
        "seed": release.seed,
        "base": None if base is None else {"name": base.name, "revision": base.revision},
        "notes": dict(release.notes),
    }
    files["recipe.json"] = json.dumps(recipe, sort_keys=True, indent=1).encode()
    return files


def release_from_files(
    files: Mapping[str, bytes],
    *,
    base_folder: str | None = None,
    folder: Path | None = None,
    base_weights: BaseWeights | None = None,
) -> Release:
    """The inverse of `release_to_files`, for files that were verified before.

    A referenced base is loaded from `base_folder`, else by its name, and merged with the shipped
    population LoRA. Its linears are then held as `base_weights` says, by default the settings'.

    Args:
        files: all files, or with `folder` all but `base/*` and `tokenizer/*`.
        folder: where the release lies; its embedded base is loaded from there in place.
    """
    recipe = json.loads(files["recipe.json"])
    if recipe.get("format") != RECIPE_FORMAT:
        raise BundleFormatError(
            f"recipe.json has format {recipe.get('format')}, expected {RECIPE_FORMAT}",
            hint="update PROPER, or install a bundle made by this version",
        )
    settings = from_mapping(StageSettings, recipe["settings"], where="recipe.json: settings")
    chosen = None if base_weights == settings.base_weights else base_weights
    if base_weights is not None:
        settings = dataclasses.replace(settings, base_weights=base_weights)
    base, tokenizer, population = _load_base(files, recipe, settings, base_folder, folder)
    base.requires_grad_(False)
    return Release(
        base=base,
        tokenizer=tokenizer,
        task=task_from_toml(
            files["task.toml"].decode(), template=recipe["template"], where="task.toml"
        ),
        structure=from_mapping(Structure, recipe["structure"], where="recipe.json: structure"),
        settings=settings,
        seed=int(recipe["seed"]),
        shared=load(files["shared.safetensors"]),
        population=population,
        notes=recipe["notes"],
        chosen_weights=chosen,
    )


def _load_base(
    files: Mapping[str, bytes],
    recipe: Mapping[str, Any],
    settings: StageSettings,
    base_folder: str | None,
    folder: Path | None,
) -> tuple[Any, Any, Mapping[str, Tensor]]:
    """W_p held as the settings say, its tokenizer, and the population LoRA of a referenced base."""
    device = default_device()
    dtype, weights = compute_dtype(settings.dtype, device), settings.base_weights
    if recipe["base"] is None:
        with _on_disk(files) if folder is None else nullcontext(folder) as place:
            base, tokenizer = load_base(
                f"{place}/base",
                tokenizer_from=f"{place}/tokenizer",
                dtype=dtype,
                device=device,
                weights=weights,
            )
        return base, tokenizer, {}
    state = load(files[POPULATION + "adapter_model.safetensors"])
    reference = recipe["base"]
    base, tokenizer = load_base(
        base_folder or reference["name"],
        revision=None if base_folder else reference["revision"],
        dtype=dtype,
        device=device,
        population=Population(settings.population, state),
        weights=weights,
    )
    return base, tokenizer, state


@contextmanager
def _on_disk(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Model and tokenizer files in a scratch folder: transformers reads paths only."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, data in files.items():
            if name.startswith(IN_PLACE):
                path = Path(scratch) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, data)
        yield Path(scratch)
