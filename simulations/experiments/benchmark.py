"""A whole benchmark: read, fix the configuration, run every cell's arms, score, sum up.

Killed anywhere and started again with the same options, it goes on: finished arms are read, not
computed. The order is that of docs/method.md 2.3: the configuration is fixed before a test query is
opened for scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from proper_model.errors import BusyError
from proper_model.evaluation import Prediction, Scored, score
from proper_model.progress import Progress
from proper_model.storage.durable import locked
from proper_model.storage.files import storage_errors
from proper_model.tasks import Task, User
from simulations.baselines.arm import Arm
from simulations.experiments.arm_runs import Cell
from simulations.experiments.arm_store import CellStore, Finished, ReleaseFacts
from simulations.experiments.benchmark_plan import SHUFFLED, Plan, Variant
from simulations.experiments.comparing import stacked
from simulations.experiments.configuration import configuration, fix
from simulations.setup.options import Reading
from simulations.setup.run_folder import check_owner
from simulations.setup.sources import Source, load_source

Cells = Mapping[tuple[str, int, int], Cell]
"""By name of the variant, seed and fold."""
LENGTH_ARMS = ("stage1", "stage2", "oppu-mlp", "stage3")


@dataclass(frozen=True)
class Measured:
    """Everything that was run, scored.

    Attributes:
        rows: by name of the row; `lengths`: by number of items and name of the row.
        left_out: methods that do not fit these data, and why.
        arms: by name of the row, the arm and variant, and what every cell of it left.
        users: the people who were asked, of all folds, with whole histories.
    """

    plan: Plan
    configuration: str
    source: Source
    users: Sequence[User]
    cells: Cells
    rows: Mapping[str, Scored]
    arms: Mapping[str, tuple[str, Variant, Sequence[Finished]]]
    lengths: Mapping[int, Mapping[str, Scored]]
    left_out: Mapping[str, str]

    def facts(self, variant: Variant) -> list[ReleaseFacts]:
        """Of every release of a variant, in the order of seeds and folds."""
        return [
            cell.stages.facts() for (name, _, _), cell in self.cells.items() if name == variant.name
        ]

    def first(self, variant: Variant) -> Cell:
        """The cell of the first seed and fold."""
        return next(cell for (name, _, _), cell in self.cells.items() if name == variant.name)


def run_benchmark(plan: Plan, progress: Progress, made: Callable[[str], Arm]) -> Measured:
    """Run what is missing, and score everything.

    Raises ConfigError before anything is trained, also where OUT holds another benchmark.
    """
    out = plan.out
    check_owner(out)
    cells = _cells(plan, progress)
    sources = {_title(*where): cell.stages.source for where, cell in cells.items()}
    with storage_errors(out):
        sha256 = fix(out, configuration(plan, sources))
        with _alone(out):
            for (name, _, _), cell in cells.items():
                _run(plan, _variant(plan, name), cell, made)
        return _scored(plan, sha256, cells)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """OUT is this process's until the end of the block. Raises BusyError if it is another's."""
    try:
        with locked(out / ".lock", timeout_s=0):
            yield
    except TimeoutError:
        raise BusyError(
            f"{out}: another process runs this benchmark", hint="wait for it, or give a new --out"
        ) from None


def _cells(plan: Plan, progress: Progress) -> dict[tuple[str, int, int], Cell]:
    """Every variant with every seed and fold, the people read once."""
    read: dict[Reading, Source] = {}
    cells = {}
    for variant in plan.variants:
        for seed in plan.seeds:
            for fold, run in enumerate(variant.runs(seed, plan.seeds[0])):
                key = replace(run.reading, settings=plan.variants[0].settings)
                if key not in read:
                    read[key] = load_source(key, progress)
                source = replace(read[key], settings=variant.settings)
                where = (variant.name, seed, fold)
                store = CellStore(plan.out / "cells" / _title(*where))
                said = partial(_prefixed, progress, f"{variant.name}, seed {seed}")
                cells[where] = Cell.of(run, source, store, said)
    return cells


def _prefixed(progress: Progress, title: str, phase: str, done: int, total: int) -> None:
    progress(f"{title}: {phase}", done, total)


def _title(variant: str, seed: int, fold: int) -> str:
    return f"{variant.replace(' ', '-').replace(',', '')}-seed{seed}-fold{fold}"


def _variant(plan: Plan, name: str) -> Variant:
    return next(variant for variant in plan.variants if variant.name == name)


def _run(plan: Plan, variant: Variant, cell: Cell, made: Callable[[str], Arm]) -> None:
    """Everything of one cell; its model is freed afterwards."""
    arms = [arm for arm in variant.arms if arm != SHUFFLED or len(cell.users) > 1]
    cell.run_own(arms)
    cell.run_rivals(variant.rivals, made)
    for items in plan.lengths:
        cell.at_length(items).run_own(_length_arms(variant))
    cell.stages.facts()
    cell.stages.forget()


def _length_arms(variant: Variant) -> list[str]:
    return [arm for arm in LENGTH_ARMS if arm in variant.arms]


def _scored(plan: Plan, sha256: str, cells: Cells) -> Measured:
    first = next(iter(cells.values())).stages.source
    rows: dict[str, Scored] = {}
    arms: dict[str, tuple[str, Variant, Sequence[Finished]]] = {}
    lengths: dict[int, dict[str, Scored]] = {items: {} for items in plan.lengths}
    left_out: dict[str, str] = {}
    users: list[User] = []
    for variant in plan.variants:
        own = {where[1:]: cell for where, cell in cells.items() if where[0] == variant.name}
        for arm in (*variant.arms, *variant.rivals):
            name = plan.row(arm, variant)
            done = {where: cell.store.arm(arm) for where, cell in own.items()}
            finished = {where: found for where, found in done.items() if found is not None}
            if len(finished) < len(own):  # of a cell at least it has no answers
                why = (cell.store.left_out(arm) for cell in own.values())
                left_out[name] = next(filter(None, why), "it needs a second person")
                continue
            rows[name] = _table(plan, own, finished, first.task)
            arms[name] = (arm, variant, list(finished.values()))
        for items in plan.lengths:
            for arm in _length_arms(variant):
                cut = {where: cell.at_length(items) for where, cell in own.items()}
                found = {where: _there(cell.store.arm(arm)) for where, cell in cut.items()}
                name = plan.row(arm, variant)
                lengths[items][name] = _table(plan, cut, found, first.task)
        users = users or _people(own, plan.seeds[0])
    return Measured(plan, sha256, first, users, cells, rows, arms, lengths, left_out)


def _there(found: Finished | None) -> Finished:
    assert found is not None  # run before
    return found


def _people(cells: Mapping[tuple[int, int], Cell], seed: int) -> list[User]:
    """The people of all folds: everybody is asked in exactly one."""
    return [user for (own, _), cell in cells.items() if own == seed for user in cell.users]


def _table(
    plan: Plan,
    cells: Mapping[tuple[int, int], Cell],
    found: Mapping[tuple[int, int], Finished],
    task: Task,
) -> Scored:
    """One arm's scores over all folds and seeds."""
    tables = []
    for seed in plan.seeds:
        predictions: list[Prediction] = [
            row for (own, _), done in found.items() if own == seed for row in done.predictions
        ]
        tables.append(score(task, _people(cells, seed), predictions))
    return stacked(tables)
