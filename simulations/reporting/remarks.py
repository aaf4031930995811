"""What the pooled stages of a run left unlearned, in sentences for its report and the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable

from coordinator.phase_checks import MOVED, curve
from proper_model.federation.run_plan import RunPlan
from simulations.reporting.parameters import find_shared

# Experts that never moved are refused before there is a release, so they need no sentence.
STAYED = {
    "population": "stage 1 learned nothing: its LoRA adds nothing to the base, so arm stage1 is the "
    "base itself",
    "embeddings": "no pooled user's embedding moved in stage 2: users are told apart by chance only",
    "router": "the LoRA-aware router learned nothing: it routes as it did before training",
}


def remarks(plans: Iterable[RunPlan]) -> list[str]:
    """One sentence a phase whose weights are where they began, with its held-back losses."""
    found: list[str] = []
    for plan in plans:
        shared = find_shared(plan)
        if shared is None:
            continue
        recipe = json.loads((shared.parent / "recipe.json").read_text(encoding="utf-8"))
        phases = dict(recipe.get("notes", {}))
        group = phases.get("group") or {}
        phases["embeddings"] = {**group, **group.get("embeddings", {})}  # the curve is stage 2's
        for phase, sentence in STAYED.items():
            notes = phases.get(phase) or {}
            if notes.get(MOVED) == 0:
                found.append(f"{sentence}; held-back loss {curve(notes)}")
    return list(dict.fromkeys(found))
