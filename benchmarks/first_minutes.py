"""`python -m benchmarks.first_minutes`: the first minutes of a newcomer, command by command, as a transcript.

`measure` takes a fresh clone of the checkout and an empty home, and runs every command of MINUTES there with
no hub within reach: a clone, an installation, a base, a release of one's own, an adapter, answers before and
after, an evaluation. `show` prints what a JSON of it holds, as the README does. `tests/test_first_minutes.py`
runs the same commands, without the installation.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import mark_of, ready_file, start
from benchmarks.results.schema import FIRST, Line, Transcript, read_transcript
from client.terminal.console import print_line, say
from proper_model.errors import SimulationError, UnfitError
from proper_model.storage.files import write_atomic
from simulations.outcome.environment import SOURCE, commit, hardware

SETUP = ("make install", "source .venv/bin/activate", "make base")
MINUTES = (
    "proper new-task define.toml --name define --item 'Define {word}: {definition}' --answer text",
    "proper start --base bases/SmolLM2-135M-Instruct --task define.toml",
    "proper adapt examples/bierce.jsonl",
    "proper generate coffee --stage 1",
    "proper generate coffee",
    "proper generate computer --stage 1",
    "proper generate computer",
    "proper evaluate",
)
"""What a newcomer types, in the checkout, with `.venv/bin` on the path."""

PASSPHRASE = "unhurried walnut ferry bishop\n"
CLOSED = {
    "HF_HUB_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing answers there
    "TOKENIZERS_PARALLELISM": "false",
    "NO_COLOR": "1",
    "COLUMNS": "110",
}
# A count of steps, of which a log gets one twice a minute.
COUNTED = re.compile(r"^proper: [^:]+ \d+(?:/\d+)?(?:, .*)?$")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run_lines(
    commands: Sequence[str], checkout: Path, environment: Mapping[str, str]
) -> list[Line]:
    """Run commands one after the other in `checkout`. Raises SimulationError for the first that fails."""
    lines = []
    for command in commands:
        say(command)
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=checkout,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        said = [line.rstrip() for line in done.stdout.splitlines()]
        if done.returncode:
            raise SimulationError(
                f"'{command}' ended with exit code {done.returncode}: {' / '.join(said[-4:])}",
                hint=f"nothing is written; run it by hand in a clone to see all of it: {command}",
            )
        kept = said[-1:] if command.startswith("make ") else said
        kept = [line for line in kept if line and COUNTED.match(line) is None]
        lines.append(Line(command=command, seconds=round(seconds, 1), said=tuple(kept)))
    return lines


def closed_environment(checkout: Path, home: Path) -> dict[str, str]:
    """Variables of a shell with the checkout's programs, an empty home, and no hub.

    What pip is set to stays, because an index is needed for the installation and the base.
    """
    passphrase = home / "passphrase"
    passphrase.parent.mkdir(parents=True, exist_ok=True)
    passphrase.touch(mode=0o600)
    passphrase.write_text(PASSPHRASE)
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return {
        **kept,
        **CLOSED,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PATH": f"{checkout / '.venv/bin'}:{os.environ['PATH']}",
        "PROPER_HOME": str(home / "proper"),
        "PROPER_PASSPHRASE_FILE": str(passphrase),
    }


def written(transcript: Transcript) -> str:
    """As a terminal showed it: prompts, answers, and what each command took."""
    shown = []
    for line in transcript.lines:
        shown += [f"$ {line.command}", *line.said, f"  ({_told(line.seconds)})"]
    total = sum(line.seconds for line in transcript.lines)
    machine = transcript.hardware
    shown.append(f"# {_told(total)} in all; {machine.cpu}, {machine.cores} cores, no GPU")
    return "\n".join(shown)


def _told(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@app.command()
def measure(
    out: Annotated[Path, typer.Option("--out", help="The JSON to write.")],
) -> None:
    """Clone, install and run everything; minutes."""
    ready_file(out, mark_of(FIRST))
    if not (SOURCE / ".git").exists() or not shutil.which("git"):
        raise UnfitError(
            f"{SOURCE}: no git checkout that could be cloned, or no git to do so",
            hint="run it in a clone of the repository",
        )
    with tempfile.TemporaryDirectory(prefix="first-minutes-") as folder:
        checkout = Path(folder) / "PROPER"
        clone = f"git clone -q {shlex.quote(str(SOURCE))} {checkout.name}"
        run_lines([clone], checkout.parent, os.environ)
        environment = closed_environment(checkout, Path(folder) / "home")
        lines = run_lines((*SETUP, *MINUTES), checkout, environment)
        made = Transcript(hardware=hardware(), commit=commit(checkout), lines=tuple(lines))
    write_atomic(out, (made.model_dump_json(indent=1) + "\n").encode())
    print_line(str(out))


@app.command()
def show(
    source: Annotated[Path, typer.Argument(help="What `measure` wrote.")],
) -> None:
    """Print the transcript."""
    print_line(written(read_transcript(source)))


if __name__ == "__main__":
    start(app)
