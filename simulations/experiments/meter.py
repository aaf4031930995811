"""What a part of an experiment costs: tokens through the base, and seconds.

Tokens are counted where they enter the base, so that trials, early stops and the last training on
all items count as what they were. A cohort shares passes: the sums are exact, a single user's share
is their mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from simulations.experiments.schema import Costs


class Meter:
    """Costs by name; a name that is measured twice adds up."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.costs: dict[str, Costs] = {}

    @contextmanager
    def over(self, name: str) -> Iterator[None]:
        """Count everything that goes through the base until the end of the block."""
        tokens = {True: 0, False: 0}

        def count(_module: object, given: tuple[Any, ...], _output: object) -> None:
            tokens[torch.is_grad_enabled()] += int(given[0].numel())

        wall, cpu = time.monotonic(), time.process_time()
        hook = self.base.get_input_embeddings().register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()
        spent = Costs(
            trained_tokens=tokens[True],
            judged_tokens=tokens[False],
            seconds=time.monotonic() - wall,
            cpu_seconds=time.process_time() - cpu,
        )
        self.costs[name] = spent + self.costs[name] if name in self.costs else spent
