"""How many numbers each part of a run trains or ships, read from what the run left (METHOD 1.3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from proper_model.runplan import RunPlan
from simulations.calibrate import base_config

GROUPS = {
    "experts.": "experts",
    "routers.tied.": "user_router",
    "mean_embedding": "mean_embedding",
    "prototypes": "prototypes",
}
ROUTER_KINDS = {".text": "text_router", ".user": "user_router", ".lora": "lora_router"}


def parameter_counts(plan: RunPlan) -> dict[str, int]:
    """Counts by part, empty for folders without a release (for example hand-made ones).

    `base` is the whole base; `population_lora` stage 1; `experts`, `text_router`, `user_router`,
    `user_embeddings` stage 2; `lora_router` 3b; `user_lora`, `user_embedding` one user's stage 3.
    """
    shared = find_shared(plan)
    if shared is None:
        return {}
    counts = _base_counts(plan)
    with safe_open(shared, framework="pt") as file:
        sizes = {name: _numel(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, size in sizes.items():
        group = _group(name)
        if group is not None:
            counts[group] = counts.get(group, 0) + size
    one = sizes.get("mean_embedding", 0)
    structure = plan.structure
    counts["user_embedding"] = one
    counts["user_embeddings"] = one * _pooled_trained(shared.parent / "recipe.json")
    # An expert and a user LoRA are the same pair of factors (PROPER A.3).
    counts["user_lora"] = counts.get("experts", 0) // structure.experts
    return dict(sorted(counts.items()))


def find_shared(plan: RunPlan) -> Path | None:
    """`shared.safetensors` of the newest release in the run's folder."""
    found = sorted((plan.server_folder / "release").rglob("shared.safetensors"))
    return found[-1] if found else None


def _group(name: str) -> str | None:
    for prefix, group in GROUPS.items():
        if name.startswith(prefix) and not name.endswith(("_count", "_counts")):
            return group
    if name.startswith("routers."):
        return next((g for suffix, g in ROUTER_KINDS.items() if name.endswith(suffix)), None)
    return None


def _base_counts(plan: RunPlan) -> dict[str, int]:
    """Base and stage 1, counted on the meta device: no weights are loaded."""
    from transformers import AutoModelForCausalLM

    config: Any = base_config(plan.base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    population = plan.stage_settings.population
    lora = sum(
        population.rank * (module.in_features + module.out_features)
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in population.targets and isinstance(module, torch.nn.Linear)
    )
    return {"base": sum(p.numel() for p in model.parameters()), "population_lora": lora}


def _pooled_trained(recipe: Path) -> int:
    notes = json.loads(recipe.read_text(encoding="utf-8")).get("notes", {})
    return int(notes.get("users_trained", 0))


def _numel(shape: list[int]) -> int:
    count = 1
    for width in shape:
        count *= width
    return count
