"""What only a simulation can tell of a run, for `details.json`: it may read its devices' folders.

Fits and routing of each device, what decides synthetic people's answers, messages by kind, and what
the pooled stages left unlearned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from coordinator.phase_checks import MOVED, curve
from proper_model.errors import ReportError
from proper_model.evaluation import Scored
from proper_model.federation.run_plan import RunPlan
from proper_model.release.privacy_note import privacy_sentence
from proper_model.settings import FFN_TARGETS, EmbeddingTables, presets, uncalibrated
from simulations.outcome.details import Levels, MessageTotal, PhaseCurve, Routing, fit_numbers
from simulations.outcome.devices import fit_report, read_device_user, read_state
from simulations.outcome.rundata import RunData, device_name
from simulations.reporting.parameters import find_shared, release_notes
from simulations.setup.run_folder import TRUTH_FILE

LAYER = re.compile(r"\.(\d+)\.")
LEVELS = ("pop", "group", "user")
# Of synthetic people: the first that the task reports of share of right answers, error, overlap.
MEASURES = ("accuracy", "mae", "rougeL")
# Experts and embeddings that never moved are refused before there is a release.
STAYED = {
    "population": "stage 1 learned nothing: its LoRA adds nothing to the base, so arm stage1 is the "
    "base itself",
    "router": "the LoRA-aware router learned nothing: it routes as it did before training",
}


def fits(data: RunData) -> dict[str, dict[str, dict[str, float | int | str]]]:
    """Numbers of every device's fit report, by arm and device."""
    found: dict[str, dict[str, dict[str, float | int | str]]] = {}
    for plan in data.plans:
        for arm in plan.state_arms:
            for entry in plan.devices:
                numbers = fit_numbers(fit_report(entry, arm))
                if numbers:
                    found.setdefault(arm, {})[device_name(entry, plan, data.plans)] = numbers
    return found


def device_routing(plan: RunPlan) -> Routing | None:
    """User half of the router, softmax(W_e e_u) of eq. 8, of every device with an embedding.

    An expert's number means nothing across routers unless they are tied, so weights are laid side
    by side and never averaged over routers (docs/method.md 1.6). A real federation must not log
    this: it tells group membership. None without a release or an embedding.
    """
    shared = find_shared(plan)
    if shared is None or "stage3" not in plan.state_arms:
        return None
    routers = user_routers(load_file(shared))
    per_linear = plan.structure.embedding_tables is EmbeddingTables.PER_LINEAR
    devices, weights = [], []
    for entry in plan.devices:
        if not (entry.folder / "state" / "stage3.state").is_file():
            continue
        state = read_state(entry, "stage3", read_device_user(entry, plan).user_id)
        if state.embedding is None:
            continue
        devices.append(entry.device_id)
        weights.append(user_weights(routers, state.embedding, per_linear=per_linear))
    if not devices or not routers:
        return None
    return Routing(devices=devices, experts=plan.structure.experts, weights=weights)


def user_routers(shared: Mapping[str, Tensor]) -> list[tuple[int, Tensor]]:
    """(block number, W_e `[N, e]`) of every router, in the order of the blocks."""
    found = []
    for name, tensor in shared.items():
        if name == "routers.tied.user":
            return [(0, tensor)]
        if name.startswith("routers.") and name.endswith(".user"):
            layer = LAYER.search(name)
            place = FFN_TARGETS.index(name.split(".")[-2])
            found.append((int(layer[1]) if layer else 0, place, tensor))
    return [(layer, tensor) for layer, _, tensor in sorted(found, key=lambda row: row[:2])]


def user_weights(
    routers: list[tuple[int, Tensor]], embedding: Tensor, *, per_linear: bool = False
) -> list[float]:
    """softmax(W_e e_u) of all routers side by side; `embedding` is `[tables, e]`.

    With a table a linear, its single row holds what each router reads, in the routers' order.
    """
    tables = embedding.shape[0]
    if per_linear:
        read: list[Tensor] = list(embedding[0].split([weight.shape[1] for _, weight in routers]))
    else:
        read = [embedding[layer if tables > 1 else 0] for layer, _ in routers]
    rows = [
        torch.softmax(weight.float() @ own.float(), dim=0)
        for (_, weight), own in zip(routers, read, strict=True)
    ]
    return [float(value) for row in rows for value in row]


def query_levels(plans: Iterable[RunPlan]) -> dict[str, str] | None:
    """What decides each query of synthetic people, by query id; None for real ones."""
    levels: dict[str, str] = {}
    for path in (plan.out / TRUTH_FILE for plan in plans):
        if not path.is_file():
            return None
        try:
            levels |= dict(json.loads(path.read_text(encoding="utf-8"))["level"])
        except (ValueError, KeyError, TypeError):
            raise ReportError(f"{path}: expected the truth of a synthetic population") from None
    return levels


def by_level(scored: Mapping[str, Scored], level: Mapping[str, str] | None) -> Levels | None:
    """Mean of the first fitting measure over the queries of each level, for every arm.

    A level that works shows exactly where it should (docs/method.md 5.1): stage 1 on `pop`, stage 2
    on `pop` and `group`, stage 3 on all three.
    """
    metrics = next(iter(scored.values())).metrics
    measure = next((m for m in MEASURES if m in metrics), None)
    if measure is None or level is None:
        return None
    arms: dict[str, dict[str, float]] = {}
    for arm, table in scored.items():
        for name in LEVELS:
            values = [
                value
                for query, value in zip(table.query_ids, table.values[measure], strict=True)
                if level.get(query) == name
            ]
            if values:
                arms.setdefault(arm, {})[name] = sum(values) / len(values)
    return Levels(metric=measure, arms=arms) if arms else None


def message_totals(paths: Iterable[Path]) -> list[MessageTotal]:
    """Count and bytes by kind and direction, from the ledgers of the coordinators."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for path in paths:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (str(row["kind"]), str(row["direction"]))
            count, size = totals.get(key, (0, 0))
            totals[key] = (count + 1, size + int(row["bytes"]))
    return [
        MessageTotal(kind=kind, direction=direction, count=count, bytes=size)
        for (kind, direction), (count, size) in totals.items()
    ]


def learning_curves(plan: RunPlan) -> list[PhaseCurve]:
    """What every pooled phase of one run's release noted while it trained."""
    shared = find_shared(plan)
    phases = {} if shared is None else release_notes(shared)
    return [
        PhaseCurve(
            phase=phase,
            held_back=notes["held_back"],
            standard_error=notes["held_back_se"],
            people=notes["people"],
            kept=notes["best_epoch"],
        )
        for phase in ("population", "group", "router")
        if (notes := phases.get(phase) or {}).get("held_back_se")
    ]


def remarks(plans: Iterable[RunPlan]) -> list[str]:
    """What a reader of the results must know of the release, a sentence each.

    A release of stage 1 alone says so, and so does a pooled phase whose weights are where they began,
    with its held-back losses. So does a calibration that came to nothing, or had fewer people than
    the profile asks for.
    """
    found: list[str] = []
    for plan in plans:
        shared = find_shared(plan)
        if shared is None:
            continue
        if plan.population_only:
            found.append(presets.POPULATION_ONLY_NOTE)
        phases = release_notes(shared)
        if (said := privacy_sentence(phases)) is not None:
            found.append(said)
        for phase, sentence in STAYED.items():
            notes = phases.get(phase) or {}
            if notes.get(MOVED) == 0:
                found.append(f"{sentence}; held-back loss {curve(notes)}")
        found += _uncalibrated(plan, phases.get("calibration") or {})
    return list(dict.fromkeys(found))


def _uncalibrated(plan: RunPlan, notes: Mapping[str, Any]) -> list[str]:
    """What the preset or the profile promises of the calibration, and did not get."""
    settings = plan.stage_settings
    if promised := uncalibrated(plan.structure, settings):
        return [promised]
    asked, had = settings.calibration.people, int(notes.get("people", 0))
    if asked and not notes.get("stage3"):
        least = settings.group.prototype_min_users
        return [
            f"the release is not calibrated: of {asked} people to calibrate with, {had} could be kept "
            "out of stages 1 and 2 (at most a quarter of the pooled people with items and queries who "
            f"are not held back), and a length of history needs {least} who have it, so every device "
            "chooses by its own held-back items"
        ]
    if had < asked:
        return [
            f"{had} people calibrated the release instead of {asked}: at most a quarter of the pooled "
            "people with items and queries do"
        ]
    return []
