"""The node's Flower functions, called directly: what they answer, keep, and never say."""

from __future__ import annotations

import json
import os
import zlib
from datetime import UTC, datetime

import pytest
import torch
from bundle_samples import sample_files
from federation import CANARY, flower_identity, make_federation
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto

from client.node import cohort_host, flower_app
from client.node.cohort_host import CohortHost
from client.node.host_work import Engine
from client.person.learner import user_seed
from client.person.state import PersonalState
from client.person.stores import EARLIER
from coordinator.keys import load_key
from coordinator.publish import publish
from coordinator.shipment import Shipment
from proper_model.errors import DataError, MetricError, NotInstalledError
from proper_model.federation.protocol import Kind, Status, request_fields
from simulations.privacy.egress.scanner import text_forms

__all__ = ["flower_identity"]  # a fixture, used by name

HANDLERS = {
    Kind.HAVE: flower_app.have,
    Kind.STORE: flower_app.store,
    Kind.INSTALL: flower_app.install,
    Kind.PERSONALIZE: flower_app.personalize,
    Kind.EVALUATE: flower_app.evaluate,
}


class FakeEngine(Engine):
    """Real users, bundles and files; adaptation and prediction by hand. `calls` is counted."""

    def __init__(self):
        super().__init__(threads=1)
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "trouble", {})

    def release(self, folder, bundle_id=None):
        from client.releases.store import installed

        bundle = installed(folder)
        if bundle is None or bundle.bundle_id != bundle_id:
            raise NotInstalledError("not installed")
        return "release"

    def adapt(self, release, users, *, arms, bundle_id, seed, checkpoint, progress):
        self.calls.append(("adapt", tuple(u.user_id for u in users), tuple(arms)))
        for user in users:
            if user.user_id in self.trouble:
                raise self.trouble[user.user_id]
        return {
            (arm, u.user_id): PersonalState(
                bundle_id,
                0,
                seed=user_seed(seed, u.user_id),
                embedding=torch.ones(1, 2) * len(u.history),
            )
            for arm in arms
            for u in users
        }

    def predict(self, release, users, arm, states, *, progress):
        self.calls.append(("predict", tuple(u.user_id for u in users), arm))
        progress(arm, 0, len(users))
        for user in users:
            for query in user.queries:
                yield user.user_id, {"user_id": user.user_id, "query_id": query.id, "output": "1"}


@pytest.fixture
def plan(tmp_path):
    return make_federation(tmp_path / "out", devices=3, users_per_node=3, base=False)


@pytest.fixture
def engine(monkeypatch):
    made = FakeEngine()
    monkeypatch.setattr(flower_app, "Engine", lambda *_: made)
    return made


@pytest.fixture
def shipment(plan):
    """A signed release of a few small files."""
    files = sample_files()
    keys = [load_key(plan.server_folder / "keys" / "release.pem")]
    made = publish(
        files, plan.server_folder / "release", keys, created=datetime.now(UTC), valid_for_days=1
    )
    return Shipment.of_folder(made.bundle_id, made.path)


def context(plan, partition=0, partitions=1):
    return Context(
        run_id=1,
        node_id=5,
        node_config={"partition-id": partition, "num-partitions": partitions},
        state=RecordDict(),
        run_config={"plan": str(plan.out / "plan.json")},
    )


def ask(kind, fields, where, *, records=None):
    """The reply's fields, after checking that it is one record that Flower can send."""
    content = RecordDict(records or {"config": ConfigRecord(fields)})
    reply = HANDLERS[kind](Message(content, 5, kind.value), where)
    assert not reply.has_error()
    assert list(reply.content) == ["config"]
    assert len(where.state) == 0
    return dict(reply.content["config"])


def install_all(plan, shipment, where):
    missing = ask(
        Kind.HAVE,
        request_fields(Kind.HAVE, shipment.bundle_id, pieces=list(shipment.table.all_pieces())),
        where,
    )["missing"]
    store = request_fields(
        Kind.STORE,
        shipment.bundle_id,
        pieces=list(missing),
        data=[shipment.piece(sha) for sha in missing],
    )
    install = request_fields(Kind.INSTALL, shipment.bundle_id, **shipment.table.to_fields())
    return missing, ask(Kind.STORE, store, where), ask(Kind.INSTALL, install, where)


@pytest.fixture
def where(plan, engine, shipment):
    """The context of a node that has the release."""
    made = context(plan)
    install_all(plan, shipment, made)
    return made


def rounds(shipment, where):
    return tuple(one_round(kind, shipment, where) for kind in (Kind.PERSONALIZE, Kind.EVALUATE))


def one_round(kind, shipment, where):
    return ask(kind, request_fields(kind, shipment.bundle_id), where)


def forget_an_item(plan):
    path = plan.devices[1].folder / "user.json"
    users = json.loads(path.read_text())
    users[0]["profile"].pop()
    path.write_text(json.dumps(users))


def ok(bundle_id):
    return {"status": "ok", "protocol": 1, "bundle_id": bundle_id}


def test_the_app_registers_the_five_messages_of_the_protocol():
    registered = flower_app.app._registered_funcs
    assert {name.removesuffix(".default") for name in registered} == {k.value for k in Kind}


def test_a_release_is_installed_and_its_bytes_are_those_sent(plan, engine, shipment):
    where = context(plan)
    missing, stored, installed = install_all(plan, shipment, where)
    assert missing == list(shipment.table.all_pieces())
    assert stored == installed == ok(shipment.bundle_id)
    folder = plan.node_folder(0) / "bundles" / shipment.bundle_id
    on_node = Shipment.of_folder(shipment.bundle_id, folder)
    assert on_node.table == shipment.table
    # The copies the pieces arrived in are gone, and nothing is missing any more.
    assert list((plan.node_folder(0) / "blobs").iterdir()) == []
    assert install_all(plan, shipment, where)[0] == []


def test_an_altered_installed_file_is_asked_for_again(plan, engine, shipment, where):
    victim = plan.node_folder(0) / "bundles" / shipment.bundle_id / "recipe.json"
    victim.chmod(0o600)
    victim.write_bytes(b"{ }")
    assert install_all(plan, shipment, where)[0] == list(shipment.table.pieces["recipe.json"])
    assert victim.read_bytes() == sample_files()["recipe.json"]


def test_a_piece_that_is_not_what_it_says_is_refused(plan, engine, shipment):
    sha = shipment.table.all_pieces()[0]
    fields = request_fields(Kind.STORE, shipment.bundle_id, pieces=[sha], data=[b"other"])
    assert ask(Kind.STORE, fields, context(plan))["status"] == Status.PIECE_REFUSED
    assert list((plan.node_folder(0) / "blobs").iterdir()) == []


def test_a_bundle_signed_by_others_is_refused(plan, engine, shipment, tmp_path):
    stranger = make_federation(tmp_path / "stranger", devices=1, base=False)
    for entry in plan.devices:
        root = (stranger.devices[0].folder / "root.json").read_bytes()
        (entry.folder / "root.json").write_bytes(root)
    where = context(plan)
    assert install_all(plan, shipment, where)[2]["status"] == Status.BUNDLE_REFUSED
    assert {reply["status"] for reply in rounds(shipment, where)} == {Status.NO_BUNDLE}
    assert engine.calls == []


def test_rounds_write_to_the_devices_and_say_only_ok(plan, engine, shipment, where):
    assert rounds(shipment, where) == (ok(shipment.bundle_id), ok(shipment.bundle_id))
    for entry in plan.devices:
        assert (entry.folder / "state" / "stage3.state").stat().st_mode & 0o777 == 0o600
        for arm in plan.node_arms:
            rows = (entry.folder / "predictions" / f"{arm}.jsonl").read_text().splitlines()
            assert len(rows) == 2
    users = ("user0", "user1", "user2")
    assert engine.calls == [
        ("adapt", users, ("stage3",)),
        *(("predict", users, arm) for arm in plan.arms),
    ]


def test_a_node_says_which_arm_it_predicts_and_says_it_once(plan, engine, shipment, monkeypatch):
    monkeypatch.setattr(cohort_host, "PROGRESS_EVERY_S", 0.0)
    seen = []
    monkeypatch.setattr(CohortHost, "report", lambda _, phase, done, total: seen.append(phase))
    where = context(plan)
    install_all(plan, shipment, where)
    rounds(shipment, where)
    assert [p for p in seen if ": " in p] == [f"evaluate: {arm}" for arm in plan.node_arms]


def test_a_second_round_repeats_nothing(plan, engine, shipment, where):
    rounds(shipment, where)
    engine.calls.clear()
    assert rounds(shipment, where)[0] == ok(shipment.bundle_id)
    assert engine.calls == []


def test_only_what_changed_is_done_again(plan, engine, shipment, where):
    rounds(shipment, where)
    engine.calls.clear()
    forget_an_item(plan)
    rounds(shipment, where)
    assert engine.calls == [
        ("adapt", ("user1",), ("stage3",)),
        ("predict", ("user1",), "stage2"),
        ("predict", ("user1",), "stage3"),
    ]


def test_one_broken_device_does_not_stop_the_others(plan, engine, shipment, where):
    (plan.devices[0].folder / "user.json").write_text('[{"user_id": "' + CANARY)
    engine.trouble["user1"] = ValueError(CANARY)
    replies = rounds(shipment, where)
    assert {reply["status"] for reply in replies} == {Status.DEVICE_FAILED}
    assert (plan.devices[2].folder / "predictions" / "stage3.jsonl").is_file()
    notes = [json.loads((e.folder / "failure.json").read_text()) for e in plan.devices[:2]]
    assert [note["error"] for note in notes] == ["DataError", "StateError"]
    assert CANARY not in json.dumps(notes)
    assert not (plan.devices[2].folder / "failure.json").exists()
    # Once the reason is gone, the device catches up.
    engine.trouble.clear()
    (plan.devices[0].folder / "user.json").write_bytes(
        (plan.devices[2].folder / "user.json").read_bytes().replace(b"user2", b"user0")
    )
    assert rounds(shipment, where) == (ok(shipment.bundle_id), ok(shipment.bundle_id))
    assert not (plan.devices[0].folder / "failure.json").exists()


def test_a_damaged_or_earlier_state_is_trained_anew(plan, engine, shipment, where):
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.OK
    damaged, earlier = (plan.devices[n].folder / "state" / "stage3.state" for n in (1, 2))
    data = bytearray(damaged.read_bytes())
    data[-40] ^= 1  # in a tensor: length and header stay
    damaged.write_bytes(data)
    earlier.write_bytes(EARLIER + earlier.read_bytes()[len(EARLIER) :])
    engine.calls.clear()
    assert one_round(Kind.EVALUATE, shipment, where)["status"] == Status.DEVICE_FAILED
    notes = [json.loads((e.folder / "failure.json").read_text()) for e in plan.devices[1:]]
    assert "damaged" in notes[0]["message"]
    assert "earlier version" in notes[1]["message"]
    assert rounds(shipment, where) == (ok(shipment.bundle_id), ok(shipment.bundle_id))
    assert ("adapt", ("user1", "user2"), ("stage3",)) in engine.calls


def test_a_cohort_too_large_for_memory_is_halved(plan, engine, shipment, where, monkeypatch):
    original = FakeEngine.adapt

    def tight(self, release, users, **arguments):
        if len(users) > 1:
            self.calls.append(("too large", len(users)))
            raise MemoryError
        return original(self, release, users, **arguments)

    monkeypatch.setattr(FakeEngine, "adapt", tight)
    assert rounds(shipment, where)[0]["status"] == Status.OK
    assert [call[1] for call in engine.calls if call[0] == "too large"] == [3, 2]


def test_an_error_that_halving_cannot_cure_is_met_once(plan, engine, shipment, where):
    engine.trouble["user2"] = MetricError("not one to one")
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.INTERNAL
    assert len(engine.calls) == 1


@pytest.fixture
def checkpoints(monkeypatch):
    """Adaptation that leaves training state; the paths it was given, and what to raise."""
    made = {"paths": [], "found": [], "raise": None}
    original = FakeEngine.adapt

    def adapt(self, release, users, *, checkpoint, **arguments):
        made["paths"].append(checkpoint)
        state = checkpoint.with_name(checkpoint.name + ".lora")
        made["found"].append(state.exists())
        state.write_bytes(b"private tensors")
        if made["raise"] is not None:
            raise made["raise"]
        return original(self, release, users, checkpoint=checkpoint, **arguments)

    monkeypatch.setattr(FakeEngine, "adapt", adapt)
    return made


def work(plan):
    return list((plan.node_folder(0) / "work").iterdir())


def test_a_killed_round_goes_on_where_it_was(plan, engine, shipment, where, checkpoints):
    checkpoints["raise"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        one_round(Kind.PERSONALIZE, shipment, where)
    checkpoints["raise"] = None
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.OK
    assert checkpoints["found"] == [False, True]
    assert work(plan) == []


def test_weights_half_trained_on_forgotten_items_are_not_continued(
    plan, engine, shipment, where, checkpoints
):
    checkpoints["raise"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        one_round(Kind.PERSONALIZE, shipment, where)
    forget_an_item(plan)
    checkpoints["raise"] = None
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.OK
    assert checkpoints["found"] == [False, False]
    # The forgotten item shaped what the first start left; that is gone as well.
    assert work(plan) == []


def test_a_failed_attempt_leaves_no_private_tensors(plan, engine, shipment, where, checkpoints):
    checkpoints["raise"] = ValueError(CANARY)
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.DEVICE_FAILED
    assert len(set(checkpoints["paths"])) == 1 + 2 + 2
    assert work(plan) == []
    checkpoints["raise"] = MetricError("not one to one")
    assert one_round(Kind.PERSONALIZE, shipment, where)["status"] == Status.INTERNAL
    assert work(plan) == []


@pytest.mark.parametrize("mode", [0o755, 0o750])
def test_a_device_folder_open_to_others_is_refused(plan, engine, shipment, where, mode):
    plan.devices[0].folder.chmod(mode)
    assert rounds(shipment, where)[0]["status"] == Status.DEVICE_FAILED
    assert not (plan.devices[0].folder / "state").exists()


def test_a_planted_link_is_not_read(plan, engine, shipment, where, tmp_path):
    path = plan.devices[0].folder / "user.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert rounds(shipment, where)[0]["status"] == Status.DEVICE_FAILED


def test_nodes_share_the_devices_between_them(plan, engine):
    seen = [[d.device_id for d in CohortHost(plan, k, 2, engine).devices] for k in range(2)]
    assert seen == [["d0", "d1", "d2"], []]
    assert [len(plan.devices_of(k, 3)) for k in range(3)] == [3, 0, 0]
    wide = plan.model_copy(update={"users_per_node": 1})
    assert [[e.device_id for e in wide.devices_of(k, 2)] for k in range(2)] == [
        ["d0", "d1"],
        ["d2"],
    ]


# -- malformed requests and leaks ------------------------------------------------------------------


@pytest.mark.parametrize(
    "records",
    [
        {"metrics": MetricRecord({"num-examples": 1})},
        {"config": ConfigRecord({"protocol": 2, "bundle_id": "ab" * 32})},
        {"config": ConfigRecord({"protocol": 1, "bundle_id": CANARY})},
        {"config": ConfigRecord({"protocol": 1, "bundle_id": "ab" * 32, "save_path": "/tmp"})},
        {
            "config": ConfigRecord({"protocol": 1, "bundle_id": "ab" * 32}),
            "arrays": ArrayRecord([]),
        },
        {},
    ],
)
def test_malformed_requests_get_a_code(plan, engine, records):
    reply = HANDLERS[Kind.PERSONALIZE](Message(RecordDict(records), 5, "train"), context(plan))
    assert dict(reply.content["config"])["status"] == Status.PROTOCOL
    assert CANARY not in str(dict(reply.content["config"]))


def test_without_a_plan_the_answer_is_a_code(plan, engine, monkeypatch):
    monkeypatch.delenv("PROPER_PLAN", raising=False)
    where = context(plan)
    where.run_config["plan"] = ""
    fields = request_fields(Kind.PERSONALIZE, "ab" * 32)
    assert ask(Kind.PERSONALIZE, fields, where)["status"] == Status.INTERNAL


LEAKY = [
    ValueError(CANARY),
    KeyError(CANARY),
    DataError(CANARY),
    AssertionError(CANARY),
    OSError(5, CANARY, f"/home/{CANARY}"),
    RecursionError(CANARY),
]


def forms(secret: str) -> list[bytes]:
    return [*text_forms(secret).values(), zlib.compress(secret.encode())]


def whole(message: Message) -> bytes:
    """A message as the bytes that Flower puts on the wire."""
    return message_to_proto(message).SerializeToString()


def test_the_scan_sees_a_secret_in_each_form():
    for form in forms(CANARY):
        record = ConfigRecord({"status": form})
        message = Message(RecordDict({"config": record}), 5, "query.have")
        assert [f for f in forms(CANARY) if f in whole(message)]


@pytest.mark.parametrize("error", LEAKY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("kind", [Kind.PERSONALIZE, Kind.EVALUATE, Kind.INSTALL, Kind.HAVE])
def test_no_exception_text_travels(plan, engine, monkeypatch, error, kind):
    def fail(*_args):
        raise error

    for name in ("personalize", "evaluate", "install", "missing"):
        monkeypatch.setattr(CohortHost, name, fail)
    bundle = "ab" * 32
    more = {
        Kind.INSTALL: {"names": ["a"], "counts": [1], "pieces": [bundle]},
        Kind.HAVE: {"pieces": [bundle]},
    }
    fields = request_fields(kind, bundle, **more.get(kind, {}))
    message = Message(RecordDict({"config": ConfigRecord(fields)}), 5, kind.value)
    reply = HANDLERS[kind](message, context(plan))
    assert not reply.has_error()
    assert not [form for form in forms(CANARY) if form in whole(reply)]


@pytest.mark.parametrize("leaving", [SystemExit(CANARY), KeyboardInterrupt(CANARY)])
def test_an_exit_is_honoured_without_its_text(plan, engine, monkeypatch, leaving):
    def fail(*_args):
        raise leaving

    monkeypatch.setattr(CohortHost, "personalize", fail)
    fields = request_fields(Kind.PERSONALIZE, "ab" * 32)
    message = Message(RecordDict({"config": ConfigRecord(fields)}), 5, "train.personalize")
    with pytest.raises(type(leaving)) as caught:
        flower_app.personalize(message, context(plan))
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_build_that_leaks_is_stopped_at_the_exit(plan, engine, shipment, monkeypatch):
    """Positive control: a handler that answers with user text does not get it out."""
    monkeypatch.setattr(CohortHost, "missing", lambda *_: [CANARY])
    fields = request_fields(Kind.HAVE, shipment.bundle_id, pieces=["00" * 32])
    message = Message(RecordDict({"config": ConfigRecord(fields)}), 5, "query.have")
    reply = flower_app.have(message, context(plan))
    assert dict(reply.content["config"])["status"] == Status.EGRESS
    assert not [form for form in forms(CANARY) if form in whole(reply)]


def test_messages_of_a_whole_run_hold_no_canary(plan, engine, shipment, monkeypatch):
    sent = []
    original = Message.__init__

    def record(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if kwargs.get("reply_to") is not None:
            sent.append(self)

    monkeypatch.setattr(Message, "__init__", record)
    where = context(plan)
    install_all(plan, shipment, where)
    rounds(shipment, where)
    assert len(sent) == 5
    secrets = [CANARY, "user0", str(plan.out)]
    for message in sent:
        assert not [f for secret in secrets for f in forms(secret) if f in whole(message)]
    # The same scan does see the secret where it belongs.
    assert CANARY.encode() in (plan.devices[0].folder / "user.json").read_bytes()


def test_nothing_of_a_node_is_readable_by_others(plan, engine, shipment):
    where = context(plan)
    old = os.umask(0o000)
    try:
        install_all(plan, shipment, where)
        rounds(shipment, where)
    finally:
        os.umask(old)
    private = [plan.node_folder(0), *(entry.folder for entry in plan.devices)]
    loose = [
        path
        for folder in private
        for path in (folder, *folder.rglob("*"))
        if path.stat().st_mode & 0o077
    ]
    assert loose == []
