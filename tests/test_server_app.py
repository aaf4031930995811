"""The coordinator's steps with real models and nodes, without Flower's processes in between.

A grid in this process hands each message to the node's own functions, so a kill can be placed
before any message, and what a restart does can be counted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections import Counter

import pytest
import torch
from federation import CANARY, flower_identity, make_federation
from flwr.app import Context, Message, RecordDict

import coordinator.server_app as server
from client.home import Home
from client.node import flower_app, host_work
from client.person.workspace import Workspace
from client.releases.add import add_bundle
from client.releases.installed_list import list_bundles
from client.releases.loading import ReleaseMemory
from client.releases.verify import verify_bundle
from coordinator import federation as strategy
from coordinator.journal import ProgressFile
from coordinator.publish import latest
from coordinator.run_keys import signing_keys
from coordinator.run_release import published
from proper_model.base.reference import hub_name
from proper_model.errors import BundleForeignError, ConfigError, SimulationError
from proper_model.federation.protocol import Kind
from proper_model.federation.run_plan import RunPlan

__all__ = ["flower_identity"]  # a fixture, used by name

HANDLERS = {
    Kind.HAVE: flower_app.have,
    Kind.STORE: flower_app.store,
    Kind.INSTALL: flower_app.install,
    Kind.PERSONALIZE: flower_app.personalize,
    Kind.EVALUATE: flower_app.evaluate,
}
NODES = 2


class Killed(BaseException):
    """Stands for SIGKILL: no handler in the coordinator may catch it."""


class InProcessGrid:
    """Nodes 100 and 101; `kill_at` ends the coordinator before that message is delivered."""

    def __init__(self, plan: RunPlan, kill_at: int | None = None):
        self.plan = plan
        self.kill_at = kill_at
        self.sent = Counter()
        self.replies = []

    def get_node_ids(self):
        return [100 + k for k in range(NODES)]

    def push_messages(self, messages):
        accepted = []
        for message in messages:
            if sum(self.sent.values()) == self.kill_at:
                raise Killed
            kind = Kind(message.metadata.message_type)
            self.sent[kind] += 1
            message.metadata.__dict__["_message_id"] = f"{id(self)}-{sum(self.sent.values())}"
            accepted.append(message.metadata.message_id)
            where = Context(
                run_id=1,
                node_id=message.metadata.dst_node_id,
                node_config={
                    "partition-id": message.metadata.dst_node_id - 100,
                    "num-partitions": NODES,
                },
                state=RecordDict(),
                run_config={"plan": str(self.plan.out / "plan.json")},
            )
            self.replies.append(HANDLERS[kind](message, where))
        return accepted

    def pull_messages(self, message_ids):
        due, self.replies = self.replies, []
        return [m for m in due if m.metadata.reply_to_message_id in set(message_ids)]


def run(plan: RunPlan, kill_at: int | None = None) -> Counter:
    """One start of the coordinator; the messages it sent, by kind."""
    grid = InProcessGrid(plan, kill_at)
    context = Context(1, 0, {}, RecordDict(), {"plan": str(plan.out / "plan.json")})
    threads = torch.get_num_threads()
    try:
        server.app(grid, context)
    finally:
        torch.set_num_threads(threads)
        host_work.RELEASES = ReleaseMemory()
    return grid.sent


def predictions(plan: RunPlan) -> dict[str, bytes]:
    return {
        str(path.relative_to(plan.out)): path.read_bytes()
        for path in sorted(plan.out.glob("devices/*/predictions/*.jsonl"))
    }


def rows(files: dict[str, bytes]) -> dict[str, list[dict]]:
    """Every prediction by file."""
    return {path: [json.loads(line) for line in data.splitlines()] for path, data in files.items()}


def timings(plan: RunPlan) -> dict[str, float]:
    return json.loads((plan.out / "timings.json").read_text())


def outcome(plan: RunPlan) -> dict:
    return json.loads((plan.out / "progress.json").read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def plan(tmp_path, cache):
    return make_federation(tmp_path / "out", devices=3, users_per_node=2, cache=cache)


@pytest.fixture(scope="module")
def undisturbed():
    """Files of predictions of a whole run, made by the first test that asks for them."""
    return {}


@pytest.fixture
def expected(undisturbed, tmp_path, cache):
    if not undisturbed:
        whole = make_federation(tmp_path / "whole", devices=3, users_per_node=2, cache=cache)
        run(whole)
        undisturbed.update(predictions(whole))
    return undisturbed


@pytest.fixture(autouse=True)
def all_nodes_at_once(monkeypatch):
    """Nodes of this grid are there from the start."""
    monkeypatch.setattr(strategy, "SETTLE_S", 0.0)


@pytest.fixture
def stages(monkeypatch):
    """Counts the runs of the pooled stages."""
    import coordinator.pooled_stages

    calls = []
    original = coordinator.pooled_stages.run_pooled_stages

    def counted(*args, **kwargs):
        calls.append(kwargs["seed"])
        return original(*args, **kwargs)

    monkeypatch.setattr(coordinator.pooled_stages, "run_pooled_stages", counted)
    return calls


ONCE = dict.fromkeys(Kind, NODES)


def test_a_run_sends_five_messages_to_a_node(plan, stages):
    assert run(plan) == ONCE
    assert len(predictions(plan)) == 3 * 4
    assert outcome(plan)["state"] == "finished"
    assert {"release", "ship", "personalize", "evaluate"} <= set(timings(plan))
    trained = json.loads((plan.out / "hardware.json").read_text())
    assert [entry["torch"] for entry in trained] == [str(torch.__version__)]
    assert sum(run(plan).values()) == 0
    assert stages == [0]


def test_a_kill_loses_the_time_of_one_step_at_most(tmp_path, monkeypatch):
    plan = make_federation(tmp_path / "out", devices=3, users_per_node=2)  # a cache of its own

    def kill(*_args, progress, **_kwargs):
        progress(0, 1)
        os._exit(9)  # as SIGKILL does: nothing is cleaned up, nothing written

    import coordinator.pooled_stages

    with monkeypatch.context() as patch:
        patch.setattr(coordinator.pooled_stages, "train_lora_router", kill)
        child = multiprocessing.get_context("fork").Process(target=run, args=(plan,))
        child.start()
        child.join()
    assert child.exitcode == 9
    first = timings(plan)
    assert set(first) == {"release", "base", "tokenize", "population", "group"}
    run(plan)
    second = timings(plan)
    assert set(second) == {*first, "router", "ship", "personalize", "evaluate"}
    # A phase that is only read again adds the reading to what it took; nothing is lost.
    assert all(second[step] >= first[step] > 0 for step in ("population", "group"))


def test_a_run_that_goes_on_under_other_versions_names_both(plan, monkeypatch):
    with pytest.raises(Killed):
        run(plan, 2)
    elsewhere = {**server.facts(), "torch": "99.0"}
    monkeypatch.setattr(server, "facts", lambda: elsewhere)
    run(plan)
    trained = json.loads((plan.out / "hardware.json").read_text())
    assert [entry["torch"] for entry in trained] == [str(torch.__version__), "99.0"]


@pytest.mark.parametrize("kill_at", range(0, 10, 3))
def test_killed_before_any_message_and_started_again(plan, expected, stages, kill_at):
    with pytest.raises(Killed):
        run(plan, kill_at)
    sent = run(plan)
    assert stages == [0]
    # Pieces that arrived before the kill do not travel again.
    delivered = kill_at - NODES if kill_at > NODES else 0
    assert sent[Kind.STORE] == max(0, NODES - delivered)
    assert predictions(plan) == expected


def test_devices_are_not_adapted_twice_after_a_kill_between_rounds(plan, monkeypatch):
    from client.person import adapting

    adapted = []
    original = adapting.adapt_users

    def counted(release, users, **arguments):
        adapted.extend(user.user_id for user in users)
        return original(release, users, **arguments)

    monkeypatch.setattr(adapting, "adapt_users", counted)
    # The eighth message is node 101's part of the personalization round.
    with pytest.raises(Killed):
        run(plan, 7)
    assert adapted == ["user0", "user1"]
    run(plan)
    assert adapted == ["user0", "user1", "user2"]


def test_who_shares_a_node_changes_no_prediction(expected, tmp_path, cache):
    other = make_federation(tmp_path / "other", devices=3, users_per_node=3, cache=cache)
    run(other)
    found = rows(predictions(other))
    assert found.keys() == expected.keys()
    for path, theirs in rows(expected).items():
        for ours, row in zip(found[path], theirs, strict=True):
            # Other rows in a batch, other shapes: sums round otherwise in the last digits of float32.
            for name in ("nll", "expected"):
                assert ours.pop(name) == pytest.approx(row.pop(name), rel=1e-5)
            assert ours == row


def test_a_failing_device_fails_the_run_and_names_no_text(plan):
    (plan.devices[1].folder / "user.json").write_text(f'[{{"user_id": "{CANARY}"}}]')
    with pytest.raises(SimulationError, match="1 x device_failed"):
        run(plan)
    said = outcome(plan)
    assert said["state"] == "failed"
    assert CANARY not in json.dumps(said)
    assert {path.split("/")[1] for path in predictions(plan)} == {"d0", "d2"}


def test_a_foreign_exception_leaves_its_type_only(plan, monkeypatch):
    def fail(*_args):
        raise ValueError(CANARY)

    monkeypatch.setattr(server, "make_release", fail)
    with pytest.raises(ValueError, match=CANARY):
        run(plan)
    assert "ValueError" in outcome(plan)["error"]
    assert outcome(plan)["kind"] == "ValueError"
    assert CANARY not in json.dumps(outcome(plan))


def test_keys_that_no_device_trusts_are_refused_before_training(plan, stages):
    other = plan.model_copy(update={"root_public_key": "00" * 32})
    with pytest.raises(ConfigError, match="none of its 1 keys"):
        signing_keys(other)
    other.save()
    with pytest.raises(ConfigError):
        run(other)
    assert outcome(other)["kind"] == "ConfigError"  # whose exit code the launcher then returns
    assert stages == []


def test_a_node_that_was_absent_is_asked_next_time(plan, monkeypatch):
    hasty = plan.model_copy(update={"fewer_nodes": "proceed", "message_timeout_s": 1.0})
    hasty.save()
    with monkeypatch.context() as patch:
        patch.setattr(InProcessGrid, "get_node_ids", lambda _self: [100])
        run(hasty)
    assert {path.split("/")[1] for path in predictions(hasty)} == {"d0", "d1"}
    run(hasty)
    assert {path.split("/")[1] for path in predictions(hasty)} == {"d0", "d1", "d2"}


def test_a_release_that_is_gone_is_made_again(plan, stages):
    with pytest.raises(Killed):
        run(plan, 6)
    first = latest(plan.server_folder / "release")
    assert published(plan, first.bundle_id) == first
    assert published(plan, "00" * 32) is None
    shutil.rmtree(first.path)
    assert run(plan)[Kind.EVALUATE] == NODES
    assert stages == [0, 0]


def one_person_loads_the_same(plan, folder):
    """A run's release folder is all that one person's program needs to have what a node has."""
    home = Home(folder)
    source = str(plan.server_folder / "release")
    added = add_bundle(home, source, base=None if plan.embed_base else plan.base)
    root = plan.devices[0].folder / "root.json"
    assert home.root_file.read_bytes() == root.read_bytes()
    threads = torch.get_num_threads()
    bundle = Workspace(home).installed()
    ours = Workspace(home).load(bundle)
    theirs = host_work.Engine(threads, plan.base).release(plan.node_folder(0))
    assert bundle == added.bundle
    assert (ours.task, ours.structure, ours.seed) == (theirs.task, theirs.structure, theirs.seed)
    for one, other in (
        (ours.shared, theirs.shared),
        (ours.base.state_dict(), theirs.base.state_dict()),
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    (row,) = list_bundles(home)
    assert (row.task, row.preset) == ("LaMP_3", plan.preset)
    assert (row.base == "embedded") is plan.embed_base
    assert verify_bundle(home).base_checked
    host_work.RELEASES = ReleaseMemory()


def test_a_base_by_reference_is_not_shipped_and_is_checked(tmp_path, cache):
    sizes = {"devices": 2, "users_per_node": 1, "cache": cache}
    plan = make_federation(tmp_path / "out", **sizes, embed_base=False)
    embedded = make_federation(tmp_path / "embedded", **sizes)
    assert run(plan) == run(embedded) == ONCE
    names = [p.name for p in latest(plan.server_folder / "release").path.rglob("*.safetensors")]
    assert sorted(names) == ["adapter_model.safetensors", "shared.safetensors"]
    assert predictions(plan) == predictions(embedded)
    # Nothing that is published says where the base lies on the server.
    for made in (plan, embedded):
        published_files = list(latest(made.server_folder / "release").path.rglob("*"))
        texts = [p.read_bytes() for p in published_files if p.is_file()]
        assert not [text for text in texts if str(tmp_path).encode() in text]
    for made in (plan, embedded):
        one_person_loads_the_same(made, tmp_path / f"home-{made.out.name}")
    # What a loader would read beside the signed files is refused.
    surplus = tmp_path / "out" / "base" / "extra.safetensors"
    surplus.write_bytes(b"")
    node = host_work.Engine(1, plan.base)
    with pytest.raises(BundleForeignError, match="1 more model files"):
        node.release(plan.node_folder(0))
    surplus.unlink()
    # Weights that differ from the signed hash are not loaded.
    weights = tmp_path / "out" / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleForeignError, match="not the file"):
        node.release(plan.node_folder(0))


def test_a_release_names_its_base_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "models--org--small--it" / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert hub_name("org/small") == "org/small"
    assert hub_name(f"{tmp_path}/models/tiny/") == "tiny"
    assert hub_name("models/tiny") == hub_name("./models/tiny") == "tiny"
    assert hub_name(str(snapshot)) == "org/small--it"


def test_progress_is_written_at_most_twice_a_second_within_a_phase(tmp_path, monkeypatch):
    progress = ProgressFile(tmp_path / "progress.json")
    written = []
    monkeypatch.setattr(
        progress.__class__, "_write", lambda _self, content: written.append(content)
    )
    for done in range(1000):
        progress.report("group", done, 1000)
    progress.report("group", 1000, 1000)
    progress.report("router", 0, 10)
    assert len(written) < 20
    assert written[0]["done"] == 0
    assert written[-2]["done"] == 1000
    assert written[-1]["phase"] == "router"


def test_only_the_replies_fields_come_back(plan, monkeypatch):
    seen = []
    original = Message.__init__

    def record(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if kwargs.get("reply_to") is not None:
            seen.append((self.metadata.message_type, dict(self.content["config"])))

    monkeypatch.setattr(Message, "__init__", record)
    run(plan)
    private = [fields for kind, fields in seen if kind in ("train.personalize", "evaluate")]
    assert len(private) == 2 * NODES
    assert {frozenset(fields) for fields in private} == {
        frozenset({"status", "protocol", "bundle_id"})
    }
