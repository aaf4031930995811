"""Calibration on the server: where private LoRAs begin, and how much a history may change.

Runs only where a profile sets pooled people apart to calibrate with (docs/method.md 1.11).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from coordinator.phase_runner import Notes, PhaseRunner
from proper_model.model import AdaptedModel
from proper_model.release.contents import STARTED_ARMS, start_tensors
from proper_model.settings import Calibration, from_mapping, to_mapping
from proper_model.stages import Factors, calibration, common_lora
from proper_model.stages.inferred_embedding import InferredEmbedding


def calibrate_release(
    phases: PhaseRunner,
    adapted: AdaptedModel,
    table: Tensor,
    published: Mapping[str, Tensor],
) -> tuple[Calibration | None, dict[str, Tensor], Notes]:
    """What a device may change, the common starts that it begins at, and notes; often nothing."""
    people = phases.data.calibrating
    if not people:
        return None, {}, {}
    adapted.requires_grad_(False)
    starts = _starts(phases, adapted, table)
    phases.say("calibration", 0, 0)

    shown = {name: tensor.to(adapted.device) for name, tensor in published.items()}
    inferring = phases.inputs.structure.infers_user

    def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
        found = calibration.calibrate(
            adapted,
            phases.encoder,
            people,
            mean=shown["mean_embedding"],
            prototypes=shown["prototypes"],
            inferred=InferredEmbedding.from_tensors(shown) if inferring else None,
            starts=starts,
            settings=phases.inputs.settings,
            **phases.how("calibration", checkpoint),
        )
        return {}, {
            "calibration": to_mapping(found.calibration),
            "starts": list(found.starts),
            "losses": dict(found.notes),
        }

    key = phases.inputs.calibration_key(phases.data.calibration_fingerprint())
    _, notes = phases.run("calibration", key, train)
    chosen = from_mapping(Calibration, notes["calibration"], where="calibration")
    cohort = len(phases.cohort())
    shipped: dict[str, Tensor] = {}
    for arm in notes["starts"]:
        kind = phases.inputs.structure, adapted.sites
        shipped |= start_tensors(arm, *kind, starts[arm], people=cohort)
    told = {"people": len(people), "starts": notes["starts"], **notes["losses"]}
    empty = not chosen.stage3 and not chosen.oppu_mlp
    return None if empty else chosen, shipped, {"calibration": told}


def _starts(phases: PhaseRunner, adapted: AdaptedModel, table: Tensor) -> Mapping[str, Factors]:
    """Common starts by arm, as far as there are."""
    phases.say("starts", 0, 0)
    chosen, users = phases.cohort(), phases.people.users

    def train(checkpoint: Path) -> tuple[Mapping[str, Tensor], Notes]:
        found: dict[str, Tensor] = {}
        for arm in STARTED_ARMS:
            start = common_lora.common_start(
                adapted,
                phases.encoder,
                [users[u] for u in chosen],
                table[chosen] if arm == "stage3" else None,
                phases.inputs.settings,
                **phases.how("starts", checkpoint.with_name(f"{checkpoint.name}.{arm}")),
            )
            found |= {f"{arm}.{n:04d}": factor.cpu() for n, factor in enumerate(start or ())}
        return found, {}

    tensors, _ = phases.run("starts", phases.inputs.starts_key(), train)
    by_arm: dict[str, list[Tensor]] = {}
    for name in sorted(tensors):
        by_arm.setdefault(name.partition(".")[0], []).append(tensors[name].to(adapted.device))
    return by_arm
