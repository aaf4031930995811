"""The printed commands: a shell and the command line read the path that was meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from federation import make_federation
from typer.testing import CliRunner

from proper_model.errors import ConfigError
from simulations import pipeline
from simulations.cli import app
from simulations.setup.next_commands import launch_command, score_command

NASTY = [
    "plain",
    "two words",
    "it's",
    'say "hi"',
    """both ' and " of them""",
    "$HOME `id` \\ back",
    "a=b c='d'",
    "caf\u00e9 \U0001f3ac",
    "line\nbreak\ttab",
    "-x",
    "plan.toml",
]


def words(command: str) -> list[str]:
    """What a shell makes of a command."""
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} {command}"
    return list(json.loads(subprocess.check_output(["bash", "-c", line])))


@pytest.mark.parametrize("name", NASTY)
def test_any_path_reaches_the_command_line_as_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words(launch_command(Path("/runs") / name)) == ["proper-sim", "launch", f"/runs/{name}"]
    given = words(launch_command(Path(name)))
    asked: list[Path] = []
    monkeypatch.setattr(pipeline, "run_prepared", lambda out, _progress: asked.append(out))
    ended = CliRunner().invoke(app, given[1:])
    assert ended.exit_code == 0, ended.output
    assert asked == [Path(name)]
    assert words(score_command(Path(name))) == ["proper-sim", "score", *given[2:]]


def test_only_a_prepared_folder_in_its_place_is_launched(tmp_path: Path) -> None:
    plan = make_federation(tmp_path / "out", devices=1, base=False)
    with pytest.raises(ConfigError, match=r"none/plan\.json: cannot be read"):
        pipeline.run_prepared(tmp_path / "none", lambda *_: None)
    moved = plan.out.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="moved was prepared in another place"):
        pipeline.run_prepared(moved, lambda *_: None)
