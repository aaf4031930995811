"""The processes that play nodes: each answers one message after the other, over a pipe of its own.

A pipe between parent and child has no name and no port, so nobody else on the machine can write to
it. A process that dies is replaced; the message that it was working on counts as failed, and the
coordinator asks again.

    python -m simulations.flower.actors DESCRIPTOR
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from simulations.flower.supervisor import end_with_parent

# The launcher looks for this in the log, to say why nodes did not finish.
LOST = "proper: a process that plays nodes has ended"
# Names a folder in which what they are asked and answer is kept as its bytes on a wire, for
# `proper-sim privacy egress`.
RECORDED = "PROPER_RECORDED_MESSAGES"


class ActorError(Exception):
    """A process did not answer. The text is ours: exceptions of a node may quote a user."""


class Actor:
    """One process. `settings` are added to the environment that it starts with."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.channel, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "simulations.flower.actors", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **settings},
                pass_fds=[theirs.fileno()],
            )

    def ask(self, request: object) -> Any:
        """The answer to one request. Raises ActorError if the process ends or fails meanwhile."""
        try:
            self.channel.send(request)
            failed, answer = self.channel.recv()
        except (EOFError, OSError):
            raise ActorError(f"{LOST}: {ending(self.process.wait())}") from None
        if failed is not None:
            raise ActorError(f"a process that plays nodes failed with {failed}")
        return answer

    def close(self) -> None:
        """Have the process end after the message it is working on; wait for that."""
        self.channel.close()
        self.process.wait()


class ActorPool:
    """Processes that take turns; as many requests are worked on at once as there are processes."""

    def __init__(self, settings: Sequence[Mapping[str, str]]) -> None:
        self.size = len(settings)
        self.idle: queue.SimpleQueue[Actor] = queue.SimpleQueue()
        for one in settings:
            self.idle.put(Actor(one))

    def ask(self, request: object) -> Any:
        """The next idle process' answer. Raises ActorError; a process that ended is replaced."""
        actor = self.idle.get()
        try:
            return actor.ask(request)
        finally:
            if actor.process.poll() is not None:
                actor.close()
                # Where no other can be started now, this one stays in the queue: a request that
                # waits for a process would wait for ever.
                with suppress(OSError):
                    actor = Actor(actor.settings)
            self.idle.put(actor)

    def close(self) -> None:
        """End all processes, each after the message it is working on."""
        for _ in range(self.size):
            self.idle.get().close()


def ending(status: int) -> str:
    """How a process ended, from its exit status as `subprocess` gives it."""
    if status >= 0:
        return f"exit code {status}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"


def actor_settings(
    actors: int, threads: int, gpus: int, visible: str | None
) -> list[dict[str, str]]:
    """What each of `actors` processes is told: its threads and its share of the GPUs.

    `visible`: the CUDA_VISIBLE_DEVICES of this process, of which only those are shared out.
    """
    names = visible.split(",") if visible else [str(number) for number in range(gpus)]
    names = names[:gpus]
    settings = []
    for number in range(actors):
        one = {"OMP_NUM_THREADS": str(threads)}
        if names:
            first, last = number * gpus // actors, (number + 1) * gpus // actors
            one["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : max(last, first + 1)])
        settings.append(one)
    return settings


def main(descriptor: int) -> None:
    """Answer requests of (message, context) with (reply, context) until the pipe is closed."""
    end_with_parent()  # else it would finish its message first, for hours and beside a new start
    from client.node.flower_app import app

    channel: Connection[Any, Any] = Connection(descriptor)
    while True:
        try:
            message, context = channel.recv()
        except EOFError:
            return
        answer: tuple[str | None, Any]
        try:
            answer = None, (app(message=message, context=context), context)
        except Exception as error:  # noqa: BLE001 - its text may quote a user, so it stays here
            answer = type(error).__name__, None
        channel.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
