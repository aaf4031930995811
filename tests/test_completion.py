"""Shells ask the programs what comes next, by the protocol of typer's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from client.cli import run_cli as device_cli
from coordinator.cli import run_cli as coordinator_cli
from simulations.cli import run_cli as simulation_cli

PROGRAMS = {
    "proper": device_cli,
    "proper-sim": simulation_cli,
    "proper-coordinator": coordinator_cli,
}


def completed(
    monkeypatch: Any, capsys: Any, line: str, *, shell: str = "bash", program: str = "proper"
) -> list[str]:
    """What comes next behind a command line, one a line, as the shell gets it."""
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    monkeypatch.setenv(variable, f"complete_{shell}")
    if shell == "bash":
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    else:
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    capsys.readouterr()
    assert PROGRAMS[program]([]) == 0
    return list(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("proper gen", ["generate"]),
        ("proper generate --stage ", ["1", "2", "3"]),
        ("proper start --task movie", ["movie_ratings"]),
        ("proper start --base smol", ["smollm2"]),
        ("proper start --profile own-", ["own-tiny"]),
        ("proper adapt x --base-weights ", ["full", "8bit", "4bit"]),
        ("proper config set max_", ["max_memory", "max_items"]),
        ("proper config set base_weights ", ["full", "8bit", "4bit"]),
        ("proper config set recompute t", ["true"]),
        ("proper config set home ", [""]),
        ("proper config set no_such ", [""]),
        ("proper config un", ["unset"]),
        ("proper bundle ", ["add", "list", "verify"]),
        ("proper --unl", ["--unlock"]),
    ],
)
def test_bash_completes(line: str, expected: list[str], monkeypatch: Any, capsys: Any) -> None:
    assert completed(monkeypatch, capsys, line) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_same(shell: str, monkeypatch: Any, capsys: Any) -> None:
    found = "\n".join(completed(monkeypatch, capsys, "proper config set max_", shell=shell))
    assert "max_memory" in found
    assert "max_items" in found
    assert "threads" not in found


@pytest.mark.parametrize(
    ("program", "line", "expected"),
    [
        ("proper-sim", "proper-sim vali", ["validate"]),
        ("proper-coordinator", "proper-coordinator ke", ["keys"]),
    ],
)
def test_the_other_programs_complete(
    program: str, line: str, expected: list[str], monkeypatch: Any, capsys: Any
) -> None:
    assert completed(monkeypatch, capsys, line, program=program) == expected


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_can_be_shown(
    program: str, shell: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv(f"_{program.upper().replace('-', '_')}_COMPLETE", f"source_{shell}")
    assert PROGRAMS[program]([]) == 0
    script = capsys.readouterr().out
    assert f"_{program.upper().replace('-', '_')}_COMPLETE=complete_{shell}" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_completing_loads_no_model_and_touches_no_file(tmp_path: Any) -> None:
    code = (
        "import sys; from client.cli import run_cli; code = run_cli([]); "
        "sys.exit(code or 3 * bool({'torch', 'transformers', 'flwr', 'tomlkit'} & set(sys.modules)))"
    )
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "settings"),
        "PROPER_HOME": str(tmp_path / "home"),
        "_PROPER_COMPLETE": "complete_bash",
        "COMP_WORDS": "proper start --task movie",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "movie_ratings\n")
    assert list(tmp_path.iterdir()) == []
