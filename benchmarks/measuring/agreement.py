"""Whether contenders train what the reference trains: looked at before any of them is timed.

Everybody trains the same few users over the same tiny base once; what is compared are all their adapters,
as |trained - reference| / |reference - start|.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.build import build_base, make_contender
from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import Workload, make_users
from benchmarks.contenders.world import Factors, World, settings_of, start_of
from benchmarks.kinds import OTHERS, WITHOUT_EXPERTS, Agreement, Shape
from benchmarks.measuring.processes import cause_of
from proper_model.kernels.ops import Backend

# Widths of which none is a power of two or equals another, and fewer key heads than heads.
TINY = Shape(hidden=96, layers=2, ffn=208, heads=6, kv_heads=2, vocabulary=384, tied=True)
WORK = Workload("tiny", users=5, samples=3, tokens=20, lengths="ragged", seed=0)
REFERENCE = Spec("ours-moe", backend=Backend.REFERENCE.value)  # einsum and autograd
CPU = torch.device("cpu")

Trained = tuple[Tensor, Tensor]  # all adapters after a round and before it, each in one line


def trained_by(
    spec: Spec, device: torch.device, configure: Callable[[Any], object] = lambda _: None
) -> Trained:
    """What a contender trains, in float64 on the host. `configure` changes it beforehand."""
    # The same weights in every dtype: drawn wide, then rounded.
    base = build_base(TINY, Spec("ours-moe"), device, seed=WORK.seed).to(spec.torch_dtype)
    users = make_users(WORK, TINY.vocabulary)
    world = World(spec, base, users, WORK.seed, settings_of(spec), keep=True)
    widths = world.widths()
    contender = make_contender(world)
    configure(contender)
    contender.round(Stopwatch(device))
    before = {u: start_of(widths, world, user) for u, user in enumerate(users)}
    return _in_line(contender.trained), _in_line(before)


def compared(name: str, dtype: str, train: Callable[[], Trained], with_: Trained) -> Agreement:
    """How far this training is from the reference's; one that fails is a result as well."""
    expected, start = with_
    try:
        off = float((train()[0] - expected).norm() / (expected - start).norm())
    except Exception as error:  # noqa: BLE001 - a contender's failure is a result
        return Agreement(name, dtype, None, cause_of(error))
    finite = math.isfinite(off)
    return Agreement(
        name, dtype, off if finite else None, None if finite else "not a finite number"
    )


def agreements(specs: Iterable[Spec]) -> list[Agreement]:
    """Every contender that trains the reference's function, beside the reference in float64; at a thread.

    The reference has experts and router or not, and takes as many samples in a step, as the contender.
    """
    torch.set_num_threads(1)
    references: dict[Spec, Trained] = {}
    found = []
    alike = (
        dataclasses.replace(one, threads=Spec.threads, tokens_per_step=Spec.tokens_per_step)
        for one in specs
    )
    for spec in dict.fromkeys(alike):
        if spec.kind in OTHERS:
            continue
        kind = "ours" if spec.kind in WITHOUT_EXPERTS else "ours-moe"
        like = dataclasses.replace(REFERENCE, kind=kind, batch=spec.batch, dtype="float64")
        if like not in references:
            references[like] = trained_by(like, CPU)
        label = dataclasses.replace(spec, dtype=Spec.dtype).label
        train = functools.partial(trained_by, spec, CPU)
        found.append(compared(label, spec.dtype, train, references[like]))
    return found


def _in_line(adapters: Mapping[int, Factors]) -> Tensor:
    parts = [
        x.double().cpu().flatten() for u in sorted(adapters) for pair in adapters[u] for x in pair
    ]
    return torch.cat(parts)
