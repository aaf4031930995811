"""`--max-memory`: how to hold the base and how to train within a number of bytes.

The base is the largest part, so it is decided first: in full if there is room for training beside
it, else in 8 and then in 4 bits. What is left goes to training, which shrinks its passes to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from proper_model.config import BaseWeights
from proper_model.errors import ConfigError

# Of a float32 or bfloat16 base's bytes, with scales; embeddings and norms stay as they are.
# Measured: 19.3 MB of linears became 5.1 and 2.7 MB.
SHARE_OF_FLOAT32 = {BaseWeights.FULL: 1.0, BaseWeights.EIGHT_BIT: 0.27, BaseWeights.FOUR_BIT: 0.15}
LEAST_TRAINING_BYTES = 64 << 20
PROCESS_BYTES = 640 << 20  # Python with torch and transformers, before any base: measured


@dataclass(frozen=True)
class MemoryChoice:
    """How the base is held, what training may take beside it, and whether it recomputes."""

    base_weights: BaseWeights
    training_bytes: int | None
    recompute: bool


def choose(
    limit: int | None, base_bytes: int, *, base_weights: str | None, recompute: bool
) -> MemoryChoice:
    """The first of full, 8 and 4 bits that leaves room for training.

    Args:
        limit: bytes of the whole process, None for no limit.
        base_bytes: of the base in full.
        base_weights: the user's own choice, which is kept.

    Raises:
        ConfigError: an unknown choice, or a limit that nothing fits.
    """
    if base_weights is not None and base_weights not in set(BaseWeights):
        raise ConfigError(f"unknown --base-weights '{base_weights}'", hint="full, 8bit or 4bit")
    chosen = BaseWeights(base_weights) if base_weights is not None else None
    if limit is None:
        return MemoryChoice(chosen or BaseWeights.FULL, None, recompute)
    candidates = [chosen] if chosen is not None else [BaseWeights.FULL]
    if chosen is None and find_spec("bitsandbytes") is not None:
        candidates += [BaseWeights.EIGHT_BIT, BaseWeights.FOUR_BIT]
    for weights in candidates:
        left = limit - PROCESS_BYTES - int(base_bytes * SHARE_OF_FLOAT32[weights])
        if left >= LEAST_TRAINING_BYTES:
            tight = left < base_bytes  # activations of full passes would rarely fit
            return MemoryChoice(weights, left, recompute or tight)
    needed = PROCESS_BYTES + LEAST_TRAINING_BYTES
    needed += int(base_bytes * SHARE_OF_FLOAT32[candidates[-1]])
    raise ConfigError(
        f"--max-memory is too little: this base needs {needed / 2**30:.2f} GiB",
        hint="a larger limit, or a smaller base"
        + (
            ""
            if len(candidates) > 1
            else "; --base-weights 4bit needs less (pip install proper[quantized])"
        ),
    )
