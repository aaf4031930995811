"""A scored run as events for TensorBoard: curves of the pooled stages, scores, settings.

    train/PHASE/loss, train/PHASE/learning_rate    by step (`coordinator.step_curves`); a loss over at least
                                                   `LEAST_SAMPLES` samples, so over several steps of few
    held_back/PHASE/loss                           by look, the first before training
    score/ARM/METRIC                               a number of results.json
    settings                                       text: what results.json says of the run, and its profile

Of people there are only means: no id and no text, and no loss of a step that is one sample of one person, as
where `batch_size` is 1. The phases of a fold stand below its number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coordinator.step_curves import CURVES, Step, read_curve
from proper_model.errors import ConfigError
from proper_model.federation.run_plan import RunPlan
from proper_model.settings import to_mapping
from proper_model.storage.files import make_private_folder
from simulations.outcome.details import DETAILS_FILE, read_details
from simulations.outcome.results import read_results
from simulations.outcome.rundata import run_plans

PHASES = ("population", "group", "router")
# Of results.json; none of them says who took part beyond how they were chosen.
TOLD = ("task", "template", "base", "preset", "profile", "seed", "split", "commit", "parameters")
LEAST_SAMPLES = 16  # behind a point of training, but for an epoch's last step
Point = tuple[str, float, int]


def summary_writer() -> Any:
    """The class that writes events. Raises ConfigError without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs TensorBoard, the extra 'tensorboard' of PROPER, which is not installed",
            hint="in the checkout: pip install '.[tensorboard]', or make install",
        ) from None
    return SummaryWriter


def write_events(out: Path, folder: Path) -> None:
    """Write the scored run in `out` as one file of events into `folder`.

    What an earlier call wrote there is hidden by it. Raises ReportError for a run that is not scored.
    """
    make_private_folder(folder)
    plans = run_plans(out)
    writer = summary_writer()(log_dir=str(folder), purge_step=0)
    try:
        writer.add_text("settings", _settings(out, plans[0]), 0)
        for tag, value, step in (*_curves(plans), *_looks(out), *_scores(out)):
            writer.add_scalar(tag, value, step)
    finally:
        writer.close()


def _curves(plans: tuple[RunPlan, ...]) -> Iterator[Point]:
    for plan in plans:
        fold = f"fold-{plan.fold}/" if len(plans) > 1 else ""
        for phase in PHASES:
            steps = read_curve(plan.server_folder / CURVES / f"{phase}.jsonl")
            for loss, last in _losses(steps, getattr(plan.stage_settings, phase).batch_size):
                yield f"{fold}train/{phase}/loss", loss, last
            for step in steps:
                yield f"{fold}train/{phase}/learning_rate", step.learning_rate, step.step


def _losses(steps: Sequence[Step], batch_size: int) -> Iterator[tuple[float, int]]:
    """Means over as many steps as hold `LEAST_SAMPLES`, each at the last of them."""
    known = [(step.loss, step.step) for step in steps if step.loss is not None]
    together = -(-LEAST_SAMPLES // batch_size)
    for start in range(0, len(known) - together + 1, together):
        part = known[start : start + together]
        yield math.fsum(loss for loss, _ in part) / together, part[-1][1]


def _looks(out: Path) -> Iterator[Point]:
    details = read_details(out / DETAILS_FILE)
    for curve in details.curves if details is not None else ():
        for look, loss in enumerate(curve.held_back):
            yield f"held_back/{curve.phase}/loss", loss, look


def _scores(out: Path) -> Iterator[Point]:
    for arm, result in read_results(out).arms.items():
        for metric, summary in result.metrics.items():
            if not math.isnan(summary.mean):
                yield f"score/{arm}/{metric}", summary.mean, 0


def _settings(out: Path, plan: RunPlan) -> str:
    results = read_results(out)
    said = {name: getattr(results, name) for name in TOLD}
    text = json.dumps({**said, "settings": to_mapping(plan.stage_settings)}, indent=2, default=str)
    return "".join(f"    {line}\n" for line in text.splitlines())  # Markdown: as it stands
