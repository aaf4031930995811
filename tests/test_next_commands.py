"""The printed commands: a shell, then Flower, then TOML read the path that was meant."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from federation import make_federation
from flwr.common.config import parse_config_args

from client.console import QUIET
from proper_model.runplan import RunPlan
from simulations.flower_command import SWITCHES, flwr_command, run_config, score_command

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


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return make_federation(tmp_path / "out", devices=8, users_per_node=4, base=False)


def words(command: str) -> list[str]:
    """What a shell makes of a command."""
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    line = command.replace("flwr", f"python3 -c {shlex.quote(program)} flwr", 1)
    return list(json.loads(subprocess.check_output(["bash", "-c", line], env=os.environ)))


@pytest.mark.parametrize("name", NASTY)
def test_any_path_reaches_flower_as_it_is(plan: RunPlan, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    command = flwr_command(plan.model_copy(update={"out": out}))
    switches, _, rest = command.partition(" flwr ")
    given = words("flwr " + rest)
    assert given[:5] == ["flwr", "run", ".", "local", "--stream"]
    assert parse_config_args([given[given.index("--run-config") + 1]]) == {
        "plan": str(out / "plan.json")
    }
    assert shlex.split(switches) == [f"{switch}={QUIET[switch]}" for switch in SWITCHES]


@pytest.mark.parametrize("name", NASTY)
def test_the_launcher_and_the_score_command_take_any_path_too(name: str) -> None:
    config = run_config(Path("/runs") / name / "plan.json")
    assert parse_config_args([config]) == {"plan": f"/runs/{name}/plan.json"}
    asked = shlex.split(score_command(Path(name)))
    assert asked[:2] == ["proper-sim", "score"]
    assert Path(asked[2]) == Path(name)
    assert not asked[2].startswith("-")


def test_the_printed_command_names_size_and_switches(plan: RunPlan) -> None:
    command = flwr_command(plan)
    assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 " in command
    assert "FLWR_TELEMETRY_ENABLED=0 " in command
    assert "num-supernodes=2 " in command
