"""`details.json`: what the report shows beyond `results.json`, one entry a simulated device.

Numbers only. Devices are named by folder (d00000), never by user id, and no text enters, so that
a report made from it can be passed on. A real federation has no such file: a simulation may read
its devices' folders, a coordinator may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from simulations.outcome.results import (
    Contrast,
    Document,
    MetricSummary,
    Number,
    Strict,
    read_document,
)

DETAILS_FILE = "details.json"


class ArmDetails(Strict):
    """`devices[metric][device]` is that device's mean over its queries."""

    lenient: dict[str, MetricSummary]
    devices: dict[str, dict[str, Number]]
    changed: Number | None = None  # share of queries whose answer differs from the reference arm


class Significance(Strict):
    """One contrast, its two-sided bootstrap p and the same after Holm's step-down correction."""

    contrast: Contrast
    p: Number
    p_holm: Number
    all_tied: bool = False


class MessageTotal(Strict):
    kind: str
    direction: str
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Routing(Strict):
    """User half of the routing: `weights[device]` holds `experts` numbers a router, summing to 1."""

    devices: list[str]
    experts: int = Field(ge=1)
    weights: list[list[float]]


class Levels(Strict):
    """Synthetic people: `arms[arm][level]` is the mean of `metric` over that level's queries."""

    metric: str
    arms: dict[str, dict[str, Number]]


class PhaseCurve(Strict):
    """Loss of held-back people at every look at a pooled phase, the first before it trained.

    `standard_error` is over people, of the difference from the first look; `kept` is the look whose
    parameters were kept.
    """

    phase: str
    held_back: list[Number]
    standard_error: list[Number]
    people: int
    kept: int


class Details(Document):
    reference: str
    arms: dict[str, ArmDetails]
    fits: dict[str, dict[str, dict[str, float | int | str]]]
    significance: list[Significance]
    messages: list[MessageTotal]
    routing: Routing | None = None
    levels: Levels | None = None
    curves: list[PhaseCurve] = Field(default_factory=list)
    remarks: list[str] = Field(default_factory=list)  # what the pooled stages left unlearned


def read_details(path: Path) -> Details | None:
    """The details beside a results file, or None where only results were kept."""
    if not path.is_file():
        return None
    hint = "recompute it: proper-sim score OUT"
    return read_document(
        Details,
        path,
        missing=("no such details file", hint),
        faulty=("not a details file of schema 1", hint),
    )


def fit_numbers(report: Mapping[str, object]) -> dict[str, float | int | str]:
    """The scalar entries of a device's fit report; anything else is left on the device."""
    return {
        key: value
        for key, value in report.items()
        if isinstance(value, float | int | str) and not isinstance(value, bool)
    }
