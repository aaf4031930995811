"""The command line: every mistake has a message, a hint and an exit code; stdout stays data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from run_folders import make_run
from test_results import example
from test_score import OUTPUTS, USERS

from client.terminal.console import QUIET
from proper_model.data.users import write_oppu
from proper_model.errors import InterruptedRunError
from simulations import cli, pipeline
from simulations.api import Run
from simulations.cli import run_cli
from simulations.outcome.results import Results, write_document
from simulations.setup.cli_options import EXPERIMENT_OPTIONS, RUN_OPTIONS
from simulations.setup.options import RunOptions
from simulations.synthetic.people import make_synthetic

CANARY = "xylophone-canary-7731"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_oppu(make_synthetic("synth_tag", preset="smoke").population, folder)
    return folder


REAL = ["--task", "synth_tag", "--base", "org/base"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "{data}", "--base", "b"], 11, "--task is missing"),
        (["run", "{data}", "--task", "synth_tag"], 11, "--base is missing"),
        (["run", "demo", "--task", "synth_tag"], 11, "contradict"),
        (["run", "demo:opera"], 11, "unknown demo 'demo:opera'"),
        (["run", "{data}", *REAL, "--preset", "fancy"], 11, "unknown preset 'fancy'"),
        (["run", "{data}", *REAL, "--profile", "huge"], 11, "unknown profile 'huge'"),
        (["run", "{data}", *REAL, "--split", "mostly"], 11, "unknown split 'mostly'"),
        (["run", "{data}", *REAL, "--arms", "stage1,stage9"], 11, "unknown arm 'stage9'"),
        (["run", "{data}", *REAL, "--arms", "stage2"], 11, "needs stage3"),
        (["run", "{data}", *REAL, "--arms", "stage1,stage1"], 11, "names an arm twice"),
        (["run", "{data}", *REAL, "--arms", ","], 11, "--arms is empty"),
        (["run", "{data}", *REAL, "--fold", "1"], 11, "--folds is missing"),
        (["run", "{data}", *REAL, "--folds", "3", "--fold", "3"], 11, "from 0 to 2"),
        (["run", "{data}", *REAL, "--folds", "3", "--split", "inactive:2"], 11, "--folds rotates"),
        (["run", "{data}", *REAL, "--users", "0"], 11, "--users must be at least 1"),
        (["run", "{data}", *REAL, "--cache", "bad\udcff"], 11, "--cache is no UTF-8 path"),
        (["run", "{data}", *REAL, "--threads", "0"], 11, "--threads must be at least 1"),
        (["run", "{data}", *REAL, "--actors", "0"], 11, "leave it out to have it chosen"),
        (["run", "{data}", *REAL, "--users", "0"], 11, "leave it out for no limit"),
        (["run", "{data}", *REAL, "--memory-budget", "inf"], 11, "number of GiB above 0, got inf"),
        (["run", "{data}", *REAL, "--memory-budget", "10MB"], 2, "GiB without a unit"),
        (["run", "missing", *REAL, "--actors", "9999"], 11, "9999 actors of 1 thread"),
        (["run", "missing", *REAL, "--actors", "9999", "--plan"], 11, "9999 actors of 1 thread"),
        (["run", "{data}", *REAL, "--threads", "100000"], 11, "--threads must be at most 1024"),
        (["run", "{data}", *REAL, "--seed", "-1"], 11, "--seed must be from 0 to 4294967295"),
        (["run", "{data}", *REAL, "--seed", "1" + "0" * 32], 11, "--seed must be from 0"),
        (["run", "{data}", "--task", "LaMP_99", "--base", "b"], 12, "unknown task 'LaMP_99'"),
        (["run", "{data}", *REAL, "--template", "rhymes"], 12, "no template set 'rhymes'"),
        (["run", "missing", *REAL], 13, "missing: no such file or folder"),
        (["run", "{data}", "--task", "synth_tag", "--base", "./none"], 15, "./none"),
        (["prepare", "{data}", *REAL, "--folds", "3"], 11, "needs --fold"),
        (["run", "{data}", *REAL, "--profile", "none.toml"], 11, "none.toml"),
        (["fetch", "LaMP_6"], 14, "licensed mail"),
    ],
)
def test_bad_input_is_told_with_a_hint_and_its_own_code(
    arguments: list[str],
    code: int,
    words: str,
    data: Path,
    tmp_path: Path,
    capsys,
) -> None:
    line = [a.format(data=data) for a in arguments] + ["--out", str(tmp_path / "out")]
    assert run_cli(line) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert "proper: error: " in shown.err
    assert "proper: hint: " in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_exit_code_2(capsys) -> None:
    assert run_cli(["runn"]) == 2
    assert run_cli(["run"]) == 2
    assert run_cli(["run", "demo", "--out", "o", "--no-such-option"]) == 2
    error = capsys.readouterr().err
    assert error.count("proper: error: ") == 3
    assert error.count("proper: hint: ") == 3


def test_places_that_cannot_be_written_are_named_with_the_reason(
    data: Path, tmp_path: Path, capsys
) -> None:
    make_run(tmp_path / "run", USERS, OUTPUTS)
    assert run_cli(["score", str(tmp_path / "run")]) == 0
    results, file = str(tmp_path / "run"), tmp_path / "file"
    file.write_text("mine")
    base = tmp_path / "base"
    base.mkdir()
    real = [str(data), "--task", "synth_tag", "--base", str(base)]
    for line, reason in (
        (["run", *real, "--out", "/proc/x"], "/proc/x: No such file or directory"),
        (["prepare", *real, "--out", "/proc/x"], "/proc/x: No such file or directory"),
        (["run", *real, "--out", f"{file}/run"], f"{file}/run: Not a directory"),
        (["run", *real, "--folds", "2", "--out", f"{file}/run"], "Not a directory"),
        (["report", results, "--out", "/proc/x.html"], "/proc/x.html: No such file"),
        (["fetch", "LaMP_3", "--out", str(file)], f"{file}: File exists"),
    ):
        assert run_cli(line) == 20, line
        error = capsys.readouterr().err
        assert reason in error
        assert "proper: hint: " in error
        assert "internal" not in error
    assert file.read_text() == "mine"


def test_debug_shows_where_it_happened(capsys) -> None:
    assert run_cli(["--debug", "run", "demo:opera", "--out", "o"]) == 11
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_exit_code_1_and_quotes_nothing(monkeypatch, capsys, tmp_path: Path) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise KeyError(CANARY)

    monkeypatch.setattr(pipeline, "execute", broken)
    assert run_cli(["run", "demo", "--out", str(tmp_path / "o")]) == 1
    error = capsys.readouterr().err
    assert "internal error (KeyError)" in error
    assert CANARY not in error


def test_ctrl_c_says_how_to_resume(monkeypatch, capsys, tmp_path: Path) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    def stopped(*_args: object, **_kwargs: object) -> None:
        raise InterruptedRunError("interrupted", hint="go on with: --resume")

    shown = []
    for error in (interrupted, stopped):
        monkeypatch.setattr(pipeline, "execute", error)
        assert run_cli(["run", "demo", "--out", str(tmp_path / "o")]) == 130
        shown.append(capsys.readouterr().err)
    assert shown[0] == shown[1], "one wording, wherever it was"
    assert "\nproper: interrupted\nproper: hint: " in shown[0]
    assert "--resume" in shown[0]


def test_ctrl_c_is_answered_at_once(repository: Path, tmp_path: Path) -> None:
    program = (
        "import signal, sys, time, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def execute(*_args, **_kwargs):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaning up', file=sys.stderr, flush=True)\n"
        "sys.modules['simulations.pipeline'] = types.SimpleNamespace(execute=execute)\n"
        "from simulations.cli import main\n"
        f"sys.argv = ['proper-sim', 'run', 'demo', '--out', {str(tmp_path / 'o')!r}]\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    lines = error.splitlines()
    assert lines[0] == "proper: preset default, the usual one of profile demo"
    assert lines[1:4] == ["proper: stopping...", "cleaning up", "proper: interrupted"]
    assert "--resume" in lines[4]


def test_every_option_of_a_run_can_be_typed() -> None:
    names = {field.name for field in fields(RunOptions)}
    assert set(RUN_OPTIONS) == names > set(EXPERIMENT_OPTIONS)


def test_without_a_command_the_list_follows_a_message(capsys) -> None:
    assert run_cli([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("proper: error: a command is missing\nproper: hint: ")
    assert "prepare" in shown.err


def test_the_version_is_told(capsys) -> None:
    assert run_cli(["--version"]) == 0
    assert capsys.readouterr().out.startswith("proper-sim ")


def test_validate_counts_on_stdout_and_says_which_file_it_reads(data: Path, capsys) -> None:
    assert run_cli(["validate", str(data), "--task", "synth_tag"]) == 0
    shown = capsys.readouterr()
    assert "0 errors" in shown.out
    assert "history items" in shown.out
    assert "proper: reading user_others.json (MiB)" in shown.err


def test_help_names_commands_and_what_an_option_means_for_each(
    capsys,
) -> None:
    def words(*command: str) -> str:
        assert run_cli([*command, "--help"]) == 0
        return " ".join(capsys.readouterr().out.replace("│", " ").split())

    for name in ("validate", "fetch", "prepare", "run", "score", "report", "table"):
        assert name in words()
    assert "(default: the task's)" in words("validate")
    assert "(default: the profile's)" in words("run")
    assert "Folder for everything the run leaves" not in words("fetch")
    for part in ("random:N (N of all users)", "the N pooled users", "inactive:N:in-population"):
        assert part in words("run")
    # Some pairs of typer and click drop the help of positional arguments without a word.
    assert "Folder with OPPU's or LaMP's files" in words("run")


def test_the_demo_needs_no_validation(capsys) -> None:
    assert run_cli(["validate", "demo:rate"]) == 0
    assert "need no validation" in capsys.readouterr().err


def test_validate_names_what_is_wrong_and_fails(data: Path, capsys) -> None:
    path = data / "user_others.json"
    users = json.loads(path.read_text())
    users[2]["query"][0]["gold"] = CANARY
    path.write_text(json.dumps(users))
    assert run_cli(["validate", str(data), "--task", "synth_tag"]) == 13
    shown = capsys.readouterr()
    assert "error: user_others.json, record 2, field query[0].gold" in shown.out
    assert ", 1 error, 0 warnings" in shown.out
    assert ": 1 error; a run" in shown.err
    assert CANARY not in shown.out + shown.err


def test_score_writes_results_and_report_and_prints_tables(tmp_path: Path, capsys) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    assert run_cli(["score", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "0.833 [0.750, 1.000]" in shown.out
    assert "stage3 − stage1" in shown.out
    assert (tmp_path / "results.json").is_file()
    page = (tmp_path / "report.html").read_text()
    for secret in (CANARY, "anna", "boris", "a film"):
        assert secret not in page
        assert secret not in shown.out


def test_examples_of_real_people_need_a_word(tmp_path: Path, capsys) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    assert run_cli(["score", str(tmp_path), "--show-examples"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert CANARY in page
    assert "Shown on request" in page
    assert run_cli(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert CANARY not in (tmp_path / "report.html").read_text()


def test_synthetic_people_are_shown_always(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    (tmp_path / "truth.json").write_text('{"level": {}}')
    assert run_cli(["score", str(tmp_path)]) == 0
    assert "This person is synthetic" in (tmp_path / "report.html").read_text()


def test_table_in_both_forms(tmp_path: Path, capsys) -> None:
    for seed in (0, 1):
        path = tmp_path / f"r{seed}.json"
        write_document(Results.model_validate({**example(), "seed": seed}), path)
    sources = [str(tmp_path / "r0.json"), str(tmp_path / "r1.json")]
    assert run_cli(["table", *sources, "--markdown"]) == 0
    markdown = capsys.readouterr().out
    assert "| T (2 users, given) | accuracy | default/tiny, mini | 2 | 0.500 | 0.500 |" in markdown
    assert run_cli(["table", *sources]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert run_cli(["table", sources[0]]) == 0  # one run: its arms and their differences
    alone = capsys.readouterr().out
    assert "queries" in alone
    assert "Differences" in alone
    assert run_cli(["table", sources[0], "--markdown"]) == 0
    assert "\n\n| arms |" in capsys.readouterr().out  # two tables, not one


@pytest.mark.parametrize("command", ["table", "report"])
def test_a_file_that_is_no_result_is_refused(command: str, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": 99}')
    assert run_cli([command, str(bad)]) == 19
    assert "bad.json" in capsys.readouterr().err


def test_main_switches_telemetry_off_and_exits_with_the_code(
    monkeypatch,
) -> None:
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.setattr(sys, "argv", ["proper-sim", "runn"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info", "the user's choice stays"


def test_notebook_interface_refuses_contradictions_at_once() -> None:
    with pytest.raises(Exception, match="--task is missing"):
        Run(data="somewhere", out="o")


def test_notebook_results_answer_questions(tmp_path: Path, monkeypatch) -> None:
    make_run(tmp_path / "out", USERS, OUTPUTS)
    monkeypatch.setattr(pipeline, "run_one", lambda *_: None)
    results = Run(data="demo", out=tmp_path / "out").execute(resume=True)
    assert results.metric("stage3", "accuracy") == pytest.approx(5 / 6)
    assert {row.metric for row in results.contrasts("stage3", "stage1")} >= {"accuracy", "nll"}
    assert results.contrasts("stage1", "stage3") == []
    assert results.table().startswith("| arm |")
    assert "stage3 − stage1" in results.differences()
    assert results.report.is_file()


def test_a_used_folder_is_refused_before_anything_heavy_is_loaded(
    tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    program = (
        "import sys; from simulations.cli import run_cli\n"
        f"codes = [run_cli([*line, '--out', {str(tmp_path)!r}]) for line in "
        "(['run', 'demo'], ['run', 'demo', '--plan'], ['prepare', 'demo'],"
        " ['run', 'demo', '--folds', '3'])]\n"
        "heavy = {'torch', 'transformers', 'flwr', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "print(codes, sorted(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[11, 11, 11, 11] []", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
