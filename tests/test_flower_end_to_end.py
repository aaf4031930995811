"""A real Flower simulation of two nodes: messages counted, bundle bytes compared, no secret out.

The second test runs the same plan through Flower's own command from the checkout: same numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from federation import CANARY, make_federation

from coordinator.release import latest
from coordinator.shipment import Shipment
from proper_model.runplan import RunPlan
from simulations.flower_command import run_config
from simulations.flower_processes import child_environment, free_port
from simulations.launch import launch

ARMS = ("stage1", "stage2-mean", "stage2", "oppu-mlp", "stage3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three devices on two nodes through `launch`, and the progress it told of."""
    plan = make_federation(tmp_path_factory.mktemp("federation") / "out", arms=ARMS)
    told: list[tuple[str, int, int]] = []
    launch(plan.out / "plan.json", progress=lambda *said: told.append(said))
    return plan, told


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
    plan, told = finished
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
    plan, _ = finished
    seen = Counter((m["direction"], m["kind"], m["node"]) for m in messages(plan))
    kinds = ("query.have", "query.store", "query.install", "train.personalize", "evaluate")
    assert seen == {(d, kind, node): 1 for d in ("out", "in") for kind in kinds for node in (0, 1)}
    assert {m["status"] for m in messages(plan) if m["direction"] == "in"} == {"ok"}
    # status + protocol + bundle_id, their names included, and not a byte more.
    private = [m for m in messages(plan) if m["kind"] == "train.personalize"]
    expected = sum(map(len, ("status", "ok", "protocol", "bundle_id"))) + 8 + 64
    assert [m["bytes"] for m in private if m["direction"] == "in"] == [expected, expected]


def test_nodes_received_the_released_bytes_once(finished):
    plan, _ = finished
    release = latest(plan.server_folder / "release")
    shipment = Shipment.of_folder(release.bundle_id, release.path)
    for node in (0, 1):
        folder = plan.node_folder(node) / "bundles" / release.bundle_id
        assert Shipment.of_folder(release.bundle_id, folder).table == shipment.table
        assert any(name.startswith("base/") for name in shipment.table.pieces)
    content = sum(length for _, _, length in shipment.places.values())
    for sent in (m["bytes"] for m in messages(plan) if m["kind"] == "query.store"):
        assert sent < 200 or content < sent < content + 200 * len(shipment.places)


def test_no_user_text_reached_the_log_or_the_server(finished):
    plan, _ = finished
    places = [
        plan.out / "flower",
        plan.out / "messages.jsonl",
        plan.out / "progress.json",
        plan.out / "timings.json",
        plan.server_folder / "journal.json",
        *(plan.out / "nodes").glob("*/progress.json"),
    ]
    files = [f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    assert len(files) > 50
    # "user0" is a test user's id; pooled users are the server's own business.
    loud = [f for f in files if CANARY.encode() in f.read_bytes() or b"user0" in f.read_bytes()]
    assert loud == []
    assert CANARY.encode() in (plan.devices[0].folder / "user.json").read_bytes()


def test_a_finished_run_is_not_run_again(finished):
    plan, _ = finished
    before = messages(plan), predictions(plan)
    launch(plan.out / "plan.json")
    assert (messages(plan), predictions(plan)) == before


def test_flowers_own_command_gives_the_same_numbers(finished, tmp_path, repository):
    plan, _ = finished
    other = make_federation(tmp_path / "out", arms=ARMS, base=False)
    other = other.model_copy(update={"base": plan.base, "cache": plan.cache})
    other.save()
    # The checkout's folder may have a name that Flower does not take.
    app = tmp_path / "proper"
    shutil.copytree(
        repository, app, ignore=shutil.ignore_patterns(".git", "runs", ".venv", "tests", "results")
    )
    scratch = tempfile.mkdtemp(prefix="proper-")  # short: Ray's sockets live there
    environment = child_environment(tmp_path / "flower", scratch, other.out / "plan.json")
    environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] = str(free_port())
    (Path(environment["FLWR_HOME"]) / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = ":local-in-memory:"\n'
    )
    plan_option = run_config(other.out / "plan.json")
    command = ["flwr", "run", ".", "local", "--stream", "--run-config", plan_option]
    # Supervised, because `flwr run . local` leaves its SuperLink running.
    flower = subprocess.Popen(
        [sys.executable, "-m", "simulations.supervisor", scratch, *command],
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
    outcome = json.loads((other.out / "progress.json").read_text())
    assert outcome["state"] == "finished", output
    assert predictions(other) == predictions(plan)


@pytest.mark.full
@pytest.mark.parametrize("after_s", [6.0, 14.0, 20.0])
def test_killed_with_everything_it_started_and_launched_again(
    finished, tmp_path, repository, after_s
):
    plan, _ = finished
    other = make_federation(tmp_path / "out", arms=ARMS)
    path = str(other.out / "plan.json")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "simulations.launch", path]
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
