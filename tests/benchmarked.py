"""One tiny benchmark of synthetic people for all tests of `proper-sim exp table1` and its like."""

from __future__ import annotations

from pathlib import Path

from federation import settings as quick_settings

from proper_model.data.users import write_oppu
from proper_model.tasks.records import Population
from simulations.setup import options
from tests.releases import small_base, small_population


def write_people(folder: Path, *, pooled: int = 6, test: int = 3) -> Path:
    """A few people who tag films, in OPPU's files."""
    made = small_population().population
    write_oppu(Population("people", made.pooled[:pooled], made.test[:test]), folder)
    return folder


def line(command: str, data: Path, out: Path, *more: str) -> list[str]:
    """What is typed for one command over these people."""
    base = ["--task", "synth_tag", "--base", str(small_base()), "--max-items", "8"]
    cache = [] if "fig6-efficiency" in command else ["--cache", str(data.parent / "cache")]
    return ["exp", *command.split(), str(data), *base, "--out", str(out), *cache, *more]


def quick(monkeypatch) -> None:
    """Every profile is one short epoch of everything."""
    monkeypatch.setattr(options, "load_profile", lambda _: quick_settings())
