"""What a release says of how much a history may change: rows in order, bounds, and the way back."""

from __future__ import annotations

import dataclasses

import pytest

from proper_model.errors import ConfigError
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.settings.settings_io import from_mapping, to_mapping

FEW = Calibrated(3, 1e-3, 1, 8.0, 0.5, 0.25, 1.1)
MANY = Calibrated(20, 3e-3, 4, 0.0, 1.0, 1.0, 1.0)
BOTH = Calibration(stage3=(FEW, MANY), oppu_mlp=(MANY,))


@pytest.mark.parametrize(
    ("arm", "items", "expected"),
    [
        ("stage3", 2, None),
        ("stage3", 3, FEW),
        ("stage3", 19, FEW),
        ("stage3", 20, MANY),
        ("stage3", 10_000, MANY),
        ("oppu-mlp", 19, None),
        ("oppu-mlp", 20, MANY),
        ("stage2", 50, None),
    ],
)
def test_the_last_row_that_a_history_reaches_holds(
    arm: str, items: int, expected: Calibrated | None
) -> None:
    assert BOTH.of(arm, items) == expected


def test_there_and_back() -> None:
    assert from_mapping(Calibration, to_mapping(BOTH), where="x") == BOTH
    assert Calibration() == from_mapping(Calibration, {}, where="x")


@pytest.mark.parametrize("off", [{"epochs": 0}, {"scale": 0.0}, {"weight": 0.0}])
def test_any_of_three_zeros_means_no_adapter(off: dict[str, float]) -> None:
    assert FEW.adapts
    assert not dataclasses.replace(FEW, **off).adapts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", 0),
        ("learning_rate", 0.0),
        ("learning_rate", 1.5),
        ("epochs", -1),
        ("epochs", 10_001),
        ("shrinkage", -0.1),
        ("shrinkage", 1e7),
        ("scale", 1.01),
        ("scale", -0.1),
        ("weight", 1.01),
        ("weight", -0.01),
        ("temperature", 0.0),
        ("temperature", 11.0),
    ],
)
def test_a_row_out_of_bounds_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"calibration: {field}"):
        from_mapping(Calibrated, {**to_mapping(FEW), field: value}, where="x")


@pytest.mark.parametrize("rows", [(MANY, FEW), (FEW, FEW)])
def test_rows_out_of_order_are_refused(rows: tuple[Calibrated, ...]) -> None:
    with pytest.raises(ConfigError, match="stage3 must be ordered by items"):
        Calibration(stage3=rows)


def test_too_many_rows_are_refused() -> None:
    rows = tuple(dataclasses.replace(FEW, items=n) for n in range(1, 102))
    with pytest.raises(ConfigError, match="at most 100 rows, got 101"):
        Calibration(oppu_mlp=rows)
