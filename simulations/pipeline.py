"""A whole run: prepare, launch through Flower, controls, score, report. Killed anywhere, it resumes.

Every phase finds what an earlier attempt finished: prepared folders are compared, the coordinator
keeps a journal, devices skip what they have, a finished control is not computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.federation.run_plan import PLAN_FILE, RunPlan
from proper_model.progress import Progress
from proper_model.storage.files import make_private_folder, storage_errors
from simulations.flower.launch import finished, launch
from simulations.outcome.controls import controls_missing, run_controls
from simulations.outcome.devices import incomplete
from simulations.outcome.results import RESULTS_FILE, Results, write_document
from simulations.outcome.rundata import load_run, run_plans
from simulations.outcome.tensorboard_events import summary_writer, write_events
from simulations.outcome.timings import FlowerClock, read_timings, timed
from simulations.reporting.report import (
    REAL_NOTE,
    SYNTHETIC_NOTE,
    Example,
    choose_example,
    write_report,
)
from simulations.reporting.score import score_run
from simulations.setup.options import OneRun, RunOptions
from simulations.setup.prepare import prepare
from simulations.setup.run_folder import TRUTH_FILE, check_folds_folder

REPORT_FILE = "report.html"


def execute(
    options: RunOptions,
    progress: Progress,
    *,
    show_examples: bool = False,
    tensorboard: Path | None = None,
) -> Results:
    """Run everything that `options` ask for and leave results and report in `options.out`.

    `tensorboard` is a folder for the run as events.

    Raises a ProperError child; InterruptedRunError on Ctrl-C during the federation.
    """
    if tensorboard is not None:
        # What is missing or in the way is told now, not after hours.
        summary_writer()
        with storage_errors(tensorboard):
            make_private_folder(tensorboard)
    runs = options.runs()
    with storage_errors(options.out):
        if options.all_folds:
            check_folds_folder(options.places)
        for number, run in enumerate(runs, start=1):
            fold = f"fold {number} of {len(runs)}: " if options.all_folds else ""
            run_one(run, _prefixed(progress, fold))
    results = finish(options.out, progress, show_examples=show_examples)
    if tensorboard is not None:
        with storage_errors(tensorboard):
            write_events(options.out, tensorboard)
    return results


def run_one(run: OneRun, progress: Progress) -> RunPlan:
    """Prepare one federation and run it through Flower, if that has not happened yet."""
    with timed(run.places.out, "prepare"):
        plan = prepare(run, progress)
    if not finished(plan):
        run_federation(plan, progress)
    return plan


def run_prepared(out: Path, progress: Progress) -> None:
    """Run what `prepare` wrote into `out`, or go on with it.

    Raises ConfigError for a folder without a plan, or one that was moved.
    """
    plan = RunPlan.load(out / PLAN_FILE)
    if plan.out != out.resolve():
        raise ConfigError(
            f"{out} was prepared in another place, and its plan names that",
            hint="move it back, or prepare it anew with this --out",
        )
    with storage_errors(out):
        if not finished(plan):
            run_federation(plan, progress)


def run_federation(plan: RunPlan, progress: Progress) -> None:
    """The part that goes through Flower; Flower's own share of the time is noted."""
    progress("starting Flower", 0, 0)
    clock = FlowerClock(plan.out, progress)
    launch(plan.out / PLAN_FILE, clock)
    clock.finish()


def finish(out: Path, progress: Progress, *, show_examples: bool = False) -> Results:
    """Controls, scores and report of a run whose devices have predicted; also of all its folds.

    Raises ReportError if devices have not predicted yet.
    """
    with storage_errors(out):
        for plan in run_plans(out):
            if controls_missing(plan) and not incomplete(plan.devices, plan.node_arms):
                with timed(plan.out, "controls"):
                    run_controls(plan, progress)
        progress("scoring", 0, 0)
        with timed(out, "score", anew=True):
            results, _ = score_run(out)
        results = _with_timings(results, out)
        progress("writing the report", 0, 0)
        with timed(out, "report", anew=True):
            examples = [example_of(out, show_examples=show_examples)]
            write_report([out], out / REPORT_FILE, examples=examples)
        return _with_timings(results, out)


def _with_timings(results: Results, out: Path) -> Results:
    """The results with what has been timed by now, in the file too."""
    now = results.model_copy(update={"timings_s": read_timings(out, run_plans(out))})
    write_document(now, out / RESULTS_FILE)
    return now


def example_of(out: Path, *, show_examples: bool) -> Example | None:
    """One query through the levels: always for synthetic people, for real ones only if asked."""
    plans = run_plans(out)
    synthetic = all((plan.out / TRUTH_FILE).is_file() for plan in plans)
    if not synthetic and not show_examples:
        return None
    data = load_run(out)
    note = SYNTHETIC_NOTE if synthetic else REAL_NOTE
    return choose_example(data.task, data.users, data.predictions, note=note)


def _prefixed(progress: Progress, prefix: str) -> Progress:
    return lambda phase, done, total: progress(prefix + phase, done, total)


def report_sources(sources: Sequence[Path], target: Path, *, show_examples: bool = False) -> None:
    """One report from results files and run folders; only run folders can show an example."""
    examples = [
        example_of(source, show_examples=show_examples)
        if source.is_dir() and has_plan(source)
        else None
        for source in sources
    ]
    with storage_errors(target):
        write_report(sources, target, examples=examples)


def has_plan(folder: Path) -> bool:
    """True for the folder of a run or of its folds."""
    return (folder / PLAN_FILE).is_file() or any(folder.glob(f"fold-*/{PLAN_FILE}"))
