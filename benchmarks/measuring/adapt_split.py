"""`python -m benchmarks.measuring.adapt_split OUT ARGUMENTS...`: `proper ARGUMENTS...`, its time in parts.

The program runs as always, in this process. Only when training is about to begin are the functions
around each part wrapped, so that nothing is imported earlier than the program would. Each second counts for
the innermost part: `judge` is no part of `adapter`. What is outside all parts is `start`: Python, imports,
the history, the passphrase.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

START = "start"
BEGIN = "learner_for"  # of `client.commands.adapt`: what it calls first of all that needs a model
PARTS = (START, "load", "estimate", "embedding", "adapter", "judge", "save")


class Split:
    """CPU and wall-clock seconds by part, since this process began."""

    def __init__(self) -> None:
        self.seconds = {part: [0.0, 0.0] for part in PARTS}
        self.tokens: list[int] = []
        self._open = [START]
        # A process counts its CPU from its beginning; the wall clock began as much before, at least.
        self._last = (0.0, time.monotonic() - time.process_time())

    def turn(self) -> None:
        """Count what has passed since the last turn for the part that is open."""
        now = time.process_time(), time.monotonic()
        for k, before in enumerate(self._last):
            self.seconds[self._open[-1]][k] += now[k] - before
        self._last = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose seconds count for a part."""

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.turn()
            self._open.append(part)
            try:
                return function(*arguments, **named)
            finally:
                self.turn()
                self._open.pop()

        return wrapped

    def wrap(self) -> None:
        """Have every part counted, and the tokens of the items kept."""
        for owner, name, part in places():
            setattr(owner, name, self.timed(part, getattr(owner, name)))
        from client.person.learner import Learner

        encode = Learner.encode

        def counted(learner: Any, *arguments: Any, **named: Any) -> Any:
            found = encode(learner, *arguments, **named)
            self.tokens = [len(one.tokens) for one in found]
            return found

        setattr(Learner, "encode", counted)  # noqa: B010 - a name that mypy holds to its type


def places() -> list[tuple[Any, str, str]]:
    """Where each part begins: a module or class, the name of a function there, the part."""
    from client.commands import adapt
    from client.person import load_for_training
    from client.person.learner import Learner
    from proper_model.engine import cohort, training_loop
    from proper_model.stages import calibrated_lora, user_embedding

    return [
        (load_for_training, "load_within", "load"),
        (adapt, "say_cost", "estimate"),
        (Learner, "fit_embeddings", "embedding"),
        (Learner, "train_loras", "adapter"),
        (cohort, "held_back_losses", "judge"),
        (user_embedding, "held_back_losses", "judge"),
        (calibrated_lora, "held_back_log_probs", "judge"),
        (training_loop, "save_checkpoint", "save"),
        (adapt, "store", "save"),
    ]


def main(out: Path, arguments: list[str]) -> None:
    """Run the program, write the parts to `out`, end with the program's exit code."""
    from client import cli
    from client.commands import adapt

    split = Split()
    begin: Callable[..., AbstractContextManager[Any]] = getattr(adapt, BEGIN)

    def learner_for(*given: Any) -> AbstractContextManager[Any]:
        split.wrap()
        return begin(*given)

    setattr(adapt, BEGIN, learner_for)
    sys.argv = ["proper", *arguments]
    try:
        cli.main()
    finally:
        split.turn()
        parts = {
            part: {"cpu_s": cpu, "wall_s": wall} for part, (cpu, wall) in split.seconds.items()
        }
        out.write_text(json.dumps({"parts": parts, "tokens": split.tokens}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
