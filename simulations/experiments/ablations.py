"""What is taken away or exchanged to see what it brings (PROPER table 3, docs/method.md 1.9).

An ablation is a run like the full one with a few fields of its structure, its settings or its options
replaced, and the arm by which it is judged. One that contradicts a preset is left out of its table.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proper_model.errors import ConfigError
from proper_model.settings import Stage2People, StageSettings, Structure, UserRouting


@dataclass(frozen=True)
class Ablation:
    """What differs from the full run.

    Attributes:
        structure: fields of `Structure`.
        settings: by part of a profile (`group`, `user` ...), fields of that part.
        options: fields of `RunOptions`.
        arm: what it is judged by, against the full run's arm of the same stage.
    """

    structure: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    arm: str = "stage3"

    @property
    def judged_against(self) -> str:
        """The full run's arm: a control such as `stage3-shuffled` is judged against its stage."""
        return self.arm.partition("-")[0]

    def apply(
        self, structure: Structure, settings: StageSettings
    ) -> tuple[Structure, StageSettings]:
        """Structure and settings with the replaced fields. Raises ConfigError for a contradiction."""
        parts = {name: replace(getattr(settings, name), **f) for name, f in self.settings.items()}
        return replace(structure, **self.structure), replace(settings, **parts)


ABLATIONS: Mapping[str, Ablation] = types.MappingProxyType(
    {
        "regular router": Ablation(structure={"router_user": False}, arm="stage2"),
        "no constraint loss": Ablation(
            settings={"group": {"constraint_weight": 0.0}}, arm="stage2"
        ),
        "no LoRA-aware router": Ablation(structure={"user_routing": UserRouting.USER_AWARE}),
        "replaced logits": Ablation(structure={"user_routing": UserRouting.LORA_AWARE}),
        "summed logits": Ablation(structure={"user_routing": UserRouting.SUMMED}),
        "private W_l": Ablation(structure={"private_lora_router": True}),
        "end to end": Ablation(
            structure={"user_routing": UserRouting.USER_AWARE, "end_to_end": True}
        ),
        "stage 2 with everybody": Ablation(options={"stage2_users": Stage2People.EVERYBODY.value}),
        "stage 2 of shuffled identities": Ablation(
            options={"stage2_users": Stage2People.SHUFFLED.value}, arm="stage2"
        ),
        "shuffled identities": Ablation(arm="stage3-shuffled"),
    }
)


def fitting(
    structure: Structure, settings: StageSettings, ablations: Mapping[str, Ablation] = ABLATIONS
) -> tuple[dict[str, Ablation], dict[str, str]]:
    """Ablations that change something of a preset, and why the others are left out, by name."""
    kept: dict[str, Ablation] = {}
    left_out: dict[str, str] = {}
    for name, ablation in ablations.items():
        try:
            changed = ablation.apply(structure, settings)
        except ConfigError as error:
            left_out[name] = error.message
            continue
        control = ablation.arm != ablation.judged_against
        if changed == (structure, settings) and not ablation.options and not control:
            left_out[name] = f"preset {structure.name} is that already"
        else:
            kept[name] = ablation
    return kept, left_out
