"""Every attack's file, read by what it says that it is, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proper_model.errors import ReportError
from simulations.outcome.results import experiment_in
from simulations.privacy.results import (
    backdoor_schema,
    backdoor_show,
    canary_schema,
    canary_show,
    deletion_schema,
    deletion_show,
    epsilon_schema,
    epsilon_show,
    poison_schema,
    poison_show,
    rates,
    rates_show,
    schema,
    show,
)
from simulations.privacy.results.leaving import Shown
from simulations.privacy.results.summary import Result

Read = Callable[[Path], Any]
Show = Callable[[Any], Shown]
KINDS: Mapping[str, tuple[Read, Show]] = {
    "membership": (schema.read_privacy, show.shown),
    "canaries": (canary_schema.read_canaries, canary_show.shown),
    "linkage": (rates.read_rates, rates_show.shown),
    "inversion": (rates.read_rates, rates_show.shown),
    "epsilon": (epsilon_schema.read_epsilon, epsilon_show.shown),
    "deletion": (deletion_schema.read_deletion, deletion_show.shown),
    "poisoning": (poison_schema.read_poisoning, poison_show.shown),
    "backdoor": (backdoor_schema.read_backdoor, backdoor_show.shown),
}


def read_result(path: Path) -> tuple[Result, Shown]:
    """An attack's result, and what it shows. Raises ReportError for a file that is none."""
    named = str(experiment_in(path))
    if named not in KINDS:
        why = "holds no attack's result" if path.is_file() else "no such file"
        raise ReportError(
            f"{path}: {why}",
            hint=f"give a .json that proper-sim privacy {' or '.join(KINDS)} wrote",
        )
    read, _ = KINDS[named]
    result = read(path)
    return result, shown_of(result)


def shown_of(result: Result) -> Shown:
    """What is shown of an attack's result."""
    _, shown = KINDS[result.experiment]
    return shown(result)
