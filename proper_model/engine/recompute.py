"""Activation checkpointing: keep a block's input only, and compute its inside again for gradients.

Costs one more forward pass, about half more time, and saves most of the memory that grows with tokens
(docs/performance.md 2). The second computation sees the same pass as the first, so that dropout and
routing are the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch.utils.checkpoint import checkpoint

from proper_model.errors import BaseModelError
from proper_model.kernels.transformers_parts import GradientCheckpointingLayer
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass


@contextmanager
def recomputing(model: AdaptedModel, *, active: bool = True) -> Iterator[None]:
    """Checkpoint every block of the base while open; does nothing unless `active`.

    Raises BaseModelError for a base whose blocks Hugging Face cannot checkpoint.
    """
    if not active:
        yield
        return
    blocks = [m for m in model.base.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not blocks:
        raise BaseModelError(
            "the base has no blocks that can be checkpointed",
            hint="set user.recompute_activations = false in the profile",
        )
    contexts = functools.partial(_contexts, model)
    run = functools.partial(checkpoint, use_reentrant=False, context_fn=contexts)
    try:
        for block in blocks:
            block.gradient_checkpointing = True
            # Its public switch takes no contexts.
            block._gradient_checkpointing_func = run  # noqa: SLF001
            # Hugging Face checkpoints in training mode only. The flag of the block alone: its parts
            # stay in evaluation mode, so the base's own dropout stays off.
            block.training = True
        yield
    finally:
        for block in blocks:
            block.gradient_checkpointing = False
            block.training = False
            del block._gradient_checkpointing_func  # noqa: SLF001


def _contexts(
    model: AdaptedModel,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around a block's first computation and around its second, during the backward pass."""
    now = model.current
    return nullcontext(), nullcontext() if now is None else _again(model, now)


@contextmanager
def _again(model: AdaptedModel, now: Pass) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(model.attached())
        stack.enter_context(model.running(now))
        yield
