"""Starting and stopping: sizes, progress, outcome, and that nothing is left running."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import pytest
from federation import CANARY, make_federation
from packaging.requirements import Requirement

from coordinator.journal import Journal, exclusive
from proper_model.errors import (
    BaseModelError,
    ConfigError,
    NothingLearnedError,
    ProperError,
    SimulationError,
    StorageError,
)
from proper_model.storage.files import make_private_folder
from simulations.flower import actors, causes
from simulations.flower import launch as launching
from simulations.flower.actors import LOST, ActorError, ActorPool, actor_settings
from simulations.flower.causes import check_outcome, known_cause
from simulations.flower.launch import read_progress
from simulations.setup.placement import Machine, choose_resources

GIB = 1 << 30


@pytest.fixture
def plan(tmp_path):
    return make_federation(tmp_path / "out", devices=8, users_per_node=1, base=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "free", "expected"),
    [
        (2, 0, 64 * GIB, 2),
        (16, 0, 64 * GIB, 8),
        (16, 0, 4 * GIB, 2),
        (16, 0, 0, 1),
        (16, 2, 64 * GIB, 2),
    ],
)
def test_actors_fit_cores_memory_and_nodes(plan, cpus, gpus, free, expected):
    chosen = choose_resources(plan, Machine(cpus, free, (64 * GIB,) * gpus))
    assert chosen.actors == expected <= cpus
    assert chosen.actors * chosen.threads <= cpus
    settings = actor_settings(chosen.actors, chosen.threads, gpus, None)
    assert [one["OMP_NUM_THREADS"] for one in settings] == [str(chosen.threads)] * expected
    # One GPU each, and none that nobody uses; without a GPU nothing is said about them.
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in settings] == (
        [str(number) for number in range(gpus)] or [None] * expected
    )


@pytest.mark.parametrize(
    ("count", "gpus", "visible", "shares"),
    [
        (4, 2, None, ["0", "0", "1", "1"]),
        (1, 2, None, ["0,1"]),
        (2, 2, "3,GPU-ab", ["3", "GPU-ab"]),  # only what this process may see is shared out
        (3, 2, "5,6,7", ["5", "5", "6"]),
        (2, 0, "", [None, None]),
    ],
)
def test_gpus_are_shared_out_evenly(count, gpus, visible, shares):
    settings = actor_settings(count, 1, gpus, visible)
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in settings] == shares


@pytest.mark.parametrize(
    ("fixed", "machine", "expected"),
    [
        ({"actors": 3}, Machine(4, 0), (3, 1)),
        # A plan from a larger machine gets what this one has.
        ({"actors": 8, "node_threads": 4}, Machine(6, 64 * GIB), (1, 4)),
        ({"actors": 8, "node_threads": 4}, Machine(2, 64 * GIB), (1, 2)),
    ],
)
def test_the_plan_may_fix_actors_and_threads(plan, fixed, machine, expected):
    chosen = choose_resources(plan.model_copy(update=fixed), machine)
    assert (chosen.actors, chosen.threads) == expected


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
    assert Journal.open(plan.server_folder, plan.fingerprint()).done("evaluate")
    launching.reopen_private_rounds(plan)
    assert not Journal.open(plan.server_folder, plan.fingerprint()).done("evaluate")


def test_the_outcome_is_the_coordinators_word(plan, tmp_path):
    log = tmp_path / "flower.log"
    server = plan.out / "progress.json"
    with pytest.raises(SimulationError, match=r"ended before.*cause unknown.*flower\.log"):
        check_outcome(plan, log, 0, 1)
    server.write_text(json.dumps({"state": "failed", "error": "2 of 3 nodes", "hint": "again"}))
    with pytest.raises(SimulationError, match="2 of 3 nodes") as caught:
        check_outcome(plan, log, 0, 1)
    assert caught.value.hint == "again"
    server.write_text(json.dumps({"state": "finished"}))
    check_outcome(plan, log, 0, 0)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        ("NothingLearnedError", NothingLearnedError),
        ("BaseModelError", BaseModelError),
        ("ValueError", SimulationError),
        ("annotations", SimulationError),  # a name of that module, but no error
        (None, SimulationError),
    ],
)
def test_the_coordinators_error_keeps_its_exit_code(plan, tmp_path, kind, raised):
    content = {"state": "failed", "error": "it said why", "hint": None, "kind": kind}
    (plan.out / "progress.json").write_text(json.dumps(content))
    with pytest.raises(ProperError, match="it said why") as caught:
        check_outcome(plan, tmp_path / "flower.log", 0, 1)
    assert type(caught.value) is raised


def test_a_flower_of_another_version_is_refused_and_the_range_is_the_declared_one(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    (declared,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "flwr")
    assert declared.specifier == launching.FLOWER
    for tried in ("1.41.0", "1.42.3"):
        launching.check_flower(tried)
    for other in ("1.40.9", "1.43.0"):
        with pytest.raises(ConfigError, match=f"flwr {other} is installed, expected"):
            launching.check_flower(other)


def test_a_folder_in_use_is_refused_and_what_lies_there_stays(plan):
    folder = make_private_folder(plan.out / "flower")
    (folder / "tmp").mkdir()
    server = plan.out / "progress.json"
    server.write_text("another launcher's")
    with (
        exclusive(folder),
        pytest.raises(SimulationError, match="another run is using this folder"),
    ):
        launching.launch(plan.out / "plan.json")
    assert server.read_text() == "another launcher's"
    assert (folder / "tmp").is_dir()
    assert not (folder / "flower.log").exists()


def test_after_a_failure_nodes_that_hang_are_waited_for_a_while_only(plan, monkeypatch):
    hanging = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    told = []

    def fail(*said):
        told.append(said)
        (plan.out / "progress.json").write_text(json.dumps({"state": "failed"}))

    (plan.out / "progress.json").write_text(
        json.dumps({"state": "running", "phase": "evaluate", "done": 0, "total": 2})
    )
    monkeypatch.setattr(launching, "ENDING_S", 0.1)
    follower = Thread(target=launching._follow, args=(hanging, plan, fail))
    follower.start()
    follower.join(10)
    still = follower.is_alive()
    hanging.kill()
    hanging.wait()
    follower.join()
    assert (still, told) == (False, [("evaluate", 0, 2)])


def test_a_disk_too_full_for_the_log_is_told(plan, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "", str(path))

    folder = make_private_folder(plan.out / "flower")
    with pytest.raises(SimulationError, match="cause unknown"):
        check_outcome(plan, folder / "flower.log", 0, 1)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(causes, "write_atomic", full)
    with pytest.raises(StorageError, match="No space left on device"):
        check_outcome(plan, folder / "flower.log", 0, 1)


# -- the causes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "cause"),
    [
        ("OSError: [Errno 28] No space left on device: '/x/zqxcanaryzq'", 1, "the disk is full"),
        (
            "OSError: AF_UNIX path length cannot exceed 107 bytes: /x/zqxcanaryzq",
            1,
            "the path of a socket is too long (see TMPDIR)",
        ),
        ("RuntimeError: can't start new thread zqxcanaryzq", 1, "too many processes or threads"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",
            1,
            "the GPU's memory ran out",
        ),
        ("ModuleNotFoundError: No module named 'peft.tuners'", 1, "module peft.tuners is not"),
        ("ImportError: cannot import name 'x' from 'flwr.y' (z)", 1, "flwr.y is of another"),
        (f"{LOST}: signal SIGKILL", 1, "plays nodes ended: signal SIGKILL, as the system sends"),
        ("", 137, "its process ended: signal SIGKILL, as the system sends where memory runs out"),
        ("", 139, "its process ended: signal SIGSEGV"),
        ("", -9, "its process ended: signal SIGKILL"),  # the supervisor itself
        ("No space left on device\nToo many open files", 137, "too many open files"),
        ("ValueError: zqxcanaryzq", 1, None),
    ],
)
def test_what_a_log_shows_is_named_in_words_of_ours(tmp_path, line, status, cause):
    log = tmp_path / "flower.log"
    earlier = "of an earlier start: Read-only file system\n"
    log.write_text(earlier + line + "\n")
    found = known_cause(log, len(earlier), status)
    assert found is None if cause is None else cause in found
    assert CANARY not in str(found)
    assert known_cause(tmp_path / "none", 0, 1) is None


def test_a_process_that_died_is_replaced():
    pool = ActorPool([{"OMP_NUM_THREADS": "1"}])
    first = pool.idle.get()
    first.process.kill()
    pool.idle.put(first)
    with pytest.raises(ActorError, match=f"{LOST}: signal SIGKILL"):
        pool.ask(("message", "context"))
    second = pool.idle.get()
    assert second.process.poll() is None
    assert second.settings == first.settings
    second.process.kill()  # it is busy importing
    pool.idle.put(second)
    pool.close()


def test_a_process_that_cannot_be_replaced_keeps_its_place(monkeypatch):
    def none_left(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    pool = ActorPool([{"OMP_NUM_THREADS": "1"}])
    first = pool.idle.get()
    first.process.kill()
    pool.idle.put(first)
    with monkeypatch.context() as patch:
        patch.setattr(actors.subprocess, "Popen", none_left)
        for _ in range(2):
            with pytest.raises(ActorError, match=f"{LOST}: signal SIGKILL"):
                pool.ask(("message", "context"))
    with pytest.raises(ActorError, match=LOST):
        pool.ask(("message", "context"))
    second = pool.idle.get_nowait()
    assert second.process.poll() is None
    second.process.kill()
    pool.idle.put(second)
    pool.close()


def test_of_what_a_node_raises_only_the_type_leaves_its_process(monkeypatch):
    from client.node import flower_app

    def fail(*, message, context):
        raise ValueError(CANARY)

    ours, theirs = Pipe()
    actor = Thread(target=actors.main, args=(os.dup(theirs.fileno()),))
    theirs.close()
    with monkeypatch.context() as patch:
        patch.setattr(flower_app, "app", fail)
        actor.start()
        ours.send(("message", "context"))
        assert ours.recv() == ("ValueError", None)
        ours.close()
        actor.join()


# -- the supervisor --------------------------------------------------------------------------------

GRACE_S = 2.0
# Longer than anybody here looks on.
LONG_GRACE_S = 300.0
PATIENT = """
import sys
from simulations.flower import supervisor
supervisor.GRACE_S = float(sys.argv[1])
sys.exit(supervisor.main(sys.argv[2:]))
"""
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
    note = tmp_path / "pid"
    grace = LONG_GRACE_S if way == "nothing to save" else GRACE_S
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "p = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, start_new_session=True)\n"
            "print(p.pid, flush=True); sys.stdin.read(); p.stdin.write(sys.argv[1].encode())\n"
            "p.stdin.close(); p.wait()\n",
            "!" if way == "nothing to save" else "",
            *(sys.executable, "-c", PATIENT, str(grace), sys.executable, "-c", UNRULY, str(note)),
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
        if way != "nothing to save":
            assert time.monotonic() - asked >= GRACE_S
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="ending with a parent is a Linux call")
@pytest.mark.parametrize("program", ["supervisor", "actor"])
def test_nothing_goes_on_when_the_process_above_is_killed(tmp_path, repository, program):
    """Busy as in training, so that no closed pipe is noticed."""
    busy = "import sys, time; open(sys.argv[1], 'w').write(str(__import__('os').getpid())); "
    actor = (
        "import sys, types; sys.modules['client.node.flower_app'] = types.SimpleNamespace(app=None)\n"
        "import simulations.flower.actors as actors\n"
        "class Busy:\n"
        "    def __init__(self, _): exec(sys.argv[2])\n"
        "actors.Connection = Busy; actors.main(0)"
    )
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    note = tmp_path / "pid"
    above = subprocess.Popen(
        [sys.executable, "-m", "simulations.flower.supervisor", sys.executable, "-c"]
        + [busy + "time.sleep(60)", str(note)]
        if program == "supervisor"
        else [sys.executable, "-c", parent, actor, str(note), busy + "time.sleep(60)"],
        cwd=repository,
        stdin=subprocess.PIPE,
    )
    assert wait_until(lambda: note.exists() and note.read_text().isdigit())
    below = int(note.read_text())
    assert running(below)
    above.kill()
    above.wait()
    above.stdin.close()
    ended = wait_until(lambda: not running(below), 5)
    if not ended:
        os.kill(below, signal.SIGKILL)
    assert ended


@pytest.mark.parametrize(
    ("program", "status"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
)
def test_the_supervisor_tells_how_the_command_ended(repository, program, status):
    ended = subprocess.Popen(
        [sys.executable, "-m", "simulations.flower.supervisor", sys.executable, "-c", program],
        cwd=repository,
        stdin=subprocess.PIPE,
    )
    assert ended.wait() == status
    ended.stdin.close()
