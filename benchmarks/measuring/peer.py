"""A peer: somebody else's program in an environment of its own, raced like a contender.

moe-peft 2.0.2 trains LoRAMoE adapters of many users at once, as the engine does, but another function:
every adapter has experts and a router of its own, where the engine's are everybody's and frozen and the
user has one pair of factors. Equal are the base's shape, the sites, ranks, number of experts, samples and
their lengths, samples in an optimizer step, and the tokens of a shared pass. It needs a transformers of
2024, so `make peer` makes its environment.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from benchmarks.contenders.build import llama_of, shape_of
from benchmarks.contenders.measure import memory_bytes, peak_memory_bytes, reset_peak_memory
from benchmarks.contenders.workload import Counts, make_users
from benchmarks.contenders.world import LEARNING_RATE, settings_of, shared_steps
from benchmarks.measuring.processes import without_ctrl_c
from benchmarks.measuring.worker import Job, Ready, Refused, Round
from benchmarks.seconds import Seconds
from proper_model.settings.presets import preset

PEER = "moe-peft"
PYTHON = Path(sys.prefix) / "peer" / "bin" / "python"
CHILD = Path(__file__).with_name("peer_child.py")
CPU = torch.device("cpu")


class PeerWorker:
    """The parent's end, as `Worker` is one."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ready: Ready | None = None
        self.refused: Refused | None = None
        self._process: subprocess.Popen[str] | None = None
        if not PYTHON.is_file():
            self.refused = Refused("its environment is not there: make peer")
        elif (job.device, job.spec.dtype) != ("cpu", "float32"):
            self.refused = Refused("it is raced on a CPU and in float32 alone")
        else:
            self._start()

    def _start(self) -> None:
        asked, self._counts = workload(self.job)
        with without_ctrl_c():
            self._process = subprocess.Popen(
                [str(PYTHON), "-I", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.job.spec.threads)},
                text=True,
            )
        if self._ask(json.dumps(asked)) is not None:
            pid = self._process.pid
            self.ready = Ready(asked["users"], "eager", memory_bytes(CPU, pid))
            reset_peak_memory(CPU, pid)

    def round(self) -> Round | Refused:
        """Run one round and wait for it."""
        if self.refused is None and (found := self._ask("round")) is not None:
            assert self._process is not None
            peak = peak_memory_bytes(CPU, self._process.pid)
            return Round(Seconds(**found), self._counts, peak)
        assert self.refused is not None
        return self.refused

    def _ask(self, line: str) -> dict[str, Any] | None:
        """Its answer; None and a refusal if it has none."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        answer: dict[str, Any] = {"cause": "Killed"}
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if "cause" in answer:
            self.refused = Refused(answer["cause"])
            return None
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()  # it has nothing to lose
            self._process.communicate()


def workload(job: Job) -> tuple[dict[str, Any], Counts]:
    """What the peer is to train, and what that comes to in a round."""
    spec, structure, settings = job.spec, preset("default"), settings_of(job.spec, job.dropout)
    shape = shape_of(job.work.size)
    users = make_users(job.work, shape.vocabulary)[: job.users]
    steps = [
        [sorted(rows, key=lambda row: row.slot) for rows in step]
        for step in shared_steps(users, settings)
    ]
    counts = Counts()
    for rows in (rows for step in steps for rows in step):
        longest = max(len(row.sample.tokens) for row in rows)
        counts.add([row.sample for row in rows], padded=longest * len(rows))
    asked = {
        "base": llama_of(shape, job.work.tokens),
        "users": len(users),
        "samples": [len(user.samples) for user in users],
        "experts": structure.experts,
        "rank": structure.rank,
        "alpha": int(structure.alpha),
        "batch": spec.batch,
        "threads": spec.threads,
        "seed": job.work.seed,
        "dropout": settings.dropout,
        "learning_rate": LEARNING_RATE,
        "weight_decay": settings.weight_decay,
        "steps": [
            [
                [(r.slot, r.sample.tokens, r.sample.prompt_tokens, r.share) for r in rows]
                for rows in step
            ]
            for step in steps
        ],
    }
    return asked, counts
