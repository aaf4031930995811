"""Rounds against a grid that errs, is slow, loses messages and nodes; and restarts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from federation import flower_identity
from flwr.app import ConfigRecord, Error, Message, RecordDict

from coordinator.federation import Federation, MessageLedger
from coordinator.journal import Journal, exclusive
from coordinator.shipment import Shipment
from proper_model.errors import SimulationError
from proper_model.federation.protocol import Kind, Status

__all__ = ["flower_identity"]  # a fixture, used by name

BUNDLE = "ab" * 32
SECRET = "zq-canary-zq"


class FakeNode:
    """A node that keeps pieces; `script` holds answers to give before behaving."""

    def __init__(self, script=()):
        self.script = list(script)
        self.pieces: dict[str, bytes] = {}
        self.received_bytes = 0
        self.installed = False

    def answer(self, kind: Kind, fields) -> dict[str, object]:
        status = Status.OK
        more = {}
        if kind is Kind.HAVE:
            more["missing"] = [sha for sha in fields["pieces"] if sha not in self.pieces]
        elif kind is Kind.STORE:
            self.received_bytes += sum(map(len, fields["data"]))
            self.pieces |= dict(zip(fields["pieces"], fields["data"], strict=True))
        elif kind is Kind.INSTALL:
            self.installed = set(fields["pieces"]) <= set(self.pieces)
            status = Status.OK if self.installed else Status.BUNDLE_REFUSED
        elif not self.installed:
            status = Status.NO_BUNDLE
        return {"status": status.value, "protocol": 1, "bundle_id": fields["bundle_id"], **more}


class FakeGrid:
    """Delivers to fake nodes; the clock moves only when the federation sleeps."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.now = 0.0
        self.sent = Counter()
        self.waiting: list[tuple[float, Message]] = []
        self.serial = 0

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        accepted = []
        for message in messages:
            self.serial += 1
            message.metadata.__dict__["_message_id"] = str(self.serial)
            node = self.nodes[message.metadata.dst_node_id]
            kind = Kind(message.metadata.message_type)
            self.sent[message.metadata.dst_node_id, kind] += 1
            step = node.script.pop(0) if node.script else "ok"
            if step == "refuse":
                continue
            accepted.append(str(self.serial))
            if step == "lost":
                continue
            delay = 15.0 if step == "slow" else 0.0
            if step == "error":
                answer = Message(Error(code=0, reason=SECRET), reply_to=message)
            else:
                fields = node.answer(kind, message.content["config"])
                if isinstance(step, dict):
                    fields = {**fields, **step}
                answer = Message(RecordDict({"config": ConfigRecord(fields)}), reply_to=message)
            self.waiting.append((self.now + delay, answer))
        return accepted

    def pull_messages(self, message_ids):
        due = [m for at, m in self.waiting if at <= self.now]
        due = [m for m in due if m.metadata.reply_to_message_id in set(message_ids)]
        self.waiting = [(at, m) for at, m in self.waiting if m not in due]
        return due


def federation(grid, tmp_path, expected=None, **changes):
    fields = {
        "grid": grid,
        "ledger": MessageLedger(tmp_path / "messages.jsonl"),
        "attempts": 3,
        "message_timeout_s": 10.0,
        "round_timeout_s": 10.0,
        "progress": lambda *_: None,
        "clock": grid.clock,
        "sleep": grid.sleep,
    }
    made = Federation(**{**fields, **changes})
    made.wait_for_nodes(len(grid.nodes) if expected is None else expected)
    return made


@pytest.fixture
def shipment(tmp_path, monkeypatch):
    monkeypatch.setattr("coordinator.shipment.PIECE_BYTES", 64)
    monkeypatch.setattr("coordinator.shipment.MESSAGE_BYTES", 128)
    folder = tmp_path / "release"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "model").write_bytes(bytes(i % 251 for i in range(1000)))
    (folder / "manifest.json").write_bytes(b"{}")
    return Shipment.of_folder(BUNDLE, folder)


def test_each_piece_travels_once_per_node(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode(), 12: FakeNode()})
    run = federation(grid, tmp_path)
    assert run.ship(shipment) == {11: Status.OK, 12: Status.OK}
    assert [n.received_bytes for n in grid.nodes.values()] == [1002, 1002]
    assert run.round(Kind.PERSONALIZE, shipment) == {11: Status.OK, 12: Status.OK}

    again = federation(grid, tmp_path)
    assert set(again.ship(shipment).values()) == {Status.OK}
    assert [n.received_bytes for n in grid.nodes.values()] == [1002, 1002]
    assert grid.sent[11, Kind.HAVE] == 2
    # 15 pieces of 64 bytes, one of 40 and one of 2, at most 128 bytes to a message.
    assert grid.sent[11, Kind.STORE] == 8


def test_only_what_a_node_lacks_is_sent(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode(), 12: FakeNode()})
    for sha in shipment.table.all_pieces()[:10]:
        grid.nodes[12].pieces[sha] = shipment.piece(sha)
    assert set(federation(grid, tmp_path).ship(shipment).values()) == {Status.OK}
    assert grid.nodes[11].received_bytes == 1002
    assert grid.nodes[12].received_bytes == 1002 - 10 * 64


@pytest.mark.parametrize("trouble", ["error", "lost", "refuse", {"status": "internal_error"}])
def test_trouble_is_tried_again_and_does_not_hold_the_others(tmp_path, shipment, trouble):
    grid = FakeGrid({11: FakeNode(), 12: FakeNode()})
    run = federation(grid, tmp_path)
    run.ship(shipment)
    grid.nodes[11].script = [trouble, trouble]
    assert run.round(Kind.PERSONALIZE, shipment) == {11: Status.OK, 12: Status.OK}
    assert grid.sent[11, Kind.PERSONALIZE] == 3
    assert grid.sent[12, Kind.PERSONALIZE] == 1


def test_a_dead_node_costs_its_attempts_and_no_more(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode(), 12: FakeNode()})
    run = federation(grid, tmp_path)
    run.ship(shipment)
    grid.nodes[11].script = ["lost"] * 10
    before = grid.now
    outcome = run.round(Kind.PERSONALIZE, shipment)
    assert outcome == {11: Status.INTERNAL, 12: Status.OK}
    assert grid.sent[11, Kind.PERSONALIZE] == 3
    assert 30.0 <= grid.now - before < 32.0


def test_a_late_answer_to_an_earlier_attempt_counts(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode()})
    run = federation(grid, tmp_path)
    run.ship(shipment)
    grid.nodes[11].script = ["slow", "lost", "lost"]
    assert run.round(Kind.PERSONALIZE, shipment) == {11: Status.OK}
    assert grid.sent[11, Kind.PERSONALIZE] == 2


def test_a_status_that_will_not_change_is_not_tried_again(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode([{"status": "protocol_refused"}])})
    assert federation(grid, tmp_path).ship(shipment) == {11: Status.PROTOCOL}
    assert sum(grid.sent.values()) == 1


def test_a_node_that_lost_the_bundle_gets_it_again(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode(), 12: FakeNode()})
    run = federation(grid, tmp_path)
    run.ship(shipment)
    grid.nodes[11] = FakeNode()
    assert run.round(Kind.EVALUATE, shipment) == {11: Status.OK, 12: Status.OK}
    assert grid.nodes[11].received_bytes == 1002
    assert grid.nodes[12].received_bytes == 1002


@pytest.mark.parametrize(
    "malformed",
    [
        {"loss": 0.5},
        {"status": SECRET},
        {"bundle_id": "nonsense"},
        {"bundle_id": "cd" * 32},
        {"protocol": 9},
    ],
)
def test_a_malformed_reply_is_not_used(tmp_path, shipment, malformed):
    grid = FakeGrid({11: FakeNode()})
    run = federation(grid, tmp_path, attempts=1)
    run.ship(shipment)
    grid.nodes[11].script = [malformed]
    assert run.round(Kind.PERSONALIZE, shipment) == {11: Status.INTERNAL}


@pytest.mark.parametrize("missing", [5, "00" * 32, [1, 2], ["nonsense"], "twice"])
def test_a_node_that_says_nonsense_of_what_it_lacks_stops_nobody(tmp_path, shipment, missing):
    if missing == "twice":
        missing = [shipment.table.all_pieces()[0]] * 2
    grid = FakeGrid({11: FakeNode([{"missing": missing}]), 12: FakeNode()})
    outcome = federation(grid, tmp_path, attempts=1).ship(shipment)
    assert outcome == {11: Status.INTERNAL, 12: Status.OK}
    assert grid.nodes[11].received_bytes == 0


def test_a_node_that_asks_for_what_was_not_offered_is_refused(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode([{"missing": ["00" * 32]}])})
    assert federation(grid, tmp_path).ship(shipment) == {11: Status.PROTOCOL}


def test_ledger_counts_messages_and_bytes_and_no_content(tmp_path, shipment):
    grid = FakeGrid({11: FakeNode(["error"]), 12: FakeNode()})
    run = federation(grid, tmp_path)
    run.ship(shipment)
    text = (tmp_path / "messages.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    out = Counter((r["kind"], r["node"]) for r in rows if r["direction"] == "out")
    assert out["query.have", 0] == 2
    assert out["query.have", 1] == 1
    assert out["query.store", 0] == out["query.store", 1] == 8
    sent = sum(r["bytes"] for r in rows if r["kind"] == "query.store" and r["node"] == 1)
    assert sent > 1002
    assert {frozenset(r) for r in rows} == {
        frozenset({"direction", "kind", "node", "bytes", "status"})
    }
    assert SECRET not in text


def test_a_reopened_ledger_gives_no_number_twice(tmp_path):
    path = tmp_path / "messages.jsonl"
    for nodes in ((70, 71), (80, 70)):  # Flower's ids differ from start to start
        ledger = MessageLedger(path)
        for node in nodes * 2:
            ledger.add("out", "query.have", node, 1, "")
        with path.open("a") as handle:
            handle.write('{"kind": "query.ha\n')
    numbers = [json.loads(line)["node"] for line in path.read_text().splitlines() if "}" in line]
    assert numbers == [0, 1, 0, 1, 2, 3, 2, 3]


def test_waiting_for_nodes_ends(tmp_path):
    grid = FakeGrid({})
    with pytest.raises(SimulationError, match="no node appeared"):
        federation(grid, tmp_path, expected=2)
    assert grid.now < 12.0


class LateGrid(FakeGrid):
    """Node n registers after `arrivals[n]` seconds."""

    def __init__(self, arrivals):
        super().__init__({node: FakeNode() for node in arrivals})
        self.arrivals = arrivals

    def get_node_ids(self):
        return [node for node, at in self.arrivals.items() if at <= self.now]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ({11: 0.0, 12: 4.0, 13: 9.0}, 3),
        # Flower was started with more nodes than the plan needs, and any may host devices.
        ({11: 0.0, 12: 0.1, 13: 0.3, 14: 0.5}, 2),
    ],
)
def test_late_nodes_are_waited_for(tmp_path, arrivals, expected):
    run = federation(LateGrid(arrivals), tmp_path, expected=expected)
    assert run.nodes == tuple(arrivals)


def test_fewer_nodes_than_planned_fail_the_run(tmp_path):
    grid = LateGrid({11: 0.0, 12: 4.0, 13: 99.0})
    with pytest.raises(SimulationError, match="2 nodes appeared within 10 s, 3 expected") as caught:
        federation(grid, tmp_path)
    assert "for 3 SuperNodes" in (caught.value.hint or "")
    assert 10.0 <= grid.now < 12.0


def test_a_plan_may_go_on_with_fewer_nodes_after_the_wait(tmp_path):
    grid = LateGrid({11: 0.0, 12: 4.0, 13: 99.0})
    assert federation(grid, tmp_path, proceed_with_fewer=True).nodes == (11, 12)
    assert 10.0 <= grid.now < 12.0
    with pytest.raises(SimulationError, match="no node appeared"):
        federation(LateGrid({11: 99.0}), tmp_path, proceed_with_fewer=True)


# -- the journal -----------------------------------------------------------------------------------


def test_finished_steps_survive_a_restart(tmp_path):
    journal = Journal.open(tmp_path, "plan-a")
    with journal.step("release") as result:
        result["value"] = BUNDLE
    again = Journal.open(tmp_path, "plan-a")
    assert again.value("release") == BUNDLE
    assert not again.done("personalize")
    assert again.steps["release"]["seconds"] >= 0


def test_a_step_that_fails_or_is_done_for_some_only_is_not_noted(tmp_path):
    journal = Journal.open(tmp_path, "plan-a")
    with pytest.raises(RuntimeError), journal.step("release"):
        raise RuntimeError
    with journal.step("evaluate", keep=False):
        pass
    again = Journal.open(tmp_path, "plan-a")
    assert not again.done("release")
    assert not again.done("evaluate")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format":1,"plan":"p","steps":7}']
)
def test_a_damaged_journal_means_looking_again(tmp_path, content):
    (tmp_path / "journal.json").write_bytes(content)
    assert Journal.open(tmp_path, "p").steps == {}


def test_the_journal_of_another_plan_is_not_used(tmp_path):
    Journal.open(tmp_path, "plan-a").finish("release", value=BUNDLE)
    assert not Journal.open(tmp_path, "plan-b").done("release")


def test_two_coordinators_do_not_share_a_folder(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(SimulationError, match="another run"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):
        pass
