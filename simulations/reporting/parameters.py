"""How many numbers each part of a run trains or ships (docs/method.md 1.3), for `results.json`.

They follow from the paper's 552M user parameters for 100 users and 4M for the LoRA-aware router,
and are asserted against built models.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from proper_model.checks import FoundBase, find_base
from proper_model.federation.run_plan import RunPlan
from proper_model.settings import EmbeddingTables, RouterSharing, RouterText, Structure


@dataclass(frozen=True)
class BaseSizes:
    """Hidden width d, feed-forward width f, blocks L."""

    d: int
    f: int
    layers: int


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters by what trains them; `user_lora` and `user_embedding` are per user."""

    user_lora: int
    experts: int
    text_routers: int
    user_routers: int
    lora_routers: int
    user_embedding: int


def count_parameters(sizes: BaseSizes, structure: Structure) -> ParameterCounts:
    """Counts for gate, up (d -> f) and down (f -> d) in every block."""
    d, f, layers = sizes.d, sizes.f, sizes.layers
    n, e = structure.experts, structure.embedding_dim
    user_lora = structure.rank * (3 * d + 3 * f) * layers
    if structure.population_only:
        return ParameterCounts(user_lora, 0, 0, 0, 0, 0)
    tied = structure.router_sharing is RouterSharing.TIED
    widths = (3 * e or 2 * d + f) * layers  # of all sites' tables together
    embedding = {
        EmbeddingTables.ONE: e,
        EmbeddingTables.PER_LAYER: e * layers,
        EmbeddingTables.PER_LINEAR: widths,
    }[structure.embedding_tables]
    lora_router = n * (2 * f + d) * layers
    if structure.has_own_router:
        user_lora += lora_router
    return ParameterCounts(
        user_lora=user_lora,
        experts=n * structure.rank * (3 * d + 3 * f) * layers,
        text_routers=0 if structure.router_text is RouterText.NONE else n * (2 * d + f) * layers,
        user_routers=n * e if tied else n * widths if structure.router_user else 0,
        lora_routers=lora_router if structure.has_lora_router else 0,
        user_embedding=embedding,
    )


def parameter_counts(plan: RunPlan) -> dict[str, int]:
    """Counts by part; empty for folders without a release, for example hand-made ones.

    `base` is the whole base; `population_lora` stage 1; `experts`, `text_routers`, `user_routers`
    and `user_embeddings` (all pooled users') stage 2; `lora_routers` 3b; `user_lora` and
    `user_embedding` what one user's stage 3 trains.
    """
    shared = find_shared(plan)
    if shared is None:
        return {}
    base = find_base(plan.base)
    sizes = BaseSizes(d=base.hidden, f=base.ffn, layers=base.layers)
    counts = asdict(count_parameters(sizes, plan.structure))
    notes = release_notes(shared)
    trained = sum(int(notes.get(name, 0)) for name in ("users_trained", "users_personalized"))
    counts["user_embeddings"] = counts["user_embedding"] * trained
    counts["base"] = base.shape.numbers
    counts["population_lora"] = population_lora(base, plan)
    return {name: int(counts[name]) for name in sorted(counts)}


def find_shared(plan: RunPlan) -> Path | None:
    """`shared.safetensors` of the newest release in the run's folder."""
    found = sorted((plan.server_folder / "release").rglob("shared.safetensors"))
    return found[-1] if found else None


def population_lora(base: FoundBase, plan: RunPlan) -> int:
    """Numbers in stage 1's LoRA: its rank times in and out of every linear that it targets."""
    settings = plan.stage_settings.population
    return sum(
        settings.rank * (module.in_features + module.out_features)
        for path, module in base.model.named_modules()
        if path.rpartition(".")[2] in settings.targets and isinstance(module, torch.nn.Linear)
    )


def release_notes(shared: Path) -> dict[str, Any]:
    """What training noted in the release that `shared` belongs to."""
    recipe = json.loads(shared.with_name("recipe.json").read_text(encoding="utf-8"))
    return dict(recipe.get("notes", {}))
