"""One tiny benchmark of synthetic people for all tests of `proper-sim exp table1` and its like."""

from __future__ import annotations

from pathlib import Path

from federation import make_base, make_user
from federation import settings as quick_settings

from proper_model.data.users import write_oppu
from proper_model.tasks.records import Population
from simulations.setup import options

CANARY = "zqxcanaryzq"  # of tests/federation.py: in every text, and nowhere else


def write_people(folder: Path, *, pooled: int = 6, test: int = 7) -> Path:
    """People who score reviews, in OPPU's files; the first test user has most items."""
    old = tuple(make_user(f"p{n}") for n in range(pooled))
    new = tuple(make_user(f"t{n}", items=5 + (n == 0)) for n in range(test))
    write_oppu(Population("people", old, new), folder)
    return folder


class World:
    """People, a base and a cache of phases, which all commands share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_people(folder / "people")
        self.base = make_base(folder / "base")

    def line(self, command: str, out: str, *more: str) -> list[str]:
        """What is typed for a command."""
        where = ["--out", str(self.folder / out), "--cache", str(self.folder / "cache")]
        asked = ["--task", "LaMP_3", "--base", str(self.base)]
        return ["exp", *command.split(), str(self.data), *asked, *where, *more]


def be_quick(monkeypatch) -> None:
    """Every profile is one short epoch of everything."""
    monkeypatch.setattr(options, "load_profile", lambda _: quick_settings())
