"""A child process: one person uses `proper`, command after command, each with its own stdout and stderr.

    python -m simulations.privacy.egress.client_life COMMANDS.json OUTPUTS

COMMANDS.json holds lists of words. Outputs are `NN-command.stdout` and `.stderr`; `codes.json` holds the
exit codes. Every command starts as the installed program does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CODES = "codes.json"


def name_of(number: int, words: list[str]) -> str:
    """`03-generate`: the command's place and its first word, which is never a person's."""
    return f"{number:02}-{words[0]}"


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


def main(commands: Path, outputs: Path) -> int:
    """Run all commands, whatever their exit codes."""
    life = json.loads(commands.read_text())
    codes = {}
    for number, words in enumerate(life["commands"]):
        name = name_of(number, words)
        codes[name] = run(words, life["options"], outputs, name)
    (outputs / CODES).write_text(json.dumps(codes))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
