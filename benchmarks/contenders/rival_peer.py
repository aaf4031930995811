"""A peer: somebody else's program in an environment of its own, raced like a contender.

moe-peft 2.0.2 trains LoRAMoE adapters of many users at once, as the engine does, but another function:
every adapter has experts and a router of its own, where the engine's are everybody's and frozen and the
user has one pair of factors. Equal are the base's shape, the sites, ranks, number of experts, samples and
their lengths, samples in an optimizer step, and the tokens of a shared pass. It needs a transformers of
2024, so `make peer` makes its environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.workload import Counts
from benchmarks.contenders.world import LEARNING_RATE, Factors, World, shared_steps
from benchmarks.kinds import Seconds
from proper_model.errors import ConfigError, TrainingError

PYTHON = Path(sys.prefix) / "peer" / "bin" / "python"
CHILD = Path(__file__).with_name("peer_child.py")
# Of the base's configuration, what a transformers of 2024 knows under the same name.
SHAPE = (
    *("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "max_position_embeddings", "tie_word_embeddings"),
    *("pad_token_id", "use_cache"),
)


class Peer:
    """The program, which is asked for a round at a time and times it by itself."""

    def __init__(self, world: World) -> None:
        if not PYTHON.is_file():
            raise ConfigError("its environment is not there: make peer")
        if (world.device.type, world.spec.dtype) != ("cpu", "float32"):
            raise ConfigError("it is raced on a CPU and in float32 alone")
        self.world, self.trained = world, dict[int, Factors]()
        asked, self.counts = workload(world)
        self.process = subprocess.Popen(
            [str(PYTHON), "-I", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(world.spec.threads)},
            text=True,
        )
        world.process = self.process.pid
        self._ask(json.dumps(asked))

    def round(self, clock: Stopwatch) -> None:
        """Train all users once from the start, over there."""
        clock.take(Seconds(**self._ask("round")))
        self.world.encoder.counts = dataclasses.replace(self.counts)

    def _ask(self, line: str) -> dict[str, Any]:
        """Its answer. Raises TrainingError if it has none but a cause."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer: dict[str, Any] = {"cause": "Killed"}
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if "cause" in answer:
            self.process.kill()
            self.process.communicate()
            raise TrainingError(answer["cause"])
        return answer


def workload(world: World) -> tuple[dict[str, Any], Counts]:
    """What the peer is to train, and what that comes to in a round."""
    steps = [
        [sorted(rows, key=lambda row: row.slot) for rows in step]
        for step in shared_steps(world.users, world.settings)
    ]
    counts = Counts()
    for rows in (rows for step in steps for rows in step):
        longest = max(len(row.sample.tokens) for row in rows)
        counts.add([row.sample for row in rows], padded=longest * len(rows))
    asked = {
        "base": {name: getattr(world.base.config, name) for name in SHAPE},
        "samples": [len(user.samples) for user in world.users],
        "experts": world.structure.experts,
        "rank": world.structure.rank,
        "alpha": int(world.structure.alpha),
        "batch": world.spec.batch,
        "threads": world.spec.threads,
        "seed": world.seed,
        "dropout": world.settings.dropout,
        "learning_rate": LEARNING_RATE,
        "weight_decay": world.settings.weight_decay,
        "steps": [
            [
                [(r.slot, r.sample.tokens, r.sample.prompt_tokens, r.share) for r in rows]
                for rows in step
            ]
            for step in steps
        ],
    }
    return asked, counts
