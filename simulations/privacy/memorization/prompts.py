"""What a server sees whose model is asked with a person's items: the methods that need no training.

Whoever runs the model reads the prompt. Over all queries of a person it has seen an answer, or a secret, if
that stands in one of the prompts: an exact match, for which no model is asked. As a target it is certain of
what it saw and knows nothing of the rest, so that its numbers stand beside those of trained parts.

Prompts have the room that a server's model has (`ROOM_TOKENS`), not only that of a tiny base.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proper_model.tasks import Example
from simulations.baselines.arm import Benchmark
from simulations.baselines.registry import prompted
from simulations.privacy.memorization.recall import Recall, Target

METHODS = ("rag-1", "rag-4", "pag-counted", "full-history")
ROOM_TOKENS = 2048
UNSEEN = -1e3  # nats: never produced, and alike for all that was not seen


def prompts_target(method: str, given: Benchmark) -> Target:
    """A method's prompts as a target; slots are places among the users of `given`."""
    return seen_target(prompted(method).prompts(given, positions=ROOM_TOKENS))


def seen_target(prompts: Sequence[Sequence[str]]) -> Target:
    """Of every slot the prompts that a server saw, as a target."""
    seen = ["\n".join(_plain(prompt) for prompt in own) for own in prompts]

    def recall(asked: Sequence[tuple[int, Example]]) -> Recall:
        texts = [(slot, _plain(example.answer)) for slot, example in asked]
        found = np.array([bool(text) and text in seen[slot] for slot, text in texts], np.bool_)
        ones = np.ones(len(asked), dtype=np.int64)
        return Recall(np.where(found, 0.0, UNSEEN), ones, found)

    return recall


def _plain(text: str) -> str:
    """A text as it is compared: case and blanks folded."""
    return " ".join(text.casefold().split())
