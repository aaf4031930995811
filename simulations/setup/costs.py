"""`--plan`: read the data, measure this machine for a few seconds, and say what a run will cost."""

from __future__ import annotations

import tempfile
from pathlib import Path

from proper_model.base.loading import compute_dtype, default_device
from proper_model.base.model_types import LARGEST_EMBEDDED_PARAMETERS
from proper_model.checks import read_config, read_tokenizer
from proper_model.federation.machine import useful_threads
from proper_model.settings import preset
from proper_model.storage.files import storage_errors
from proper_model.text import Encoder
from simulations.setup.calibrate import measure, shape_of
from simulations.setup.estimate import Estimate, count_tokens, estimate
from simulations.setup.options import RunOptions
from simulations.setup.placement import check_choices, this_machine
from simulations.setup.prepare import (
    build,
    memory_bytes,
    place,
)
from simulations.setup.run_folder import check_out, check_same, existing_plan
from simulations.setup.sources import Progress, Source, load_source

PROBE_TOKENS = 2048  # of one measured batch


def plan_costs(options: RunOptions, progress: Progress) -> Estimate:
    """Costs of the run that `options` describe; of all folds, if they are what is asked for.

    Refuses what the run itself would refuse, OUT included; trains and stores nothing.
    """
    check_out(options)
    check_choices(this_machine().cores, actors=options.actors, threads=None)
    one = options.for_fold(0) if options.all_folds else options
    with storage_errors(one.out), tempfile.TemporaryDirectory(prefix="proper-") as scratch:
        source = load_source(one, progress, scratch=Path(scratch))
        existing = existing_plan(one.out.resolve(), resume=one.resume)
        if existing is not None:
            prepared = build(one, source, one.out.resolve())
            check_same(existing, prepared.plan, prepared.files)
        return _costs(options, source, progress)


def _costs(options: RunOptions, source: Source, progress: Progress) -> Estimate:
    settings, structure = source.settings, preset(options.preset)
    encoder = Encoder(
        read_tokenizer(source.config_base),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )
    progress("counting tokens", 0, 0)
    tokens = count_tokens(source.population, source.task, encoder, settings)
    progress("measuring this machine", 0, 0)
    config = read_config(source.config_base)
    shape, dtype = shape_of(config), compute_dtype(settings.dtype, default_device())
    rows = max(1, min(settings.group.batch_size, PROBE_TOKENS // tokens.row))
    threads = options.threads or useful_threads(shape.hidden)
    users = len(source.population.test)
    placement = place(options, source, users, shape.hidden)
    node = measure(config, tokens=tokens.row, batch=rows, dtype=dtype, threads=placement.threads)
    server = node
    if threads != placement.threads:
        server = measure(config, tokens=tokens.row, batch=rows, dtype=dtype, threads=threads)
    result = estimate(
        tokens,
        server,
        node,
        shape,
        structure,
        settings,
        arms=options.arms,
        users=users,
        processes=placement.actors,
        dtype_bytes=dtype.itemsize,
        embed_base=shape.parameters <= LARGEST_EMBEDDED_PARAMETERS,
        training_bytes=memory_bytes(options.memory_budget),
    )
    return result.times(options.folds) if options.all_folds else result
