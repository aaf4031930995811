"""The whole method, without Flower, on the planted population of docs/method.md 5: used by its assertions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.person.adapting import adapt_users
from client.person.arms import predict
from client.person.state import PersonalState
from coordinator.phase_cache import PhaseCache
from coordinator.pooled_stages import run_pooled_stages
from proper_model.answering.routing_reader import routing_weights
from proper_model.engine.checkpoint import load_checkpoint
from proper_model.evaluation.metrics import Prediction
from proper_model.model.passes import group_pass
from proper_model.release.contents import Release
from proper_model.settings.presets import Structure, preset
from proper_model.settings.profile import (
    ATTENTION_TARGETS,
    FFN_TARGETS,
    GroupSettings,
    PopulationSettings,
    RouterSettings,
    StageSettings,
    UserSettings,
)
from proper_model.stages.pooled_users import PooledData, pool
from proper_model.tasks.records import User
from proper_model.tasks.task import load_task
from simulations.synthetic.people import SyntheticPopulation, make_synthetic
from simulations.synthetic.tiny_base import make_tiny_base

SETTINGS = StageSettings(
    name="planted",
    max_prompt_tokens=64,
    max_answer_tokens=8,
    tokens_per_step=8192,
    dtype="float32",
    weight_decay=0.0,
    warmup_ratio=0.05,
    max_grad_norm=1.0,
    population=PopulationSettings(
        targets=ATTENTION_TARGETS + FFN_TARGETS,
        learning_rate=4e-3,
        epochs=4,
        batch_size=64,
        use_history=True,
        patience=1,
    ),
    group=GroupSettings(
        dropout=0.0,
        learning_rate=8e-3,
        embedding_learning_rate=4e-2,
        epochs=8,
        batch_size=64,
        # A third of the queries are private habits: the surer of its group a model is, the worse its
        # loss on those, so loss on queries would stop it before it has found groups.
        early_stopping=False,
    ),
    router=RouterSettings(cohort=30, dropout=0.0, learning_rate=1e-3, epochs=1, batch_size=64),
    user=UserSettings(
        dropout=0.1,
        learning_rates=(4e-3,),
        epochs=20,
        batch_size=8,
        embedding_learning_rate=5e-2,
        embedding_epochs=20,
        embedding_batch_size=8,
        patience=6,
        held_back_folds=3,
    ),
)


@dataclass
class PlantedRun:
    """One population after all stages."""

    population: SyntheticPopulation
    release: Release
    states: Mapping[tuple[str, str], PersonalState]
    data: PooledData
    table: torch.Tensor
    pooled: tuple[User, ...]

    @property
    def truth(self) -> Mapping[str, Any]:
        return self.population.truth

    def of_arm(self, arm: str) -> dict[str, PersonalState]:
        return {user: state for (name, user), state in self.states.items() if name == arm}

    def answers(
        self, arm: str, states: Mapping[str, PersonalState] | None = None
    ) -> list[Prediction]:
        chosen = self.of_arm(arm) if states is None else states
        return predict(self.release, self.population.population.test, arm, chosen)

    def routing(self) -> dict[str, list[list[float]]]:
        """Mean routing weights of the trained pooled users on their own histories, [S][N]."""
        model, encoder = self.release.model(), self.release.encoder()
        found = {}
        for slot, user in enumerate(self.data.trained):
            batch = encoder.batch(user.history, [0] * len(user.history))
            weights = routing_weights(model, batch, group_pass(batch.slots, self.table[slot][None]))
            found[self.pooled[slot].user_id] = weights.mean(1).tolist()
        return found


def run_planted(
    folder: Path,
    *,
    seed: int,
    structure: Structure | None = None,
    settings: StageSettings = SETTINGS,
    arms: tuple[str, ...] = ("stage2", "stage3", "oppu-mlp"),
    **knobs: Any,
) -> PlantedRun:
    """Make a population, train all stages, adapt every unseen user."""
    torch.set_num_threads(1)
    population = make_synthetic("synth_tag", seed=seed, **knobs)
    base = make_tiny_base(
        folder / "base", population.pretrain_texts, vocabulary=population.vocabulary
    )
    task = load_task("synth_tag")
    structure = structure or dataclasses.replace(preset("default"), embedding_dim=16)
    release = run_pooled_stages(
        population.population.pooled,
        task,
        str(base),
        structure,
        settings,
        seed=seed,
        cache=folder / "cache",
    )
    states = adapt_users(
        release, population.population.test, arms=arms, bundle_id="planted", seed=seed
    )
    encoder = release.encoder()
    data = pool(population.population.pooled, task, encoder, settings, seed)
    return PlantedRun(
        population=population,
        release=release,
        states=states,
        data=data,
        table=_table(folder / "cache"),
        pooled=_trained_users(population, data, release),
    )


def _table(cache: Path) -> torch.Tensor:
    """The pooled users' embeddings, which stay in the server's cache and are never released."""
    (folder,) = cache.glob("group-*")
    found = load_checkpoint(PhaseCache(cache).folder / folder.name / "done.safetensors")
    assert found is not None
    return found[0]["table"]


def _trained_users(
    population: SyntheticPopulation, data: PooledData, release: Release
) -> tuple[User, ...]:
    """Pooled users in the order of `data.trained`, found again by their tokens."""
    encoder, task = release.encoder(), release.task
    by_tokens = {
        tuple(encoder.encode(task.history_example(item)).tokens for item in user.history): user
        for user in population.population.pooled
    }
    return tuple(
        by_tokens[tuple(sample.tokens for sample in user.history)] for user in data.trained
    )
