"""What a release contains, as files: the frozen model every device starts from.

Independent of signing (`bundle`) and transport. Files:

    base/*                    merged base W_p and its configuration, when embedded
    tokenizer/*               the tokenizer
    adapters/population/*     the population LoRA under PEFT's names, when the base is referenced
    shared.safetensors        experts, routers, mean embedding, prototypes, starts
    recipe.json               structure, stage-3 settings, calibration, seed, versions
    task.toml                 the task with its templates

No user embedding is in it, only the mean over at least ten users and prototypes over twenty each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from proper_model.base.checked import CheckedFiles, load_checked_base
from proper_model.base.loading import Population, compute_dtype, default_device
from proper_model.base.outside_config import saved_base_config
from proper_model.base.population_lora import population_config
from proper_model.base.portable_config import saved_files
from proper_model.base.quantized import is_quantized
from proper_model.base.sites import Site
from proper_model.bundle.file_names import (
    BASE,
    CONFIG,
    POPULATION_CONFIG,
    POPULATION_WEIGHTS,
    RECIPE,
    SHARED,
    TASK,
    TOKENIZER,
    is_release_file,
)
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.adapters import embedding_shape, table_width
from proper_model.release.recipe import BaseSource, Recipe, ReleaseContent
from proper_model.settings.calibration import Calibration
from proper_model.settings.presets import RouterSharing, RouterText, Structure
from proper_model.settings.profile import BaseWeights, StageSettings
from proper_model.stages.inferred_embedding import InferredEmbedding, inferred_shapes
from proper_model.tasks.retrieval import check_depth
from proper_model.tasks.task import Depth, Task
from proper_model.text.encoding import Encoder
from proper_model.text.tokenizer_files import saved_tokenizer

STARTED_ARMS = ("stage3", "oppu-mlp")  # a release may hold a common start of either


@dataclass
class Release:
    """A frozen model with its task and settings; what stages 1 and 2 produce and stage 3 needs.

    Attributes:
        base: causal LM with the population LoRA merged (W_p, eq. 6).
        shared: tensors of `shared.safetensors` by name.
        population: tensors of the population LoRA under PEFT's names.
        notes: numbers about training, for reports; no user data.
        calibration: how much a history may change; None: every device chooses for itself.
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
    calibration: Calibration | None = None
    chosen_weights: BaseWeights | None = None
    memory_bytes: int | None = None

    def encoder(self) -> Encoder:
        return Encoder(
            self.tokenizer,
            max_prompt_tokens=self.settings.max_prompt_tokens,
            max_answer_tokens=self.settings.max_answer_tokens,
            retrieval_tokens=self.settings.retrieval_tokens,
        )

    def retrieving(self, depth: Depth, *, tokens: int | None = None) -> Release:
        """The same release, asked with so many own items before every question.

        Args:
            tokens: what a prompt may take more than without; None: as the settings say.

        Raises ConfigError for a depth that is none.
        """
        settings = self.settings
        if tokens is not None:
            settings = dataclasses.replace(settings, retrieval_tokens=tokens)
        task = dataclasses.replace(self.task, retrieve=check_depth(depth))
        return dataclasses.replace(self, task=task, settings=settings)

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
    def inferred(self) -> InferredEmbedding | None:
        """What gives a user's embedding; None where each fits it (`Structure.embedding_source`)."""
        if not self.structure.infers_user:
            return None
        return (
            InferredEmbedding.from_tensors(self.shared).to(default_device()).requires_grad_(False)
        )

    @property
    def prototypes(self) -> Tensor:
        """`[K, tables, e]`; K may be 0."""
        return self.shared["prototypes"].to(default_device())

    def start(self, arm: str, sites: Sequence[Site]) -> list[Tensor] | None:
        """Where an arm's new private LoRAs begin, as `start_tensors` takes it; None: drawn by seed."""
        if f"starts.{arm}.count" not in self.shared:
            return None
        letters = start_letters(self.structure, arm)
        return [self.shared[f"starts.{arm}.{site.path}.{one}"] for one in letters for site in sites]


def start_tensors(
    arm: str, structure: Structure, sites: Sequence[Site], factors: Sequence[Tensor], *, people: int
) -> dict[str, Tensor]:
    """An arm's common start, in the order of `UserLora.flat`, under its names on disk.

    `people`: over how many it is an average.
    """
    letters = start_letters(structure, arm)
    names = [f"starts.{arm}.{site.path}.{letter}" for letter in letters for site in sites]
    named = zip(names, factors, strict=True)
    found = {name: factor.detach().cpu().contiguous() for name, factor in named}
    return {**found, f"starts.{arm}.count": torch.tensor([people])}


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
    for number, site in enumerate(model.sites if len(model.experts) else ()):
        experts, router = model.expert(number), model.router(number)
        targets[f"experts.{site.path}.A"] = experts.a
        targets[f"experts.{site.path}.B"] = experts.b
        for kind in ("text", "user", "lora"):
            if (weight := getattr(router, kind)) is not None:
                targets[f"routers.{site.path}.{kind}"] = weight
    if model.tied_user is not None:
        targets["routers.tied.user"] = model.tied_user
    return targets


def expected_shared(
    structure: Structure, sites: Sequence[Site], *, directions: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a structure and its sites imply, but no prototypes.

        experts.SITE.A [N, r, i]   experts.SITE.B [N, o, r]
        routers.SITE.text [N, i]   routers.SITE.user [N, e]   routers.SITE.lora [N, o]
        routers.tied.user [N, e]   mean_embedding [tables, e]

        inferred.center [F]   inferred.project [F, D]   inferred.items [D]   inferred.weight [D, e]

    (`model.adapters.table_width` and `embedding_shape` say what e is.) Of stage 1 alone:
    mean_embedding, which nothing reads.
    What of the routers exists follows from the preset (`model.adapters`), and whether embeddings are
    inferred, from so many `directions` D. Prototypes `[K, tables, e]` stand apart, since K is the
    publisher's.
    """
    n, r = structure.experts, structure.rank
    tied = structure.router_sharing is RouterSharing.TIED
    expected: dict[str, tuple[int, ...]] = {}
    if structure.population_only:
        return {"mean_embedding": embedding_shape(structure, sites)}
    for site in sites:
        expected[f"experts.{site.path}.A"] = (n, r, site.d_in)
        expected[f"experts.{site.path}.B"] = (n, site.d_out, r)
        router = f"routers.{site.path}"
        if structure.router_text is not RouterText.NONE:
            expected[f"{router}.text"] = (n, site.d_in)
        if structure.router_user and not tied:
            expected[f"{router}.user"] = (n, table_width(structure, site))
        if structure.has_lora_router:
            expected[f"{router}.lora"] = (n, site.d_out)
    if tied:
        expected["routers.tied.user"] = (n, structure.embedding_dim)
    expected["mean_embedding"] = embedding_shape(structure, sites)
    if structure.infers_user:
        expected |= inferred_shapes(structure, directions)
    return expected


def expected_starts(
    structure: Structure, sites: Sequence[Site]
) -> list[dict[str, tuple[int, ...]]]:
    """The sets of tensors that a release may hold beside `expected_shared`, each whole or not at all.

        starts.ARM.SITE.A [r, i]   starts.ARM.SITE.B [o, r]   starts.ARM.count [1]
        starts.stage3.SITE.W [N, o], where W_l is every user's own

    ARM is stage3 or oppu-mlp.
    """
    n, r = structure.experts, structure.rank
    found: list[dict[str, tuple[int, ...]]] = []
    for arm in STARTED_ARMS:
        one: dict[str, tuple[int, ...]] = {f"starts.{arm}.count": (1,)}
        for site in sites:
            shapes = {"A": (r, site.d_in), "B": (site.d_out, r), "W": (n, site.d_out)}
            for letter in start_letters(structure, arm):
                one[f"starts.{arm}.{site.path}.{letter}"] = shapes[letter]
        found.append(one)
    return found


def start_letters(structure: Structure, arm: str) -> str:
    """What a common start of an arm has of every site: A, B, and W_l where it is the user's own."""
    return "ABW" if structure.has_own_router and arm == "stage3" else "AB"


def unread_embeddings() -> dict[str, Tensor]:
    """What a release of stage 1 alone holds: no experts, no routers, an embedding of nobody."""
    return {
        "mean_embedding": torch.zeros(1, 1),
        "mean_embedding_count": torch.tensor([0]),
        "prototypes": torch.zeros(0, 1, 1),
        "prototype_counts": torch.zeros(0, dtype=torch.int64),
    }


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
    if base is None:
        saved = saved_files(
            release.base, lambda name: is_release_file(BASE + name), max_shard_size="512MB"
        )
        files |= {BASE + name: data for name, data in saved.items()}
        files[BASE + CONFIG] = saved_base_config(saved[CONFIG])
    else:
        config = population_config(release.settings.population, base.name)
        files[POPULATION_WEIGHTS] = save(dict(release.population))
        files[POPULATION_CONFIG] = config.encode()
    files |= {TOKENIZER + name: data for name, data in saved_tokenizer(release.tokenizer).items()}
    files[SHARED] = save({n: t.contiguous() for n, t in release.shared.items()})
    files[TASK] = release.task.toml_text.encode()
    files[RECIPE] = Recipe(
        release.structure,
        release.settings,
        release.task.template,
        release.seed,
        base,
        release.notes,
        release.calibration,
    ).to_bytes()
    return files


def release_from_files(
    files: Mapping[str, bytes],
    content: ReleaseContent,
    base: CheckedFiles,
    *,
    base_weights: BaseWeights | None = None,
) -> Release:
    """The inverse of `release_to_files`, for files that were verified before.

    A referenced base is merged with the shipped population LoRA. The base's linears are then held
    as `base_weights` says, by default the settings'.

    Args:
        files: contents by name; those of `base` and of the tokenizer are not needed.
        content: what `checks.release` made of the files; its configuration and tokenizer are used.
        base: where the base's weights lie and what their hashes must be.

    Raises BaseModelError for a base that is another one or cannot be loaded.
    """
    recipe = content.recipe
    if content.config is None:
        raise BaseModelError("the configuration of the release's base is not at hand")
    settings = recipe.settings
    chosen = None if base_weights == settings.base_weights else base_weights
    if base_weights is not None:
        settings = dataclasses.replace(settings, base_weights=base_weights)
    state = {} if recipe.base is None else load(files[POPULATION_WEIGHTS])
    device = default_device()
    model = load_checked_base(
        content.config,
        content.tokenizer,
        base,
        dtype=compute_dtype(settings.dtype, device),
        device=device,
        population=Population(settings.population, state) if state else None,
        weights=settings.base_weights,
    )
    model.requires_grad_(False)
    return Release(
        base=model,
        tokenizer=content.tokenizer,
        task=content.task,
        structure=recipe.structure,
        settings=settings,
        seed=recipe.seed,
        shared=load(files[SHARED]),
        population=state,
        notes=recipe.notes,
        calibration=recipe.calibration,
        chosen_weights=chosen,
    )
