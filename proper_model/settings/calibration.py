"""How much a history of n items may change: chosen on the server, shipped with the release.

Pooled people who took no part in stages 1 and 2 are personalized as newcomers, and what served them
best at each length of history is what a device does (docs/method.md 1.11). Each arm has its own rows,
so that a comparison stays fair.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from proper_model.settings.presets import Structure, check, check_count, check_rate
from proper_model.settings.profile import (
    LEAST_TEMPERATURE,
    MAX_WEIGHT,
    MOST_EPOCHS,
    MOST_ROWS,
    MOST_TEMPERATURE,
    StageSettings,
)

MOST_CALIBRATED = 100  # rows of one arm


@dataclass(frozen=True)
class Calibrated:
    """What holds for histories of at least `items` items.

    Attributes:
        learning_rate, epochs: of the private LoRA; 0 epochs leave it at its start.
        shrinkage: weight of the prior around its start, `Trial.prior`.
        scale: the trained factor B is multiplied by it; 0: no adapter.
        weight: w of `p = w p_adapted + (1 - w) p_below`, token by token; below stage 3 is stage 2,
            below `oppu-mlp` stage 1.
        temperature: divides the mixture's log-probabilities.
    """

    items: int
    learning_rate: float
    epochs: int
    shrinkage: float
    scale: float
    weight: float
    temperature: float

    def __post_init__(self) -> None:
        check_count(self.items, MOST_ROWS, "calibration: items")
        check_rate(self.learning_rate, "calibration: learning_rate")
        check_count(self.epochs, MOST_EPOCHS, "calibration: epochs", least=0)
        for name, least, most in (
            ("shrinkage", 0.0, MAX_WEIGHT),
            ("scale", 0.0, 1.0),
            ("weight", 0.0, 1.0),
            ("temperature", LEAST_TEMPERATURE, MOST_TEMPERATURE),
        ):
            value = getattr(self, name)
            check(
                least <= value <= most,
                f"calibration: {name} must be from {least:g} to {most:g}, got {value}",
            )

    @property
    def adapts(self) -> bool:
        """Whether a private LoRA is trained and used at all."""
        return self.epochs > 0 and self.scale > 0 and self.weight > 0


@dataclass(frozen=True)
class Calibration:
    """Rows of each arm, by rising `items`; an arm without rows was not calibrated."""

    stage3: tuple[Calibrated, ...] = ()
    oppu_mlp: tuple[Calibrated, ...] = ()

    def __post_init__(self) -> None:
        for name, rows in (("stage3", self.stage3), ("oppu_mlp", self.oppu_mlp)):
            check(
                len(rows) <= MOST_CALIBRATED,
                f"calibration: {name} must have at most {MOST_CALIBRATED} rows, got {len(rows)}",
            )
            rising = all(a.items < b.items for a, b in itertools.pairwise(rows))
            check(rising, f"calibration: {name} must be ordered by items, each number once")

    def covers(self, arm: str) -> bool:
        """Whether the arm was calibrated."""
        return bool(self._rows(arm))

    def of(self, arm: str, items: int) -> Calibrated | None:
        """The row for a history of so many items: the last whose `items` it reaches.

        None for an arm that was not calibrated, and for a history shorter than the first row.
        """
        reached = [row for row in self._rows(arm) if row.items <= items]
        return reached[-1] if reached else None

    def _rows(self, arm: str) -> tuple[Calibrated, ...]:
        return {"stage3": self.stage3, "oppu-mlp": self.oppu_mlp}.get(arm, ())


def usual_preset(settings: StageSettings) -> str:
    """The preset of somebody who names none: `calibrated` where the profile sets people apart for it.

    Measured in both cases (docs/results.md, "Presets and parts"): over 300 pooled people
    `calibrated` has the lowest error and loss, over the demo's two dozen, too few to calibrate with,
    `default` has.
    """
    return "calibrated" if settings.calibration.people else "default"


def uncalibrated(structure: Structure, settings: StageSettings) -> str | None:
    """What is to be said of a preset whose name promises a calibration that the profile leaves out."""
    if not structure.infers_user or settings.calibration.people:
        return None
    return (
        f"preset {structure.name} under profile {settings.name}, which sets nobody apart to calibrate "
        "with (calibration.people is 0): every device chooses by its own held-back items"
    )
