"""How the benchmarks' commands end: places and devices looked at first, children, Ctrl-C."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from bench_files import contender, engine_file, memory_peak, setting

from benchmarks import device, engine, first_minutes, memory, pipeline, report
from benchmarks.command import mark_of, ready_file, run_command
from benchmarks.contenders import Spec, Workload
from benchmarks.kinds import Agreement
from benchmarks.measuring.processes import (
    LONGEST,
    Child,
    cause_of,
    in_own_process,
    without_ctrl_c,
)
from benchmarks.measuring.rounds import measure_setting
from benchmarks.measuring.worker import Worker
from benchmarks.results.schema import EngineReport, MemoryPeak, MemoryReport, Setting
from proper_model.errors import ConfigError, ReportError, StorageError, TrainingError

ROOT = Path(__file__).resolve().parent.parent


def never(*_: object) -> None:
    raise AssertionError("measured although it was refused")


def test_a_place_to_write_is_made_and_left_empty(tmp_path: Path) -> None:
    ready_file(tmp_path / "a" / "b" / "out.json", "mark")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (".", "file/out.json", "file/deeper/out.json"):
        with pytest.raises(StorageError, match=tmp_path.name) as caught:
            ready_file(tmp_path / place, "mark")
        assert caught.value.hint
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_found_by_writing(tmp_path: Path, monkeypatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device", "/tmp/.proper-xyz")

    monkeypatch.setattr("benchmarks.command.tempfile.NamedTemporaryFile", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        ready_file(tmp_path / "out.json", "mark")
    assert "xyz" not in caught.value.message


@pytest.mark.parametrize("module", [engine, memory])
def test_what_cannot_work_is_refused_before_anything_is_measured(
    module, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(engine, "measure_setting", never)
    monkeypatch.setattr(memory, "in_own_process", never)
    good = ["--out", str(tmp_path / "out.json")]
    for words, code, said in (
        ([*good, "--size", "enormous"], ConfigError.exit_code, "enormous"),
        (["--out", str(tmp_path)], StorageError.exit_code, str(tmp_path)),
        ([*good, "--users", "none"], 2, "--users"),
    ):
        assert run_command(module.app, words) == code
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("proper: error: ")
        assert said in lines[0]
        assert lines[1].startswith("proper: hint: ")
    assert list(tmp_path.iterdir()) == []


def test_only_a_commands_own_files_are_replaced(tmp_path: Path, monkeypatch, capsys) -> None:
    """A page written over the measurements that it is made of, or an engine's file over a memory's, was lost."""
    monkeypatch.setattr(device, "make_person", never)
    monkeypatch.setattr(memory, "in_own_process", never)
    monkeypatch.setattr(engine, "in_own_process", never)
    monkeypatch.setattr(pipeline, "run_once", never)
    monkeypatch.setattr(first_minutes, "run_lines", never)
    source = tmp_path / "growth.json"
    source.write_text(json.dumps(engine_file(setting(users=8), setting())))
    measured, out = source.read_bytes(), str(source)
    checkout, curve = f"here={ROOT}", str(tmp_path / "notes.svg")
    Path(curve).write_text("mine")
    for module, words in (
        (report, [out, "--out", out]),
        (report, [out, "--out", curve]),
        (memory, ["--out", out]),
        (device, ["--out", out]),
        (first_minutes, ["measure", "--out", out]),
        (pipeline, ["d", "--task", "t", "--base", "b", "--source", checkout, "--out", out]),
    ):
        assert run_command(module.app, words) == StorageError.exit_code
        assert f"error: {words[-1]}: is there already" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    words = ["--out", str(tmp_path / "notes.txt")]
    assert run_command(engine.app, words) == StorageError.exit_code
    assert source.read_bytes() == measured
    for _ in range(2):  # an own one is replaced
        for name in ("page.html", "curve.svg"):
            assert run_command(report.app, [out, "--out", str(tmp_path / name)]) == 0


def test_what_benchmarks_write_is_known_again(repository: Path) -> None:
    for path in (repository / "results" / "bench").rglob("*.json"):
        ready_file(path, mark_of(json.loads(path.read_text())["benchmark"]))
    ready_file(repository / "results" / "first_minutes.json", mark_of("first_minutes"))


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} > /dev/full", StorageError.exit_code, "proper: error: standard output: No space"),
        ("{{ {}; echo $? >&2; }} | true", 0, "141\n"),
    ],
    ids=["full", "closed"],
)
def test_an_output_that_takes_no_more_is_told_without_a_traceback(
    repository: Path, shell: str, code: int, said: str
) -> None:
    files = sorted(str(path) for path in (repository / "results" / "bench").glob("*.json"))
    command = shlex.join([sys.executable, "-m", "benchmarks.table", *files * 3])
    done = subprocess.run(
        ["bash", "-c", shell.format(command)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_measuring_processes_look_for_no_code_on_the_hub(tmp_path: Path) -> None:
    """PEFT imports bitsandbytes, which does so with `kernels` unless `import_library` imported it first."""
    asked = str(tmp_path / "asked")
    (tmp_path / "kernels.py").write_text(
        f"def get_kernel(*_, **__):\n    open({asked!r}, 'w').close()\n    raise ImportError\n"
    )
    loads = "import importlib\nfor name in PRELOAD: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", f"from benchmarks.measuring.processes import PRELOAD\n{loads}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "asked").exists()


def test_pages_and_figures_say_where_they_cannot_be_written(tmp_path: Path, capsys) -> None:
    source, wall = tmp_path / "e.json", tmp_path / "file"
    source.write_text(json.dumps(engine_file(setting(users=8), setting())))
    wall.write_text("")
    for place in (tmp_path, wall / "g.svg"):
        words = [str(source), "--out", str(place)]
        assert run_command(report.app, words) == StorageError.exit_code
        assert "proper: error:" in capsys.readouterr().err


def test_nothing_measured_is_no_success(tmp_path: Path, monkeypatch, capsys) -> None:
    vmap, limit = contender("vmap-moe", None), contender("limit", [1.0])
    told = [Agreement("ours-moe", "float32", 1e-6, None), Agreement("odd", "float32", None, "Odd")]
    monkeypatch.setattr(engine, "in_own_process", lambda *_: told)
    raced = ([vmap], [vmap, limit], [vmap, limit, contender("ours", [1.0])])
    files = (json.dumps(setting(contenders=each)) for each in raced)
    made = iter(Setting.model_validate_json(text) for text in files)
    monkeypatch.setattr(engine, "measure_setting", lambda *_, **__: next(made))
    for code in (ReportError.exit_code, ReportError.exit_code, 0):
        out = tmp_path / "out.json"
        assert run_command(engine.app, ["--out", str(out)]) == code
        assert EngineReport.model_validate_json(out.read_text()).agreement == told
        said = capsys.readouterr()
        assert ("no contender was measured" in said.err) == (code != 0)
        assert "RuntimeError: no memory" in said.out
        assert "ours-moe in float32: 1.0e-06 from the reference" in said.err
        assert "odd in float32: Odd" in said.err


def test_causes_keep_an_exceptions_text() -> None:
    assert cause_of(RuntimeError("out of\n  memory")) == "RuntimeError: out of memory"
    assert cause_of(KeyError()) == "KeyError"
    assert len(cause_of(ValueError("x" * 999))) == len("ValueError: ") + LONGEST


def test_a_function_runs_in_another_process() -> None:
    assert in_own_process(os.getpid) != os.getpid()


def test_a_child_that_dies_is_noticed() -> None:
    with pytest.raises(TrainingError, match="exit code 9") as caught:
        in_own_process(os._exit, 9)
    assert "memory" in (caught.value.hint or "")


def test_a_contender_that_failed_leaves_its_memory_to_the_others() -> None:
    with Child() as child:
        worker = Worker(child, Spec("ours"))
        number = worker.ask(os.getpid)
        assert number is not None
        assert worker.ask(int, "x") is None
        assert "invalid literal" in (worker.cause or "")
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
        assert worker.ask(os.getpid) is None


def test_what_a_child_raises_arrives(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="ValueError: invalid literal"):
        in_own_process(int, "x")
    with pytest.raises(StorageError, match=tmp_path.name) as caught:
        in_own_process(ready_file, tmp_path, "mark")
    assert "folder" in (caught.value.hint or "")


def test_contenders_run_in_processes_of_their_own() -> None:
    specs = [Spec("ours-moe"), Spec("peft-loop"), Spec("vmap-moe", attention="odd")]
    work = Workload("overhead", 5, 1, 8, "fixed", 0)
    measured = measure_setting(work, specs, rounds=2, dropout=0.05, say=lambda _: None)
    ours, loop, vmap = measured.contenders
    assert vmap.status == "failed"
    assert (vmap.cause or "").startswith("ValueError: ")
    assert ours.measured is not None
    assert loop.measured is not None
    assert (ours.measured.users, ours.measured.tokens, ours.measured.padded_tokens) == (5, 40, 40)
    assert (loop.measured.users, loop.measured.tokens) == (4, 32)  # as many as a loop needs
    assert len(ours.measured.rounds) == len(loop.measured.rounds) == 2
    assert ours.measured.times(loop.measured).low > 0
    before, peak = ours.measured.memory_before_bytes, ours.measured.memory_peak_bytes
    assert 0 < (before or 0) <= (peak or 0)


def test_memory_keeps_what_it_has_when_a_setting_dies(tmp_path: Path, monkeypatch) -> None:
    peak = MemoryPeak.model_validate(memory_peak(10, 0))

    def measured(_: object, work: object, tokens: int, recompute: bool) -> MemoryPeak:
        if recompute:
            raise TrainingError("gone")
        return peak

    monkeypatch.setattr(memory, "in_own_process", measured)
    out = tmp_path / "new" / "out.json"
    assert run_command(memory.app, ["--out", str(out), "--users", "8"]) == TrainingError.exit_code
    assert MemoryReport.model_validate_json(out.read_text()).peaks == [peak]
    assert memory.in_words(peak).endswith("(nothing to compare)")
    half = MemoryPeak.model_validate(memory_peak(2**21, 2**22))
    assert memory.in_words(half) == "4 MiB measured, 2 predicted (-50%)"


def test_only_what_is_started_inside_ignores_ctrl_c() -> None:
    ask = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"

    def child() -> str:
        words = [sys.executable, "-c", ask]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    with without_ctrl_c():
        assert child() == "True"
    assert child() == "False"


def test_ctrl_c_at_the_start_of_a_child_is_not_lost() -> None:
    reached = []

    def start() -> None:
        with without_ctrl_c():
            # To this thread alone: another one would take what this one blocks.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            reached.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached


def test_an_interrupted_command_says_so_in_a_line(capsys) -> None:
    app = typer.Typer()

    @app.command()
    def run() -> None:
        raise KeyboardInterrupt

    assert run_command(app, []) == 130
    assert capsys.readouterr().err == "proper: interrupted\n"


# A test may run where Ctrl-C is ignored, as in a shell's background; a command then inherits that.
HEARING = (
    "import runpy, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "del sys.argv[0]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)


def interrupted(
    code: str, words: list[str], ready: Callable[[str], bool], log: Path
) -> tuple[int, str, list[str]]:
    """Ctrl-C as a terminal sends it, once `ready` likes stderr; code, stderr, who is left."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not ready(log.read_text()) and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        try:
            ended = process.wait(60)
        finally:
            process.kill()
    deadline = time.monotonic() + 20
    left = ["?"]
    while left and time.monotonic() < deadline:
        words = ["ps", "-s", str(process.pid), "-o", "stat=,pid="]
        listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        # What has ended and waits for the system to note it is not left.
        left = [line for line in listed.splitlines() if not line.startswith("Z")]
        time.sleep(0.2)
    return ended, log.read_text(), left


def test_ctrl_c_ends_measuring_processes(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, typer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from benchmarks.command import run_command\n"
        "from benchmarks.measuring import processes\n"
        "processes.PRELOAD = []\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def run() -> None:\n"
        "    with processes.Child() as one, processes.Child() as two:\n"
        "        said = one.call(str, 'here'), two.call(str, 'here')\n"
        "        sys.stderr.write(' '.join(said) + '\\n'); sys.stderr.flush()\n"
        "        processes.in_own_process(time.sleep, 60)\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_command(app, []))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    words = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    ended, said, left = interrupted(words, [str(script)], lambda s: "here" in s, tmp_path / "log")
    assert (ended, left, said) == (130, [], "here here\nproper: interrupted\n")


def test_ctrl_c_in_a_round_ends_the_engine_and_its_contenders(tmp_path: Path, monkeypatch) -> None:
    def say(text: str) -> None:
        if text.startswith("round 3 "):
            assert len(multiprocessing.active_children()) == 2, "ours-moe and limit"
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(engine, "say", say)
    words = ["--size", "overhead", "--tokens", "8", "--samples", "1", "--users", "2"]
    words += ["--contender", "ours-moe", "--rounds", "9", "--out", str(tmp_path / "o.json")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run_command(engine.app, words) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []


CLI = r"""
import os, signal, sys, time
from pathlib import Path

def main():
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir()
    print("running", file=sys.stderr, flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda *_: Path("twice").write_text(""))
        time.sleep(1.0)  # as a run that ends its Flower
        Path("stopped").write_text(str(out.is_dir()))
        sys.exit(130)
"""


def test_ctrl_c_waits_for_the_run_and_only_then_removes_its_folder(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "simulations").mkdir(parents=True)
    (code / "simulations" / "__init__.py").write_text("")
    (code / "simulations" / "cli.py").write_text(CLI)
    (tmp_path / "users").mkdir()
    words = [str(tmp_path / "users"), "--task", "LaMP_3", "--base", str(tmp_path / "users")]
    words += ["--source", f"new={code}", "--out", str(tmp_path / "out.json")]
    words = ["benchmarks.pipeline", *words]
    ended, said, left = interrupted(HEARING, words, lambda s: "running" in s, tmp_path / "log")
    assert (ended, left) == (130, [])
    assert (code / "stopped").read_text() == "True"
    assert not (code / "twice").exists()
    assert "Traceback" not in said
    assert said.endswith("proper: interrupted\n")
    assert not (tmp_path / "out.json").exists()
