"""The pooled stages on the server: population, group, LoRA-aware router (PROPER section 3).

Users here have agreed to pool their data. Every phase is stored under the hash of all it depends
on, so that runs share what they can (presets share stage 1; arms share everything) and a killed
run goes on from its last step. What comes out is a `Release`, ready to be signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coordinator.phase_cache import PhaseCache
from coordinator.phase_checks import (
    EXPERT_B,
    POPULATION_B,
    check_experts,
    check_finite,
    note_moved,
    zeros_like_b,
)
from proper_model.base.loading import compute_dtype, default_device, fingerprint
from proper_model.base.population_lora import merge_population
from proper_model.base.quantized import quantize_base
from proper_model.checks import load_base
from proper_model.kernels import mix_seed
from proper_model.model import AdaptedModel
from proper_model.release.contents import Release, load_shared, shared_tensors
from proper_model.settings import BaseWeights, StageSettings, Structure, to_mapping
from proper_model.stages import (
    Beside,
    PooledData,
    find_prototypes,
    first_embeddings,
    pool,
    router_cohort,
    train_group,
    train_lora_router,
    train_population,
)
from proper_model.tasks import Task, User
from proper_model.text import Encoder

# (phase, done, total)
Progress = Callable[[str, int, int], None]
# Raised whenever training changes what it computes, so that old cache entries are not used.
TRAINING_VERSION = 5


def run_pooled_stages(
    pooled: Sequence[User],
    task: Task,
    base: str,
    structure: Structure,
    settings: StageSettings,
    *,
    seed: int,
    cache: Path,
    beside: Beside = (),
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> Release:
    """Stages 1, 2 and 3a-3b, each frozen before the next.

    `beside`: what the same users did in further tasks, trained together with the release's own.
    `memory_bytes` is what training may take beside the base; None: what a GPU has free, and no
    limit on a CPU.

    Raises DataError if there are too few pooled users to hold some back; NothingLearnedError if no
    expert has moved from where it began.
    """
    stages = _Stages(base, structure, settings, seed, PhaseCache(cache), memory_bytes, progress)
    stages.begin("tokenize")
    data = pool(pooled, task, stages.encoder, settings, seed, beside=beside)
    population, notes1 = stages.population(data)
    adapted, table, notes2 = stages.group(data)
    notes3 = stages.router(data, adapted, table) if structure.has_lora_router else {}
    stages.begin("release")
    return Release(
        base=stages.released_base(population),
        tokenizer=stages.tokenizer,
        task=task,
        structure=structure,
        settings=settings,
        seed=seed,
        shared={**shared_tensors(adapted), **published_embeddings(table, settings, seed)},
        population=population,
        notes={
            "population": notes1,
            "group": notes2,
            "router": notes3,
            "users_trained": len(data.trained),
            "users_held_back": len(data.held_back),
        },
    )


class _Stages:
    """The three phases with their cache keys; each key contains the one before."""

    def __init__(
        self,
        base: str,
        structure: Structure,
        settings: StageSettings,
        seed: int,
        store: PhaseCache,
        memory_bytes: int | None,
        progress: Progress | None,
    ) -> None:
        self.base_name = base
        self.structure, self.settings, self.seed = structure, settings, seed
        self.store, self.memory_bytes, self.progress = store, memory_bytes, progress
        self.dtype = compute_dtype(settings.dtype, default_device())
        self.begin("base")
        self.model, self.tokenizer = load_base(base, computing=self.dtype)
        self.encoder = Encoder(
            self.tokenizer,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_answer_tokens=settings.max_answer_tokens,
        )
        self.key: dict[str, Any] = {
            "version": TRAINING_VERSION,
            "base": fingerprint(self.model),
            "seed": seed,
            "settings": {
                name: value
                for name, value in to_mapping(settings).items()
                if not isinstance(value, dict) and name not in ("name", "base_weights")
            },
            # Sums of floats depend on both.
            "device": default_device().type,
            "threads": torch.get_num_threads(),
        }

    def population(self, data: PooledData) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Stage 1; leaves `self.model` merged and in the computing dtype."""
        self.begin("population")
        self.key |= {
            "data": data.fingerprint(),
            "population": to_mapping(self.settings.population),
            "cap": self.settings.group.max_items_per_user,
        }
        phase = self.store.phase("population", self.key)
        if not phase.done:
            phase.finish(
                *train_population(
                    self.model,
                    self.encoder,
                    data,
                    self.settings,
                    self.seed,
                    phase.checkpoint,
                    self._report("population"),
                    self.memory_bytes,
                )
            )
            self.model, _ = load_base(self.base_name, computing=self.dtype)
        state, notes = phase.load()
        check_finite("population", state, phase.folder)
        self.model = self._merged(self.model, state)
        return state, note_moved(notes, state, zeros_like_b(state, ending=POPULATION_B))

    def released_base(self, population: Mapping[str, Tensor]) -> Any:
        """The merged base in full, loaded again where stage 2 ran over a quantized one."""
        if self.settings.base_weights == BaseWeights.FULL:
            return self.model
        base, _ = load_base(self.base_name, computing=self.dtype)
        return self._merged(base, population)

    def _merged(self, base: Any, population: Mapping[str, Tensor]) -> Any:
        return merge_population(base, self.settings.population, population).to(self.dtype)

    def group(self, data: PooledData) -> tuple[AdaptedModel, Tensor, Mapping[str, Any]]:
        """Stage 2; the adapted model, frozen, and the pooled users' embeddings."""
        self.begin("group")
        adapted = AdaptedModel(
            quantize_base(self.model, self.settings.base_weights),
            self.structure,
            generator=torch.Generator().manual_seed(mix_seed(self.seed, 1)),
        )
        user = to_mapping(self.settings.user)
        self.key |= {
            "base_weights": str(self.settings.base_weights),
            "group": to_mapping(self.settings.group),
            "fit": {name: user[name] for name in FIT_SETTINGS},
            "structure": {
                name: value
                for name, value in to_mapping(self.structure).items()
                if name not in ("name", "user_routing", "detach_lora_router")
            },
        }
        phase = self.store.phase("group", self.key)
        if not phase.done:
            table, report = train_group(
                adapted,
                self.encoder,
                data.trained,
                data.held_back,
                self.settings,
                seed=self.seed,
                memory_bytes=self.memory_bytes,
                checkpoint=phase.checkpoint,
                progress=self._report("group"),
            )
            phase.finish({**_split(adapted)[0], "table": table.cpu()}, report.as_dict())
        tensors, notes = phase.load()
        check_finite("group", tensors, phase.folder)
        check_experts(tensors, notes)
        table = tensors["table"].to(adapted.device)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        adapted.requires_grad_(False)
        notes = note_moved(notes, tensors, zeros_like_b(tensors, ending=EXPERT_B))
        start = first_embeddings(adapted, len(data.trained), self.seed)
        notes["embeddings"] = note_moved({}, _rows(table), _rows(start))
        return adapted, table, notes

    def router(self, data: PooledData, adapted: AdaptedModel, table: Tensor) -> Mapping[str, Any]:
        """Stages 3a-3b, on pooled users only; trains W_l in `adapted`."""
        self.begin("router")
        self.key |= {
            "router": to_mapping(self.settings.router),
            "user": to_mapping(self.settings.user),
            "routing": to_mapping(self.structure),
        }
        phase = self.store.phase("router", self.key)
        before = {name: weight.clone() for name, weight in _split(adapted)[1].items()}
        if not phase.done:
            chosen = router_cohort(data.trained, self.settings.router.cohort, self.seed)
            report = train_lora_router(
                adapted,
                self.encoder,
                [data.trained[u] for u in chosen],
                table[chosen],
                self.settings,
                seed=self.seed,
                memory_bytes=self.memory_bytes,
                checkpoint=phase.checkpoint,
                progress=self._report("router"),
            )
            phase.finish(_split(adapted)[1], report.as_dict())
        tensors, notes = phase.load()
        check_finite("router", tensors, phase.folder)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        return note_moved(notes, tensors, before)

    def begin(self, phase: str) -> None:
        """Say what comes now, before anything of it: clocks listen too."""
        if self.progress:
            self.progress(phase, 0, 0)

    def _report(self, phase: str) -> Callable[[int, int], None]:
        progress = self.progress
        return lambda done, total: progress(phase, done, total) if progress else None


# What validation in stage 2 uses of the user settings: how embeddings are fitted.
FIT_SETTINGS = (
    "embedding_learning_rate",
    "embedding_batch_size",
    "patience",
    "refit",
    "held_back_fraction",
    "min_items_to_train",
)


def _split(adapted: AdaptedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Shared tensors of stage 2, and those of the LoRA-aware router."""
    shared = shared_tensors(adapted)
    lora = {name: tensor for name, tensor in shared.items() if name.endswith(".lora")}
    return {n: t for n, t in shared.items() if n not in lora}, lora


def _rows(table: Tensor) -> dict[str, Tensor]:
    return {str(number): row for number, row in enumerate(table)}


def published_embeddings(table: Tensor, settings: StageSettings, seed: int) -> dict[str, Tensor]:
    """Mean and prototypes of the pooled users' embeddings [U, tables, e]; never a row.

    With fewer users than a prototype needs even the mean would say much about each of them, so
    zeros are shipped and their count says so.
    """
    minimum = settings.group.prototype_min_users
    prototypes, counts = find_prototypes(
        table, settings.group.prototypes, minimum_users=minimum, seed=seed
    )
    enough = len(table) >= minimum
    mean = table.mean(0) if enough else torch.zeros_like(table[0])
    return {
        "mean_embedding": mean.cpu().contiguous(),
        "mean_embedding_count": torch.tensor([len(table) if enough else 0]),
        "prototypes": prototypes.cpu().contiguous(),
        "prototype_counts": torch.tensor(counts, dtype=torch.int64),
    }
