"""`--plan`: read the data, measure this machine for a few seconds, and say what a run will cost."""

from __future__ import annotations

import tempfile
from pathlib import Path

from proper_model.base.loading import compute_dtype, default_device
from proper_model.federation.step_clock import Progress
from proper_model.storage.files import storage_errors
from simulations.setup.calibrate import measure
from simulations.setup.estimate import Estimate, Shape, count_tokens, estimate
from simulations.setup.options import OneRun, RunOptions
from simulations.setup.placement import check_choices, this_machine
from simulations.setup.prepare import build, place, server_threads
from simulations.setup.run_folder import check_out, check_same, existing_plan
from simulations.setup.sources import Source, encoder_of, load_source

PROBE_TOKENS = 2048  # of one measured batch


def plan_costs(options: RunOptions, progress: Progress) -> Estimate:
    """Costs of the run that `options` describe; of all folds, if they are what is asked for.

    Refuses what the run itself would refuse, OUT included; trains and stores nothing.
    """
    check_out(options.places)
    check_choices(this_machine().cores, actors=options.actors, threads=None)
    runs = options.runs()
    one = runs[0]
    with storage_errors(one.places.out), tempfile.TemporaryDirectory(prefix="proper-") as scratch:
        source = load_source(one.reading, progress, scratch=Path(scratch))
        existing = existing_plan(one.places)
        if existing is not None:
            prepared = build(one, source)
            check_same(existing, prepared.plan, prepared.files)
        result = _costs(one, source, progress)
        return result.times(len(runs)) if len(runs) > 1 else result


def _costs(run: OneRun, source: Source, progress: Progress) -> Estimate:
    settings, base = source.settings, source.found
    progress("counting tokens", 0, 0)
    tokens = count_tokens(source.population, source.task, encoder_of(base, settings), settings)
    progress("measuring this machine", 0, 0)
    dtype = compute_dtype(settings.dtype, default_device())
    rows = max(1, min(settings.group.batch_size, PROBE_TOKENS // tokens.row))
    placement = place(run.machinery, source)
    threads = server_threads(run.machinery, source)
    speeds = {
        number: measure(base.config, tokens=tokens.row, batch=rows, dtype=dtype, threads=number)
        for number in {placement.threads, threads}
    }
    return estimate(
        tokens,
        speeds[threads],
        speeds[placement.threads],
        Shape.of(base),
        run.training.structure,
        settings,
        arms=run.training.arms,
        users=len(source.population.test),
        processes=placement.actors,
        dtype_bytes=dtype.itemsize,
        embed_base=base.is_embedded,
        training_bytes=run.machinery.memory_bytes,
    )
