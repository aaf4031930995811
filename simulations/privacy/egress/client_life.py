"""A child process: one person uses `proper`, command after command, each with its own stdout and stderr.

    python -m simulations.privacy.egress.client_life LIFE.json OUTPUTS

LIFE.json holds `commands`, lists of words, and `options`, the words before each of them; `visits` names
a file of requests, if there are any, for the `serve` with a file of its token. Outputs are
`NN-command.stdout` and `.stderr`, and the answers to visits in the folder `visited`; `codes.json` holds
the exit codes. Every command starts as the installed program does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from simulations.privacy.egress import visitor

CODES, VISITED = "codes.json", "visited"
ENDING_S = 30.0  # for a visitor to end behind the server that it has ended


def name_of(number: int, words: list[str], known: Collection[str]) -> str:
    """`03-generate`: the command's place and its name; a word that is none may be a person's."""
    return f"{number:02}-{next((word for word in words if word in known), 'unknown')}"


@contextmanager
def heard(outputs: Path, name: str) -> Iterator[None]:
    """What is said within goes into two files, by descriptor, so that libraries are heard."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number, kind in ((1, "stdout"), (2, "stderr")):
            with (outputs / f"{name}.{kind}").open("wb") as file:
                os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def run(words: list[str], options: list[str], outputs: Path, name: str) -> int:
    """Run one command; its exit code."""
    from client.cli import app
    from client.terminal.command_line import start

    sys.argv = ["proper", *options, *words]
    try:
        with heard(outputs, name):
            start(app, "proper", private=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


@contextmanager
def visited(visits: str, outputs: Path, name: str) -> Iterator[None]:
    """While within, `proper serve` is visited, and ended behind the last visit."""
    answers = outputs / VISITED
    answers.mkdir()
    places = [visits, str(outputs / f"{name}.stdout"), str(answers)]
    # Apart: neither the witness nor anything else of this process's environment is loaded in it.
    command = [sys.executable, "-I", visitor.__file__, *places, str(os.getpid())]
    with subprocess.Popen(command) as child:
        try:
            yield
            child.wait(ENDING_S)
        finally:
            child.kill()


def main(given: Path, outputs: Path) -> int:
    """Run all commands, whatever their exit codes."""
    import typer

    from client.cli import app

    life, codes = json.loads(given.read_text()), {}
    known = typer.main.get_group(app).commands
    for number, words in enumerate(life["commands"]):
        name = name_of(number, words, known)
        if "visits" in life and "--token-file" in words:
            with visited(life["visits"], outputs, name):
                codes[name] = run(words, life["options"], outputs, name)
        else:
            codes[name] = run(words, life["options"], outputs, name)
    (outputs / CODES).write_text(json.dumps(codes))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
