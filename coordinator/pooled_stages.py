"""The pooled stages in order, each cached and frozen before the next (PROPER section 3).

    1      population LoRA, merged into the base       `proper_model.stages.population`
    2      experts, routers, pooled users' embeddings  `proper_model.stages.group`
    3a-3b  LoRA-aware router                           `proper_model.stages.lora_router`
    cal    where private LoRAs begin, and how much a
           history may change them                     `coordinator.calibration_phases`

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

from coordinator.calibration_phases import calibrate_release
from coordinator.phase_cache import PhaseCache
from coordinator.phase_checks import (
    EXPERT_B,
    POPULATION_B,
    check_learned,
    note_moved,
    zeros_like_b,
)
from coordinator.phase_keys import PhaseInputs
from coordinator.phase_runner import GroupPeople, Notes, PhaseRunner
from coordinator.pooled_privacy import privacy_notes, spent_on
from proper_model.base.loading import compute_dtype, default_device, fingerprint
from proper_model.base.population_lora import merge_population
from proper_model.base.quantized import quantize_base
from proper_model.checks import load_base
from proper_model.kernels import mix_seed
from proper_model.model import AdaptedModel
from proper_model.progress import Progress, silent
from proper_model.release.contents import (
    Release,
    load_shared,
    shared_tensors,
    unread_embeddings,
)
from proper_model.settings import (
    BaseWeights,
    Calibration,
    StageSettings,
    Structure,
)
from proper_model.stages import (
    Beside,
    PooledData,
    check_people,
    first_embeddings,
    pool,
    published_embeddings,
    train_group,
    train_group_episodic,
    train_lora_router,
    train_population,
)
from proper_model.stages.pooled_users import histories_of
from proper_model.tasks import Task, User
from proper_model.text import Encoder


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
    personalized: Sequence[User] = (),
    shuffle_identities: bool = False,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
    curves: Path | None = None,
) -> Release:
    """Stages 1, 2 and 3a-3b, each frozen before the next; stage 1 alone where `population_only` says so.

    Args:
        beside: what the same users did in further tasks, trained together with the release's own.
        personalized: people whose histories, never queries, train stages 2 and 3a-3b too.
        shuffle_identities: have stages 2 and 3a-3b trained on items dealt to the wrong people.
        memory_bytes: what training may take beside the base; None: what a GPU has free, and no
            limit on a CPU.
        curves: folder for loss and learning rate by step of every phase (`step_curves`).

    Raises DataError if there are too few pooled users to hold some back; NothingLearnedError if no
    expert, or no embedding, has moved from where it began; ConfigError if privacy is asked for and
    cannot be had (`pooled_privacy`).
    """
    say, kind = progress or silent, (structure, settings, seed)
    settings, spent = spent_on(settings, structure, shuffled=shuffle_identities, more=personalized)
    say("base", 0, 0)  # said before anything of it: clocks listen too
    dtype = compute_dtype(settings.dtype, default_device())
    model, tokenizer = load_base(base, computing=dtype)
    say("tokenize", 0, 0)
    encoder = _encoder(tokenizer, settings)
    data = pool(pooled, task, encoder, settings, seed, beside=beside)
    unasked = histories_of(personalized, task, encoder)
    people = GroupPeople.of(data, unasked, seed if shuffle_identities else None)
    _check_counts(data, people, structure, settings)  # before stage 1 takes its time
    fingerprints = fingerprint(model), data.fingerprint()
    machine = default_device().type, torch.get_num_threads()
    inputs = PhaseInputs(
        *fingerprints, structure, settings, seed, *machine, grouped=people.fingerprint(data)
    )
    kept = PhaseCache(cache, {user.user_id for user in (*pooled, *personalized)})
    stages = _Stages(PhaseRunner(encoder, data, people, inputs, kept, memory_bytes, say, curves))

    population, notes1 = stages.population(model)
    merged = merge_population(model, settings.population, population).to(dtype)
    shared, calibrated, notes = stages.shared(merged)

    say("release", 0, 0)
    if settings.base_weights != BaseWeights.FULL:  # what is released is whole
        model, _ = load_base(base, computing=dtype)
        merged = merge_population(model, settings.population, population).to(dtype)
    private = privacy_notes(settings, structure, spent, len(people.users))
    notes = {"population": notes1, **notes, **_counts(data, people), **private}
    return Release(merged, tokenizer, task, *kind, shared, population, notes, calibrated)


@dataclass(frozen=True)
class _Stages:
    """Stages 1, 2 and 3a-3b, in the order in which they are frozen."""

    phases: PhaseRunner

    def shared(self, merged: Any) -> tuple[dict[str, Tensor], Calibration | None, Notes]:
        """What all after stage 1 release over the merged base, and what they noted."""
        structure, settings = self.phases.inputs.structure, self.phases.inputs.settings
        notes2: Notes = {}
        notes3: Notes = {}
        if structure.population_only:
            adapted, published = self._adapted(merged), unread_embeddings()
            nobody = published["mean_embedding"][None].to(adapted.device)
            groups = _Groups(nobody.repeat(len(self.phases.people.users), 1, 1), {})
        else:
            adapted, groups, notes2 = self.group(merged)
            notes3 = self.router(adapted, groups.table) if structure.has_lora_router else {}
            published = groups.published(settings, self.phases.inputs.seed)
        calibrated, starts, notes4 = calibrate_release(
            self.phases, adapted, groups.table, published
        )
        shared = {**shared_tensors(adapted), **published, **starts}
        return shared, calibrated, {"group": notes2, "router": notes3, **notes4}

    def _adapted(self, merged: Any) -> AdaptedModel:
        """The merged base as it is held from here on, with adapters as they begin."""
        return AdaptedModel(
            quantize_base(merged, self.phases.inputs.settings.base_weights),
            self.phases.inputs.structure,
            generator=torch.Generator().manual_seed(mix_seed(self.phases.inputs.seed, 1)),
        )

    def population(self, base: Any) -> tuple[Mapping[str, Tensor], Notes]:
        """Stage 1: the population LoRA's factors."""
        self.phases.say("population", 0, 0)

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            state, report = train_population(
                base,
                self.phases.encoder,
                self.phases.data.trained,
                self.phases.data.held_back,
                self.phases.inputs.settings,
                **self.phases.how("population", checkpoint),
                watch=self.phases.watch(checkpoint),
            )
            return state, report.as_dict()

        state, notes = self.phases.run("population", self.phases.inputs.population_key(), train)
        return state, note_moved(notes, state, zeros_like_b(state, ending=POPULATION_B))

    def group(self, merged: Any) -> tuple[AdaptedModel, _Groups, Notes]:
        """Stage 2: the adapted model, frozen, and the pooled users' embeddings."""
        self.phases.say("group", 0, 0)
        settings, seed = self.phases.inputs.settings, self.phases.inputs.seed
        adapted = self._adapted(merged)
        inferring = self.phases.inputs.structure.infers_user
        pooled = (
            adapted,
            self.phases.encoder,
            self.phases.people.users,
            self.phases.data.held_back,
            settings,
        )

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            how, more = self.phases.how("group", checkpoint), {}
            how["watch"] = self.phases.watch(checkpoint)
            if inferring:
                inferred, table, report = train_group_episodic(*pooled, **how)
                more = inferred.tensors()
            else:
                table, report = train_group(*pooled, **how)
            return {**_split(adapted)[0], "table": table.cpu(), **more}, report.as_dict()

        tensors, notes = self.phases.run("group", self.phases.inputs.group_key(), train)
        groups = _Groups.of(tensors, adapted.device)
        start = None
        if self.phases.inputs.structure.reads_user and not inferring:
            start = first_embeddings(adapted, len(self.phases.people.users), seed)
        check_learned(tensors, start, notes)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        adapted.requires_grad_(False)
        notes = note_moved(notes, tensors, zeros_like_b(tensors, ending=EXPERT_B))
        if start is not None:
            notes = notes | {"embeddings": note_moved({}, _rows(groups.table), _rows(start))}
        return adapted, groups, notes

    def router(self, adapted: AdaptedModel, table: Tensor) -> Notes:
        """Stages 3a-3b, on pooled users only; trains W_l in `adapted`."""
        self.phases.say("router", 0, 0)
        settings, users = self.phases.inputs.settings, self.phases.people.users
        before = {name: weight.clone() for name, weight in _split(adapted)[1].items()}

        def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
            chosen = self.phases.cohort()
            report = train_lora_router(
                adapted,
                self.phases.encoder,
                [users[u] for u in chosen],
                table[chosen],
                settings,
                **self.phases.how("router", checkpoint),
                watch=self.phases.watch(checkpoint),
            )
            return _split(adapted)[1], report.as_dict()

        tensors, notes = self.phases.run("router", self.phases.inputs.router_key(), train)
        load_shared(adapted, {**shared_tensors(adapted), **tensors})
        return note_moved(notes, tensors, before)


@dataclass(frozen=True)
class _Groups:
    """The pooled users' embeddings [U, tables, e], and what infers them, by names on disk."""

    table: Tensor
    inferred: Mapping[str, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device) -> _Groups:
        inferred = {name: t for name, t in tensors.items() if name.startswith("inferred.")}
        return cls(tensors["table"].to(device), inferred)

    def published(self, settings: StageSettings, seed: int) -> dict[str, Tensor]:
        """What a release says of them. Where embeddings are inferred, nobody's items give zeros."""
        if not self.inferred:
            return published_embeddings(self.table, settings, seed)
        mean = torch.zeros_like(self.table[0])
        averaged = settings.privacy is None  # else c is zero, and nobody's
        return {
            **published_embeddings(self.table, settings, seed, mean=mean),
            **self.inferred,
            "inferred.center_count": torch.tensor([len(self.table) if averaged else 0]),
        }


def _encoder(tokenizer: Any, settings: StageSettings) -> Encoder:
    return Encoder(
        tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )


def _check_counts(
    data: PooledData, people: GroupPeople, structure: Structure, settings: StageSettings
) -> None:
    """Raise TrainingError or ConfigError where there are too few people for what is asked."""
    if structure.infers_user:
        check_people(people.users, settings)
    if settings.privacy is not None:
        settings.privacy.check_users(len(data.trained))


def _counts(data: PooledData, people: GroupPeople) -> dict[str, Any]:
    counts = {"users_trained": len(data.trained), "users_held_back": len(data.held_back)}
    return counts | ({"users_personalized": people.unasked} if people.unasked else {})


def _split(adapted: AdaptedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Shared tensors of stage 2, and those of the LoRA-aware router."""
    shared = shared_tensors(adapted)
    lora = {name: tensor for name, tensor in shared.items() if name.endswith(".lora")}
    return {n: t for n, t in shared.items() if n not in lora}, lora


def _rows(table: Tensor) -> dict[str, Tensor]:
    return {str(number): row for number, row in enumerate(table)}
