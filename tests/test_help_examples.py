"""The examples at the end of every help text: each command has some, and each can be parsed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from typer.main import get_command

from client.cli import app as device_app
from client.cli import run_cli as device_cli
from client.commands.examples import EXAMPLES as DEVICE
from client.terminal.session import Session
from coordinator.cli import app as coordinator_app
from coordinator.cli import run_cli as coordinator_cli
from coordinator.commands.document import Session as CoordinatorSession
from coordinator.commands.examples import EXAMPLES as COORDINATOR
from simulations.cli import app as simulation_app
from simulations.cli import run_cli as simulation_cli
from simulations.setup.examples import EXAMPLES as SIMULATION
from simulations.synthetic.people import make_synthetic

PROGRAMS = {
    "proper": (device_app, DEVICE, device_cli),
    "proper-sim": (simulation_app, SIMULATION, simulation_cli),
    "proper-coordinator": (coordinator_app, COORDINATOR, coordinator_cli),
}
MOST = 3


def commands(at: click.Command, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something by itself, and its words."""
    group = isinstance(at, click.Group)
    if words and (not group or at.invoke_without_command):
        yield words, at
    for name, below in at.commands.items() if isinstance(at, click.Group) else ():
        yield from commands(below, f"{words} {name}".strip())


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_ends_with_one_to_three_examples(program: str) -> None:
    app, examples, _ = PROGRAMS[program]
    found = dict(commands(get_command(app)))
    assert set(examples) == set(found)
    for words, command in found.items():
        shown = [line.strip() for line in (command.epilog or "").split("\n\n")[1:]]
        assert shown == [f"{program} {example}" for example in examples[words]], words
        assert 1 <= len(shown) <= MOST


def parsed(program: str, example: str) -> list[str]:
    """The words of the commands whose functions an example would call."""
    called: list[str] = []
    group = get_command(PROGRAMS[program][0])

    def probe(words: str) -> Any:
        return lambda **_: called.append(words)

    for words, command in commands(group):
        command.callback = probe(words)
    session: Any = CoordinatorSession() if program == "proper-coordinator" else Session()
    group.main(shlex.split(example), program, standalone_mode=False, obj=session)
    return called


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_example_can_be_parsed(program: str) -> None:
    for words, examples in PROGRAMS[program][1].items():
        for example in examples:
            assert parsed(program, example)[-1] == words, example


@pytest.mark.parametrize(
    "planted", ["adapt", "adapt x --no-such", "generate x --max-tokens many", "brew"]
)
def test_an_example_that_rots_is_found(planted: str) -> None:
    with pytest.raises(click.UsageError):
        parsed("proper", planted)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("proper", ["adapt"]),
        ("proper", ["config", "set"]),
        ("proper-sim", ["exp", "drift"]),
        ("proper-coordinator", ["keys", "show"]),
    ],
)
def test_help_shows_them(program: str, words: list[str], capsys: Any) -> None:
    _, examples, run = PROGRAMS[program]
    assert run([*words, "--help"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for example in examples[" ".join(words)]:
        assert f"{program} {example}"[:76].strip() in [line[:76].strip() for line in lines]


@pytest.mark.parametrize("page", ["README.md", "docs/device.md", "client/commands/examples.py"])
def test_questions_to_the_demo_are_in_words_that_its_base_knows(page: str) -> None:
    """An unknown word would be warned of in the first minutes."""
    known = set(make_synthetic("synth_tag", preset="demo").vocabulary)
    text = (Path(__file__).resolve().parents[1] / page).read_text(encoding="utf-8")
    asked = re.findall(r"generate (?:--stage \d )?[\"'](a shy [^\"']+)[\"']", text)
    assert asked
    assert not {word for question in asked for word in question.split()} - known
