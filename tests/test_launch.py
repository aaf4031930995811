"""Starting and stopping: sizes, progress, outcome, and that nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from federation import make_federation

from coordinator.journal import Journal
from proper_model.errors import SimulationError
from simulations import launch as launching
from simulations.flower_app import write_app
from simulations.launch import choose_resources, read_progress
from simulations.placement import Machine
from simulations.supervisor import GRACE_S

GIB = 1 << 30


@pytest.fixture
def plan(tmp_path):
    return make_federation(tmp_path / "out", devices=8, users_per_node=1, base=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "free", "actors"),
    [
        (2, 0, 64 * GIB, 2),
        (16, 0, 64 * GIB, 8),
        (16, 0, 4 * GIB, 2),
        (16, 0, 0, 1),
        (16, 2, 64 * GIB, 2),
    ],
)
def test_actors_fit_cores_memory_and_nodes(plan, cpus, gpus, free, actors):
    chosen = choose_resources(plan, Machine(cpus, free, (64 * GIB,) * gpus))
    assert chosen.actors == actors <= cpus
    assert chosen.nodes == 8
    config = dict(item.split("=") for item in chosen.federation_config().split())
    # What Ray makes of it: as many actors as cores and GPUs allow.
    each, total = int(config["client-resources-num-cpus"]), int(config["init-args-num-cpus"])
    assert total / each == actors
    assert total <= cpus
    if gpus:
        assert gpus / float(config["client-resources-num-gpus"]) == actors


def test_the_plan_may_fix_the_actors(plan):
    fixed = plan.model_copy(update={"actors": 3})
    chosen = choose_resources(fixed, Machine(4, 0))
    assert chosen.actors == 3
    assert "client-resources-num-cpus=1 " in chosen.federation_config()
    assert "init-args-num-cpus=3 " in chosen.federation_config()


def test_a_plan_from_a_larger_machine_gets_what_this_one_has(plan):
    large = plan.model_copy(update={"actors": 8, "node_threads": 4})
    config = choose_resources(large, Machine(6, 64 * GIB)).federation_config()
    assert "client-resources-num-cpus=4 " in config
    assert "init-args-num-cpus=4 " in config
    assert choose_resources(large, Machine(2, 64 * GIB)).threads == 2


def test_progress_of_a_round_is_summed_over_nodes(plan):
    def say(path, **content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    assert read_progress(plan) is None
    server = plan.out / "progress.json"
    say(server, state="running", phase="group", done=3, total=9)
    assert read_progress(plan) == ("group", 3, 9)
    say(server, state="running", phase="personalize", done=0, total=8)
    assert read_progress(plan) == ("personalize", 0, 8)
    for k in (0, 1):
        say(plan.node_folder(k) / "progress.json", phase="personalize: stage3", done=2, total=10)
    assert read_progress(plan) == ("personalize: stage3", 4, 20)
    say(server, state="finished", phase="finished", done=1, total=1)
    assert read_progress(plan) is None
    server.write_text("{")
    assert read_progress(plan) is None


def test_finished_means_this_data_and_all_its_predictions(plan):
    def write(entry, arm):
        path = entry.folder / "predictions" / f"{arm}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    journal = Journal.open(plan.server_folder, plan.fingerprint())
    assert not launching.finished(plan)
    for step in ("personalize", "evaluate"):
        journal.finish(step)
    for entry in plan.devices:
        for arm in plan.node_arms:
            write(entry, arm)
    assert launching.finished(plan)
    # Data prepared anew is another plan, whatever predictions lie there.
    other = plan.devices[0].model_copy(update={"user_sha256": "00" * 32})
    assert not launching.finished(plan.model_copy(update={"devices": (other, *plan.devices[1:])}))
    # Data edited on a device has the devices look again.
    user = plan.devices[0].folder / "user.json"
    user.write_bytes(user.read_bytes() + b" ")
    assert not launching.finished(plan)
    assert not Journal.open(plan.server_folder, plan.fingerprint()).done("evaluate")


def test_the_outcome_is_the_coordinators_word(plan, tmp_path):
    log = tmp_path / "flower.log"
    server = plan.out / "progress.json"
    with pytest.raises(SimulationError, match=r"ended before.*flower\.log"):
        launching._check_outcome(plan, log)
    server.write_text(json.dumps({"state": "failed", "error": "2 of 3 nodes", "hint": "again"}))
    with pytest.raises(SimulationError, match="2 of 3 nodes") as caught:
        launching._check_outcome(plan, log)
    assert caught.value.hint == "again"
    server.write_text(json.dumps({"state": "finished"}))
    launching._check_outcome(plan, log)


def test_the_app_folder_holds_code_and_nothing_else(tmp_path):
    app = write_app(tmp_path / "proper-app")
    files = [p.relative_to(app) for p in app.rglob("*") if p.is_file()]
    assert {p.parts[0] for p in files} == {
        "pyproject.toml",
        "proper_model",
        "coordinator",
        "client",
    }
    assert {p.suffix for p in files} == {".py", ".toml"}
    (app / "proper_model" / "old.py").write_text("")
    write_app(app)
    assert not (app / "proper_model" / "old.py").exists()


# -- the supervisor --------------------------------------------------------------------------------

# A command as bad as Ray: a child in a session of its own, which ignores SIGTERM, and whose parent
# has gone.
UNRULY = """
import os, signal, subprocess, sys, time
child = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(300)
'''
middle = 'import subprocess, sys; subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)'
subprocess.run([sys.executable, "-c", middle, sys.argv[1], child], start_new_session=True)
time.sleep(300)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted through a Linux call")
@pytest.mark.parametrize("way", ["pipe closed", "launcher killed", "nothing to save"])
def test_no_descendant_outlives_the_launcher(tmp_path, repository, way):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    note = tmp_path / "pid"
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "p = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, start_new_session=True)\n"
            "print(p.pid, flush=True); sys.stdin.read(); p.stdin.write(sys.argv[1].encode())\n"
            "p.stdin.close(); p.wait()\n",
            "!" if way == "nothing to save" else "",
            *(sys.executable, "-m", "simulations.supervisor", str(scratch)),
            *(sys.executable, "-c", UNRULY, str(note)),
        ],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        supervisor = int(launcher.stdout.readline())
        assert wait_until(lambda: note.exists() and note.read_text().isdigit())
        unruly = int(note.read_text())
        assert running(unruly)
        asked = time.monotonic()
        if way == "launcher killed":
            launcher.send_signal(signal.SIGKILL)
        else:
            launcher.stdin.close()
        assert wait_until(lambda: not running(unruly) and not running(supervisor))
        # What ignores SIGTERM is waited for, unless its work is known to be done.
        if way == "nothing to save":
            assert time.monotonic() - asked < GRACE_S
        else:
            assert time.monotonic() - asked >= GRACE_S
        assert wait_until(lambda: not scratch.exists())
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()
