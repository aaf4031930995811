"""A real Flower simulation of two nodes: messages counted, bundle bytes compared, no secret out.

While it is up, everything that its processes listen at is listed and tried from another account.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation import CANARY, make_federation
from listeners import Place, Watch, planted

from coordinator.publish import latest
from coordinator.shipment import Shipment
from proper_model.federation.run_plan import RunPlan
from proper_model.storage.files import make_private_folder
from simulations.flower.actors import RECORDED
from simulations.flower.launch import child_environment, launch
from simulations.privacy.egress.canaries import Canary
from simulations.privacy.egress.scanner import Scanner, text_forms

PLANTED_CODE = "code of another account"
ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3")


@dataclass(frozen=True)
class Finished:
    """A run, the progress that it told of, what was seen of it while it was up."""

    plan: RunPlan
    told: list[tuple[str, int, int]]
    watch: Watch
    planted: set[Place]
    elsewhere: set[str]  # what it put into TMPDIR


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three devices on two nodes through `launch`, with a TMPDIR of 100 characters."""
    plan = make_federation(tmp_path_factory.mktemp("federation") / "out", arms=ARMS)
    told: list[tuple[str, int, int]] = []
    watch = Watch()
    elsewhere = tmp_path_factory.mktemp("long" * 25)
    seen: set[str] = set()

    def listen(*said: object) -> None:
        told.append(said)
        watch.look()
        seen.update(path.name for path in elsewhere.iterdir())
        if said[0] == "population":
            watch.attack([plan.out, plan.out / "flower", plan.server_folder])

    with (
        planted(tmp_path_factory.mktemp("planted")) as places,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(RECORDED, str(make_private_folder(plan.out / "wire")))
        # So long that a Unix socket below it would have no room.
        patch.setenv("TMPDIR", str(elsewhere))
        # Somebody put modules into the working folder, as everybody may in /tmp.
        patch.chdir(tmp_path_factory.mktemp("anybodys"))
        for name in ("simulations", "flwr", "torch", "psutil"):
            Path(f"{name}.py").write_text(f"open('/dev/stderr', 'a').write('{PLANTED_CODE}')")
        launch(plan.out / "plan.json", progress=listen)
    return Finished(plan, told, watch, places, seen)


def messages(plan: RunPlan) -> list[dict]:
    lines = (plan.out / "messages.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def predictions(plan: RunPlan) -> dict[str, bytes]:
    return {
        f"{entry.device_id}/{arm}": (entry.folder / "predictions" / f"{arm}.jsonl").read_bytes()
        for entry in plan.devices
        for arm in plan.node_arms
    }


def test_every_device_is_personalized_and_evaluated(finished):
    plan, told = finished.plan, finished.told
    for entry in plan.devices:
        assert {p.name for p in (entry.folder / "state").iterdir()} == {
            "stage3.state",
            "oppu-mlp.state",
        }
    rows = [json.loads(line) for text in predictions(plan).values() for line in text.splitlines()]
    assert len(rows) == 3 * 2 * len(ARMS)
    assert {row["user_id"] for row in rows} == {"user0", "user1", "user2"}
    assert {phase for phase, _, _ in told} >= {"signing the release"}


def test_messages_of_a_run_are_these_and_no_more(finished):
    plan = finished.plan
    seen = Counter((m["direction"], m["kind"], m["node"]) for m in messages(plan))
    kinds = ("query.have", "query.store", "query.install", "train.personalize", "evaluate")
    assert seen == {(d, kind, node): 1 for d in ("out", "in") for kind in kinds for node in (0, 1)}
    assert {m["status"] for m in messages(plan) if m["direction"] == "in"} == {"ok"}
    # status + protocol + bundle_id, their names included, and not a byte more.
    private = [m for m in messages(plan) if m["kind"] == "train.personalize"]
    expected = sum(map(len, ("status", "ok", "protocol", "bundle_id"))) + 8 + 64
    assert [m["bytes"] for m in private if m["direction"] == "in"] == [expected, expected]


def test_nodes_received_the_released_bytes_once(finished):
    plan = finished.plan
    release = latest(plan.server_folder / "release")
    shipment = Shipment.of_folder(release.bundle_id, release.path)
    for node in (0, 1):
        folder = plan.node_folder(node) / "bundles" / release.bundle_id
        assert Shipment.of_folder(release.bundle_id, folder).table == shipment.table
        assert any(name.startswith("base/") for name in shipment.table.pieces)
    content = sum(length for _, _, length in shipment.places.values())
    for sent in (m["bytes"] for m in messages(plan) if m["kind"] == "query.store"):
        assert sent < 200 or content < sent < content + 200 * len(shipment.places)


def test_no_user_text_reached_the_log_the_server_or_the_wire(finished):
    plan = finished.plan
    places = [
        plan.out / "flower",
        plan.out / "messages.jsonl",
        plan.out / "progress.json",
        plan.out / "timings.json",
        plan.out / "wire",
        plan.server_folder / "journal.json",
        plan.server_folder / "release",
        *(plan.out / "nodes").glob("*/progress.json"),
    ]
    files = [f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    assert len([f for f in files if f.parent.name == "wire"]) == 20
    # The tokenizer of the base knows the word, and is in the release and in what brings it.
    vocabulary = f'"{CANARY}":'.encode()
    scanner = Scanner([Canary("text", "everybody", text=CANARY)])
    for file in files:
        data = file.read_bytes().replace(vocabulary, b"")
        assert scanner.scan_bytes(data, file.name).findings == []
    # "user0" is a test user's id; pooled users are the server's own business.
    ids = text_forms("user0").values()
    assert not [f for f in files if any(form in f.read_bytes() for form in ids)]
    assert scanner.scan_tree(plan.devices[0].folder / "user.json").findings


def test_a_finished_run_is_not_run_again(finished):
    plan = finished.plan
    before = messages(plan), predictions(plan)
    launch(plan.out / "plan.json")
    assert (messages(plan), predictions(plan)) == before


def test_a_run_listens_nowhere(finished):
    """Not on loopback, not on a socket with a name: there is nothing to send an app or a key to."""
    assert finished.watch.programs == {
        "simulations.flower.supervisor",
        "simulations.flower.flower_engine",
        "simulations.flower.actors",
    }
    # The control: each kind of listener was there to be seen, and nothing else was.
    assert len(finished.planted) == 5
    assert finished.watch.places == finished.planted


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another account needs root")
def test_another_account_gets_nothing_of_a_run(finished):
    """It reaches what listens, so the planted ports, and of the run neither files nor processes."""
    reached = {one if isinstance(one, str) else tuple(one) for one in finished.watch.stolen}
    tcp = {place for place in finished.planted if isinstance(place, tuple)}
    udp = tcp - reached
    assert reached == tcp - udp
    assert len(udp) == 1


def test_a_run_takes_no_code_from_the_working_folder(finished):
    log = (finished.plan.out / "flower" / "flower.log").read_text()
    assert PLANTED_CODE not in log


def test_what_a_run_leaves_is_its_owners_alone(finished):
    plan = finished.plan
    places = [plan.out / "flower", plan.out / "cache", plan.server_folder, plan.out / "nodes"]
    found = [path for place in places for path in (place, *place.rglob("*"))]
    assert len(found) > 50
    assert [path for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert list((plan.out / "flower").rglob("*.sock")) == []
    assert not (plan.out / "flower" / "tmp").exists()
    assert finished.elsewhere == set()


# Brings the loopback interface of a new network namespace up, where no other account is, and goes on.
ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.full
def test_flowers_own_command_gives_the_same_numbers(finished, tmp_path, repository):
    """The checkout is an ordinary Flower app; its oracle is Flower's own engine, shut in."""
    pytest.importorskip("ray", reason="needs Flower's simulation extra, which is not installed")
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.call([*alone, "true"]) != 0:
        pytest.skip("needs a network namespace: flwr run would let every account in")
    plan = finished.plan
    other = make_federation(tmp_path / "out", arms=ARMS, base=False)
    other = other.model_copy(update={"base": plan.base, "cache": plan.cache})
    other.save()
    # The checkout's folder may have a name that Flower does not take.
    app = tmp_path / "proper"
    shutil.copytree(
        repository, app, ignore=shutil.ignore_patterns(".git", "runs", ".venv", "tests", "results")
    )
    environment = child_environment(tmp_path / "flower", other.out / "plan.json")
    (Path(environment["FLWR_HOME"]) / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = ":local-in-memory:"\n'
    )
    scratch = tempfile.mkdtemp(prefix="proper-")  # short: Ray's sockets live there
    environment |= {
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_TMPDIR": scratch,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    configured = f'plan="{other.out / "plan.json"}"'
    command = ["flwr", "run", ".", "local", "--stream", "--run-config", configured]
    # Supervised, because `flwr run . local` leaves its SuperLink running.
    flower = subprocess.Popen(
        [
            *(*alone, sys.executable, "-m", "simulations.flower.supervisor"),
            *(sys.executable, "-c", ALONE, *command),
        ],
        cwd=app,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output = flower.stdout.read().decode()
    finally:
        flower.stdin.close()
        flower.wait()
        flower.stdout.close()
        shutil.rmtree(scratch, ignore_errors=True)
    outcome = json.loads((other.out / "progress.json").read_text())
    assert outcome["state"] == "finished", output
    assert predictions(other) == predictions(plan)


@pytest.mark.full
@pytest.mark.parametrize("after_s", [6.0, 14.0, 20.0])
def test_killed_with_everything_it_started_and_launched_again(
    finished, tmp_path, repository, after_s
):
    plan = finished.plan
    other = make_federation(tmp_path / "out", arms=ARMS)
    path = str(other.out / "plan.json")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "simulations.flower.launch", path]
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    time.sleep(after_s)
    victim.kill()
    victim.wait()
    # The folder's lock is free again once the coordinator is gone.
    deadline = time.monotonic() + 30
    while lingering(path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert lingering(path) == []
    launch(other.out / "plan.json")
    assert predictions(other) == predictions(plan)


def lingering(plan_path: str) -> list[int]:
    """Processes whose environment names the plan, as those of a launch do."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if plan_path.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found
