"""Rounds of a federation that sends a release out and takes nothing private back.

Not a child of Flower's `Strategy`: that class is about aggregating arrays that come back, and here no
array does. Every node takes part; a release is sent by asking first which pieces a node lacks; a node
that errs, is slow or is gone is asked again a limited number of times and never blocks the others; a
late answer to an earlier attempt still counts. Source: docs/federation.md 4 (ask first) and 5 (sampling
can block for ever).

`messages.jsonl` has a line for each message, with its kind, node and size, never its content.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.shipment import Shipment
from proper_model.errors import ProtocolError, SimulationError
from proper_model.federation.protocol import (
    CONFIG,
    RETRY_USELESS,
    Kind,
    Status,
    Value,
    hashes,
    parse_reply,
    request_fields,
    size_bytes,
)
from proper_model.progress import Progress
from proper_model.storage.documents import parse_object

Fields = Mapping[str, object]
FINAL = RETRY_USELESS | {Status.OK, Status.NO_BUNDLE, Status.DEVICE_FAILED}
POLL_S = 0.1
SETTLE_S = 0.5  # without a new node


@dataclass
class Federation:
    """The nodes of a run and how to talk to them. Times are in seconds."""

    grid: Grid
    ledger: MessageLedger
    attempts: int
    message_timeout_s: float
    round_timeout_s: float
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    proceed_with_fewer: bool = False
    nodes: tuple[int, ...] = ()
    answers: dict[int, Fields] = field(default_factory=dict)

    def wait_for_nodes(self, expected: int) -> None:
        """Sample all nodes: wait until `expected` are there and no more are joining.

        Raises SimulationError if fewer have appeared within `message_timeout_s`, unless
        `proceed_with_fewer`; without any node always.
        """
        deadline = self.clock() + self.message_timeout_s
        changed_at = self.clock()
        while True:
            seen = tuple(sorted(self.grid.get_node_ids()))
            if seen != self.nodes:
                self.nodes, changed_at = seen, self.clock()
            # Nodes register one after the other; those beyond `expected` may be who hosts devices.
            if len(seen) >= expected and self.clock() - changed_at >= SETTLE_S:
                return
            if self.clock() >= deadline:
                break
            self.sleep(POLL_S)
        if len(seen) >= expected or (seen and self.proceed_with_fewer):
            return
        raise SimulationError(
            f"{len(seen) or 'no'} node{'s' * (len(seen) > 1)} appeared within "
            f"{self.message_timeout_s:g} s, {expected} expected",
            hint=f"the plan is for {expected} SuperNodes; if so many were started, Flower's log says "
            "why they did not join",
        )

    def ship(self, shipment: Shipment, nodes: Sequence[int] | None = None) -> dict[int, Status]:
        """Bring the release to the nodes, each piece at most once, and have it installed."""
        targets = self.nodes if nodes is None else tuple(nodes)
        asked = shipment.table.all_pieces()
        ask = request_fields(Kind.HAVE, shipment.bundle_id, pieces=list(asked))
        outcome = self.exchange(Kind.HAVE, dict.fromkeys(targets, ask), self.message_timeout_s)
        lacking: dict[tuple[str, ...], list[int]] = {}
        for node in (n for n in targets if outcome[n] is Status.OK):
            missing = hashes(self.answers[node], "missing")
            if not set(missing) <= set(asked):
                outcome[node] = Status.PROTOCOL
                continue
            lacking.setdefault(missing, []).append(node)
        for missing, group in lacking.items():
            outcome |= self._send(shipment, missing, group)
        ready = [node for node in targets if outcome[node] is Status.OK]
        fields = request_fields(Kind.INSTALL, shipment.bundle_id, **shipment.table.to_fields())
        return outcome | self.exchange(
            Kind.INSTALL, dict.fromkeys(ready, fields), self.message_timeout_s
        )

    def _send(
        self, shipment: Shipment, missing: Sequence[str], group: Sequence[int]
    ) -> dict[int, Status]:
        outcome = dict.fromkeys(group, Status.OK)
        sent = 0
        for load in shipment.loads(missing):
            self.progress("sending the bundle", sent, len(missing))
            ready = [node for node in group if outcome[node] is Status.OK]
            fields = request_fields(
                Kind.STORE,
                shipment.bundle_id,
                pieces=list(load),
                data=[shipment.piece(sha) for sha in load],
            )
            outcome |= self.exchange(
                Kind.STORE, dict.fromkeys(ready, fields), self.message_timeout_s
            )
            sent += len(load)
        return outcome

    def round(self, kind: Kind, shipment: Shipment) -> dict[int, Status]:
        """One personalization or evaluation round; a node that lost the bundle gets it again."""
        fields = request_fields(kind, shipment.bundle_id)
        outcome = self.exchange(kind, dict.fromkeys(self.nodes, fields), self.round_timeout_s)
        lost = [node for node in self.nodes if outcome[node] is Status.NO_BUNDLE]
        if lost:
            outcome |= self.ship(shipment, lost)
            again = [node for node in lost if outcome[node] is Status.OK]
            outcome |= self.exchange(kind, dict.fromkeys(again, fields), self.round_timeout_s)
        return outcome

    def exchange(
        self, kind: Kind, requests: Mapping[int, Mapping[str, Value]], timeout_s: float
    ) -> dict[int, Status]:
        """Send each node its request until it has answered for good; its status by node.

        A node that never answers within `attempts` times `timeout_s` counts as INTERNAL. The
        fields of the last valid reply of each node are kept in `answers`.
        """
        outcome = dict.fromkeys(requests, Status.INTERNAL)
        open_nodes = set(requests)
        waiting: dict[str, int] = {}  # message id -> node, of all attempts
        for attempt in range(self.attempts):
            if not open_nodes:
                break
            waiting |= self._push(kind, {n: requests[n] for n in sorted(open_nodes)}, attempt)
            failed_now = open_nodes - set(waiting.values())  # the grid did not take the message
            deadline = self.clock() + timeout_s
            while open_nodes - failed_now and self.clock() < deadline:
                for reply in self._pull(waiting):
                    node = waiting.pop(reply.metadata.reply_to_message_id)
                    if node not in open_nodes:
                        continue
                    outcome[node] = self._read(kind, node, reply, requests[node])
                    if outcome[node] in FINAL:
                        open_nodes.discard(node)
                        self.progress(kind.value, len(requests) - len(open_nodes), len(requests))
                    elif node not in waiting.values():
                        failed_now.add(node)
                if open_nodes - failed_now:
                    self.sleep(POLL_S)
        return outcome

    def _push(
        self, kind: Kind, requests: Mapping[int, Mapping[str, Value]], attempt: int
    ) -> dict[str, int]:
        # Nodes that get the same request share one record, which Flower then transfers once.
        records: dict[int, RecordDict] = {}
        messages = []
        for node, fields in requests.items():
            content = records.setdefault(
                id(fields), RecordDict({CONFIG: ConfigRecord(cast("Any", dict(fields)))})
            )
            messages.append(Message(content, node, kind.value, group_id=str(attempt)))
            self.ledger.add("out", kind.value, node, size_bytes(fields), "")
        accepted = set(self.grid.push_messages(messages))
        return {
            message.metadata.message_id: message.metadata.dst_node_id
            for message in messages
            if message.metadata.message_id in accepted
        }

    def _pull(self, waiting: Mapping[str, int]) -> list[Message]:
        if not waiting:
            return []
        replies = self.grid.pull_messages(list(waiting))
        return [r for r in replies if r.metadata.reply_to_message_id in waiting]

    def _read(self, kind: Kind, node: int, reply: Message, asked: Mapping[str, Value]) -> Status:
        """The status of a reply. An error's text is not read: it may quote a user's data."""
        if reply.has_error():
            self.ledger.add("in", kind.value, node, 0, "error")
            return Status.INTERNAL
        try:
            if list(reply.content) != [CONFIG]:
                raise ProtocolError(f"reply to {kind.value}: unexpected records")
            fields = cast("Fields", reply.content[CONFIG])
            status, _ = parse_reply(kind, fields, bundle_id=str(asked["bundle_id"]))
        except ProtocolError:
            self.ledger.add("in", kind.value, node, 0, "malformed")
            return Status.INTERNAL
        self.ledger.add("in", kind.value, node, size_bytes(fields), status.value)
        self.answers[node] = fields
        return status


@dataclass
class MessageLedger:
    """Appends a line for each message to `path`, after what earlier starts wrote there.

    It shows that large arrays travel once per node. `node` is a number counted from 0 in the order
    nodes were first seen, not Flower's id. Flower gives nodes new ids when it starts again, so a
    ledger that is reopened goes on counting: one node may have a number for each start, but no two
    nodes have the same one.
    """

    path: Path
    numbers: dict[int, int] = field(default_factory=dict)
    _first: int = 0

    def __post_init__(self) -> None:
        self._first = 1 + max(_node_numbers(self.path), default=-1)

    def add(self, direction: str, kind: str, node_id: int, size_bytes: int, status: str) -> None:
        """Note a message: `direction` is "out" or "in", `status` the reply's code or ""."""
        row = {
            "direction": direction,
            "kind": kind,
            "node": self.numbers.setdefault(node_id, self._first + len(self.numbers)),
            "bytes": size_bytes,
            "status": status,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")


def _node_numbers(path: Path) -> Iterator[int]:
    """The numbers used in a ledger. A line cut off by a kill has none."""
    if not path.is_file():
        return
    with path.open("rb") as handle:
        for line in handle:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield int(parse_object(line)["node"])
