"""How many numbers each part of a run trains or ships (docs/method.md 1.3), for `results.json`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from proper_model.base.config import empty_model
from proper_model.checks import read_config
from proper_model.federation.run_plan import RunPlan
from simulations.reporting.counts import BaseSizes, count_parameters
from simulations.setup.calibrate import shape_of


def parameter_counts(plan: RunPlan) -> dict[str, int]:
    """Counts by part; empty for folders without a release, for example hand-made ones.

    `base` is the whole base; `population_lora` stage 1; `experts`, `text_routers`, `user_routers`
    and `user_embeddings` (all pooled users') stage 2; `lora_routers` 3b; `user_lora` and
    `user_embedding` what one user's stage 3 trains.
    """
    shared = find_shared(plan)
    if shared is None:
        return {}
    config = read_config(plan.base)
    shape = shape_of(config)
    sizes = BaseSizes(d=shape.hidden, f=shape.ffn, layers=shape.layers)
    counts = asdict(count_parameters(sizes, plan.structure))
    counts["user_embeddings"] = counts["user_embedding"] * _users_trained(shared.parent)
    counts["base"] = shape.parameters
    counts["population_lora"] = population_lora(config, plan)
    return {name: int(counts[name]) for name in sorted(counts)}


def find_shared(plan: RunPlan) -> Path | None:
    """`shared.safetensors` of the newest release in the run's folder."""
    found = sorted((plan.server_folder / "release").rglob("shared.safetensors"))
    return found[-1] if found else None


def population_lora(config: Any, plan: RunPlan) -> int:
    """Stage 1's LoRA, counted on the meta device: no weights are loaded."""
    model = empty_model(config)
    settings = plan.stage_settings.population
    return sum(
        settings.rank * (module.in_features + module.out_features)
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in settings.targets and isinstance(module, torch.nn.Linear)
    )


def _users_trained(release: Path) -> int:
    notes = json.loads((release / "recipe.json").read_text(encoding="utf-8")).get("notes", {})
    return int(notes.get("users_trained", 0))
