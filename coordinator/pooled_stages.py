"""The pooled stages in order, each cached and frozen before the next (PROPER section 3).

    1      population LoRA, merged into the base       `proper_model.stages.population`
    2      experts, routers, pooled users' embeddings  `proper_model.stages.group`
    3a-3b  LoRA-aware router                           `proper_model.stages.lora_router`
    start  where private LoRAs begin                   `proper_model.stages.common_lora`
    cal    how much a history may change               `proper_model.stages.calibration`

The last two run only where a profile keeps people to calibrate with (docs/method.md 1.11).

Users here have agreed to pool their data. Every phase is stored under the hash of all it depends
on, so that runs share what they can and a killed run goes on from its last checkpoint. What comes out
is a `Release`, ready to be signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coordinator.phase_cache import PhaseCache, Train
from coordinator.phase_checks import (
    EXPERT_B,
    POPULATION_B,
    check_experts,
    check_finite,
    note_moved,
    zeros_like_b,
)
from coordinator.phase_keys import Key, PhaseInputs
from proper_model.base.loading import compute_dtype, default_device, fingerprint
from proper_model.base.population_lora import merge_population
from proper_model.base.quantized import quantize_base
from proper_model.checks import load_base
from proper_model.kernels import mix_seed
from proper_model.model import AdaptedModel
from proper_model.progress import Progress, silent
from proper_model.release.contents import (
    STARTED_ARMS,
    Release,
    load_shared,
    shared_tensors,
    start_tensors,
)
from proper_model.settings import (
    BaseWeights,
    Calibration,
    StageSettings,
    Structure,
    from_mapping,
    to_mapping,
)
from proper_model.stages import (
    Beside,
    PooledData,
    calibrate,
    common_start,
    first_embeddings,
    pool,
    published_embeddings,
    router_cohort,
    train_group,
    train_lora_router,
    train_population,
)
from proper_model.tasks import Task, User
from proper_model.text import Encoder

Notes = Mapping[str, Any]


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
    say = progress or silent
    say("base", 0, 0)  # said before anything of it: clocks listen too
    dtype = compute_dtype(settings.dtype, default_device())
    model, tokenizer = load_base(base, computing=dtype)
    encoder = _encoder(tokenizer, settings)
    say("tokenize", 0, 0)
    data = pool(pooled, task, encoder, settings, seed, beside=beside)
    device, threads = default_device().type, torch.get_num_threads()
    inputs = PhaseInputs(
        fingerprint(model), data.fingerprint(), structure, settings, seed, device, threads
    )
    stages = _Stages(encoder, data, inputs, PhaseCache(cache), memory_bytes, say)

    population, notes1 = stages.population(model)
    merged = merge_population(model, settings.population, population).to(dtype)
    adapted, table, notes2 = stages.group(merged)
    notes3 = stages.router(adapted, table) if structure.has_lora_router else {}
    shared = published_embeddings(table, settings, seed)
    calibration, starts, notes4 = stages.calibration(adapted, table, shared)

    say("release", 0, 0)
    if settings.base_weights != BaseWeights.FULL:  # what is released is whole
        model, _ = load_base(base, computing=dtype)
        merged = merge_population(model, settings.population, population).to(dtype)
    return Release(
        base=merged,
        tokenizer=tokenizer,
        task=task,
        structure=structure,
        settings=settings,
        seed=seed,
        shared={**shared_tensors(adapted), **shared, **starts},
        population=population,
        notes=dict(population=notes1, group=notes2, router=notes3, **notes4, **_counts(data)),
        calibration=calibration,
    )


@dataclass(frozen=True)
class _Stages:
    """The phases, each from the cache or trained into it."""

    encoder: Encoder
    data: PooledData
    inputs: PhaseInputs
    cache: PhaseCache
    memory_bytes: int | None
    say: Progress

    def population(self, base: Any) -> tuple[Mapping[str, Tensor], Notes]:
        """Stage 1: the population LoRA's factors."""
        self.say("population", 0, 0)

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            state, report = train_population(
                base,
                self.encoder,
                self.data.trained,
                self.data.held_back,
                self.inputs.settings,
                **self._how("population", checkpoint),
            )
            return state, report.as_dict()

        state, notes = self._phase("population", self.inputs.population_key(), train)
        return state, note_moved(notes, state, zeros_like_b(state, ending=POPULATION_B))

    def group(self, merged: Any) -> tuple[AdaptedModel, Tensor, Notes]:
        """Stage 2: the adapted model, frozen, and the pooled users' embeddings [U, tables, e]."""
        self.say("group", 0, 0)
        settings, seed = self.inputs.settings, self.inputs.seed
        adapted = AdaptedModel(
            quantize_base(merged, settings.base_weights),
            self.inputs.structure,
            generator=torch.Generator().manual_seed(mix_seed(seed, 1)),
        )

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            table, report = train_group(
                adapted,
                self.encoder,
                self.data.trained,
                self.data.held_back,
                settings,
                **self._how("group", checkpoint),
            )
            return {**_split(adapted)[0], "table": table.cpu()}, report.as_dict()

        tensors, notes = self._phase("group", self.inputs.group_key(), train)
        check_experts(tensors, notes)
        table = tensors["table"].to(adapted.device)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        adapted.requires_grad_(False)
        start = first_embeddings(adapted, len(self.data.trained), seed)
        moved = note_moved(notes, tensors, zeros_like_b(tensors, ending=EXPERT_B))
        return adapted, table, moved | {"embeddings": note_moved({}, _rows(table), _rows(start))}

    def router(self, adapted: AdaptedModel, table: Tensor) -> Notes:
        """Stages 3a-3b, on pooled users only; trains W_l in `adapted`."""
        self.say("router", 0, 0)
        settings, users = self.inputs.settings, self.data.trained
        before = {name: weight.clone() for name, weight in _split(adapted)[1].items()}

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            chosen = self._cohort()
            report = train_lora_router(
                adapted,
                self.encoder,
                [users[u] for u in chosen],
                table[chosen],
                settings,
                **self._how("router", checkpoint),
            )
            return _split(adapted)[1], report.as_dict()

        tensors, notes = self._phase("router", self.inputs.router_key(), train)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        return note_moved(notes, tensors, before)

    def calibration(
        self, adapted: AdaptedModel, table: Tensor, published: Mapping[str, Tensor]
    ) -> tuple[Calibration | None, dict[str, Tensor], Notes]:
        """What a device may change, the common starts that it begins at, and notes; often nothing."""
        people = self.data.calibrating
        if not people:
            return None, {}, {}
        starts = self._starts(adapted, table)
        self.say("calibration", 0, 0)
        settings = self.inputs.settings
        factors = {
            arm: [own[f"{half}.{n}"] for half in "AB" for n in range(len(adapted.sites))]
            for arm in STARTED_ARMS
            if (own := _below(starts, arm))
        }

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            found = calibrate(
                adapted,
                self.encoder,
                people,
                mean=published["mean_embedding"].to(adapted.device),
                prototypes=published["prototypes"].to(adapted.device),
                starts=factors,
                settings=settings,
                **self._how("calibration", checkpoint),
            )
            return {}, {
                "calibration": to_mapping(found.calibration),
                "starts": list(found.starts),
                "losses": dict(found.notes),
            }

        key = self.inputs.calibration_key(self.data.calibration_fingerprint())
        _, notes = self._phase("calibration", key, train)
        calibration = from_mapping(Calibration, notes["calibration"], where="calibration")
        cohort = len(self._cohort())
        shipped: dict[str, Tensor] = {}
        for arm in notes["starts"]:
            shipped |= start_tensors(arm, adapted.sites, factors[arm], people=cohort)
        told = {"people": len(people), "starts": notes["starts"], **notes["losses"]}
        empty = not calibration.stage3 and not calibration.oppu_mlp
        return None if empty else calibration, shipped, {"calibration": told}

    def _starts(self, adapted: AdaptedModel, table: Tensor) -> dict[str, Tensor]:
        """Common starts by `ARM.A.N` and `ARM.B.N`, N the site's number, as far as there are."""
        self.say("starts", 0, 0)
        chosen, users = self._cohort(), self.data.trained

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            found: dict[str, Tensor] = {}
            for arm in STARTED_ARMS:
                start = common_start(
                    adapted,
                    self.encoder,
                    [users[u] for u in chosen],
                    table[chosen] if arm == "stage3" else None,
                    self.inputs.settings,
                    **self._how("starts", checkpoint.with_name(f"{checkpoint.name}.{arm}")),
                )
                sites = range(len(adapted.sites))
                names = [f"{arm}.{half}.{number}" for half in "AB" for number in sites]
                found |= dict(zip(names, start or (), strict=start is not None))
            return found, {}

        return self._phase("starts", self.inputs.starts_key(), train)[0]

    def _cohort(self) -> list[int]:
        """Positions of the users whose provisional LoRAs 3a trains."""
        settings = self.inputs.settings
        return router_cohort(self.data.trained, settings.router.cohort, self.inputs.seed)

    def _phase(self, name: str, key: Key, train: Train) -> tuple[dict[str, Tensor], Notes]:
        """What a phase ended with, trained here if nobody has."""
        phase = self.cache.phase(name, key)
        tensors, notes = phase.train_once(train)
        check_finite(name, tensors, phase.folder)
        return tensors, notes

    def _how(self, phase: str, checkpoint: Path) -> dict[str, Any]:
        """What every stage is told beside its data and settings."""
        return {
            "seed": self.inputs.seed,
            "memory_bytes": self.memory_bytes,
            "checkpoint": checkpoint,
            "progress": lambda done, total: self.say(phase, done, total),
        }


def _encoder(tokenizer: Any, settings: StageSettings) -> Encoder:
    return Encoder(
        tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )


def _counts(data: PooledData) -> dict[str, Any]:
    return {"users_trained": len(data.trained), "users_held_back": len(data.held_back)}


def _split(adapted: AdaptedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Shared tensors of stage 2, and those of the LoRA-aware router."""
    shared = shared_tensors(adapted)
    lora = {name: tensor for name, tensor in shared.items() if name.endswith(".lora")}
    return {n: t for n, t in shared.items() if n not in lora}, lora


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those whose names begin with it and a dot, without that."""
    return {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}


def _rows(table: Tensor) -> dict[str, Tensor]:
    return {str(number): row for number, row in enumerate(table)}
