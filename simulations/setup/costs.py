"""`--plan`: read the data, measure this machine for a few seconds, and say what a run will cost."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from proper_model.base.config import size, text_config
from proper_model.base.loading import attention_for, compute_dtype, default_device
from proper_model.checks import cut_depth
from proper_model.progress import Progress
from proper_model.storage.files import storage_errors
from simulations.setup.estimate import Estimate, Shape, Speed, count_tokens, estimate
from simulations.setup.options import OneRun, RunOptions
from simulations.setup.placement import check_choices, this_machine
from simulations.setup.prepare import build, check_control, place, server_threads
from simulations.setup.run_folder import check_out, check_same, existing_plan
from simulations.setup.sources import Source, encoder_of, load_source

PROBE_TOKENS = 2048  # of one measured batch
PROBE_LAYERS = 2
PROBE_VOCABULARY = 1024  # the head runs on answers only, so its full width would mislead
MIN_SECONDS = 0.4


def plan_costs(options: RunOptions, progress: Progress) -> Estimate:
    """Costs of the run that `options` describe; of all folds, if they are what is asked for.

    Refuses what the run itself would refuse, OUT included; trains and stores nothing.
    """
    check_out(options.places)
    check_choices(this_machine().cores, actors=options.actors, threads=None)
    runs = options.runs()
    one = runs[0]
    check_control(one)
    with storage_errors(one.places.out), tempfile.TemporaryDirectory(prefix="proper-") as scratch:
        source = load_source(one.reading, progress, scratch=Path(scratch))
        existing = existing_plan(one.places)
        if existing is not None:
            prepared = build(one, source)
            check_same(existing, prepared.plan, prepared.files)
        check_control(one, source)
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


def measure(config: Any, *, tokens: int, batch: int, dtype: torch.dtype, threads: int) -> Speed:
    """Run a slice of the model on random tokens. `tokens` is the length of one row.

    Only the configuration is needed: one or two layers are built with random weights, and time per
    layer times the number of layers is the model's. So a 7B base is judged before it is downloaded.
    """
    from transformers import AutoModel

    device, text = default_device(), text_config(config)
    layers = min(PROBE_LAYERS, size(text, "num_hidden_layers"))
    share = layers / size(text, "num_hidden_layers")
    slim = cut_depth(text, layers)
    slim.vocab_size = PROBE_VOCABULARY
    slim.pad_token_id = None
    model = AutoModel.from_config(
        slim, dtype=dtype, attn_implementation=attention_for(device, dtype)
    )
    model.to(device).eval().requires_grad_(False)
    ids = torch.randint(PROBE_VOCABULARY, (batch, tokens), device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        forward = _seconds(lambda: _forward(model, ids))
        training = _seconds(lambda: _train(model, ids))
    finally:
        torch.set_num_threads(before)
    count = batch * tokens * share
    return Speed(forward=count / forward, training=count / training)


def _forward(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)


def _train(model: Any, ids: torch.Tensor) -> None:
    inputs = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    model(inputs_embeds=inputs, use_cache=False).last_hidden_state.float().sum().backward()


def _seconds(run: Any) -> float:
    """Median time of one call after a warm-up."""
    run()
    times: list[float] = []
    while sum(times) < MIN_SECONDS and len(times) < 50:
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
