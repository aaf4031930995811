"""Flower's simulation runtime in one process: the coordinator, the nodes' queues, their messages.

Nothing listens: ServerApp, grid, link state and message loop run in memory, and `ProcessBackend`
hands each message to a process over a pipe. Why not `flwr run`: docs/federation.md 1.

    python -m simulations.flower.flower_engine OUT/plan.json ACTORS THREADS GPUS
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.fleet.vce.vce_api import (
    _register_node_info_stores,
    _register_nodes,
    run_api,
)
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from client.node.failures import describe
from proper_model.federation.run_plan import RunPlan
from proper_model.storage.files import write_atomic
from simulations.flower.actors import RECORDED, ActorPool, actor_settings

# Of the only run there is: nothing but this process sees them.
RUN_ID = TASK_ID = 1


class ProcessBackend(Backend):
    """Runs a node's ClientApp in one of a pool of processes."""

    def __init__(self, settings: Sequence[dict[str, str]]) -> None:
        self.pool = ActorPool(settings)
        recorded = os.environ.get(RECORDED)
        self.recorded = Path(recorded) if recorded else None

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Nothing is left to do: the processes load the app by themselves."""

    @property
    def num_workers(self) -> int:
        return self.pool.size

    def is_worker_idle(self) -> bool:
        return not self.pool.idle.empty()

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The node's reply and its context afterwards. Raises ActorError without quoting a user."""
        self._record("request", message, message)
        reply, after = self.pool.ask((message, context))
        self._record("reply", message, reply)
        return reply, after

    def _record(self, name: str, request: Message, message: Message) -> None:
        """Keep a request, or the reply to it, as the bytes that the other side gets."""
        if self.recorded is not None:
            kept = self.recorded / f"{request.metadata.message_id}.{name}"
            write_atomic(kept, message_to_proto(message).SerializeToString())

    def terminate(self) -> None:
        self.pool.close()


def simulate(plan_path: Path, settings: Sequence[dict[str, str]]) -> None:
    """Run a plan's coordinator over its nodes to the end; raises what the coordinator raised."""
    from client.node.flower_app import app as client_app
    from coordinator.server_app import app as server_app

    plan = RunPlan.load(plan_path)
    run, states = _new_run()
    grid = InMemoryGrid(state_factory=states)
    grid.set_run(run)
    nodes = _register_nodes(num_nodes=plan.node_count, state_factory=states)
    where = Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), {"plan": str(plan_path)})
    finished = threading.Event()
    raised: list[Exception] = []

    def serve() -> None:
        try:
            server_app(grid=grid, context=where)
        except Exception as error:  # noqa: BLE001 - raised again below, in the main thread
            raised.append(error)
        finally:
            finished.set()

    server = threading.Thread(target=serve, name="coordinator", daemon=True)
    server.start()
    run_api(
        lambda: client_app,
        lambda: ProcessBackend(settings),
        nodes,
        states,
        _register_node_info_stores(nodes_mapping=nodes, run=run),
        finished,
        VceMetrics(),
    )
    server.join()
    if raised:
        raise raised[0]


def _new_run() -> tuple[Run, LinkStateFactory]:
    """An empty link state in memory that knows of one run, and this process as its server."""
    run = Run.create_empty(run_id=RUN_ID)
    run.primary_task_id, run.federation_id = TASK_ID, NOOP_FEDERATION_ID
    TaskIdentity.task_id, TaskIdentity.run_id = TASK_ID, RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    states = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    state = states.state()
    assert isinstance(state, InMemoryLinkState)
    state.run_ids[RUN_ID] = RunRecord(run=run)
    state.task_store[TASK_ID] = Task(task_id=TASK_ID, run_id=RUN_ID)
    return run, states


def main(plan: str, actors: str, threads: str, gpus: str) -> int:
    """Exit code 0 if the coordinator finished; else the log says what stopped it, and where."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        simulate(Path(plan), actor_settings(int(actors), int(threads), int(gpus), visible))
    except Exception as error:  # noqa: BLE001 - a foreign exception's text may quote a user
        print(*describe(error), file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
