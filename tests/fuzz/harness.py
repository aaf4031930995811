"""Runs cases against targets, and tells refusal, acceptance, silent acceptance and internal errors apart.

A case is a set of named files. A target makes one from a seed and judges it with the program:

* ProperError (or a usage error of the command line): refused, counted by its class;
* nothing: accepted, and the target has seen that what came of it is right;
* a sentence: accepted although it is not, or an error that quotes the person's text;
* any other exception, or more than `CASE_SECONDS`: an internal error.
"""

from __future__ import annotations

import hashlib
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import click

from proper_model.errors import ProperError

Files = Mapping[str, bytes]
CASE_SECONDS: float = 30
KEPT = 3  # failing inputs of one cause
# Stands in every text of a person; no message may quote it.
CANARY = "zqxcanaryzq"


class Target(Protocol):
    """One kind of input. `name` has no blanks; `sound` is a case that nothing is wrong with."""

    name: str

    def sound(self) -> Files: ...

    def case(self, rng: Random) -> Files: ...

    def judge(self, files: Files) -> str | None: ...


class _TooLongError(BaseException):
    """Not an Exception, so that nothing on the way takes it for one of its own."""


@dataclass
class Tally:
    """What came of one target's cases. `causes` counts failures by what they have in common."""

    cases: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    internal: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.internal.total() + self.silent.total()


Keep = Callable[[str, str, int, Files], None]


def try_case(target: Target, files: Files, tally: Tally) -> str | None:
    """Judge one case and count it; returns the cause of a failure."""
    tally.cases += 1
    try:
        with _limited(CASE_SECONDS):
            silent = target.judge(files)
    except (ProperError, click.ClickException) as error:
        told = f"{error} {getattr(error, 'hint', '')}"
        if CANARY in told:
            silent = f"{type(error).__name__} quotes the person's text"
        else:
            tally.refused[type(error).__name__] += 1
            return None
    except _TooLongError:
        cause = f"no end after {CASE_SECONDS:g} s"
        tally.internal[cause] += 1
        return cause
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the finding
        cause = cause_of(error)
        tally.internal[cause] += 1
        return cause
    if silent is None:
        tally.accepted += 1
        return None
    tally.silent[silent] += 1
    return silent


def run(
    targets: Sequence[Target],
    *,
    seed: int,
    seconds: float = float("inf"),
    cases: int | None = None,
    keep: Keep | None = None,
    tallies: dict[str, Tally] | None = None,
) -> dict[str, Tally]:
    """Give each target the same time (or number of cases); the same seed makes the same cases.

    `tallies` is filled as it goes, so that an interrupted run can be told of too.
    """
    tallies = {} if tallies is None else tallies
    spent = dict.fromkeys((target.name for target in targets), 0.0)
    for target in targets:
        tallies[target.name] = Tally()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waiting = [t for t in targets if cases is None or tallies[t.name].cases < cases]
        if not waiting:
            break
        target = min(waiting, key=lambda t: spent[t.name])
        tally = tallies[target.name]
        number = tally.cases
        begun = time.monotonic()
        files = target.case(case_rng(seed, target.name, number))
        cause = try_case(target, files, tally)
        if cause and keep and (tally.internal | tally.silent)[cause] <= KEPT:
            keep(target.name, cause, number, files)
        spent[target.name] += time.monotonic() - begun
    return tallies


def case_rng(seed: int, name: str, number: int) -> Random:
    """The chance of one case, of which nothing else depends on."""
    digest = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def keep_in(folder: Path) -> Keep:
    """Write failing inputs into folders below this one, with what went wrong in `why.txt`."""

    def keep(name: str, cause: str, number: int, files: Files) -> None:
        place = folder / f"{name}-{number}"
        for file, data in {**files, "why.txt": cause.encode()}.items():
            path = place / file.lstrip("/").replace("..", "__")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return keep


def table(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """Lines of a table, and below it every cause of a failure."""
    yield f"{'target':<18}{'cases':>9}{'accepted':>10}{'refused':>9}{'internal':>10}{'silent':>8}  refused as"
    rows = {**tallies, "all": _sum(tallies.values())}
    for name, tally in rows.items():
        classes = ", ".join(f"{kind} {count}" for kind, count in tally.refused.most_common(4))
        yield (
            f"{name:<18}{tally.cases:>9}{tally.accepted:>10}{tally.refused.total():>9}"
            f"{tally.internal.total():>10}{tally.silent.total():>8}  {classes}"
        )
    for name, tally in tallies.items():
        for kind, causes in (("internal error", tally.internal), ("silent", tally.silent)):
            for cause, count in causes.most_common():
                yield f"{name}: {kind}, {count} times: {cause}"


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.cases += tally.cases
        total.accepted += tally.accepted
        total.refused += tally.refused
        total.internal += tally.internal
        total.silent += tally.silent
    return total


def cause_of(error: BaseException) -> str:
    """Where an exception comes from: the innermost place in this project's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = re.compile(r"^<|^/usr|/lib/python|site-packages|/tests/")
    own = [frame for frame in frames if not foreign.search(frame.filename)]
    place = own[-1] if own else frames[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno} {place.name}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in here after so long."""

    def ring(_signal: int, _frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
