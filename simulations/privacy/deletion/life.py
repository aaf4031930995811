"""A child process: an operator's commands, one after another, each with its own stdout and stderr.

    python -m simulations.privacy.deletion.life COMMANDS.json OUTPUTS

COMMANDS.json is a list of lists of words: `coordinator` and a line of `proper-coordinator`, or `train` and
options of `proper-sim run` as JSON, whose run is prepared and whose release is trained and signed as the
coordinator of a run does it, without the devices. The first exit code that is not 0 ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from simulations.privacy.egress.client_life import heard

PATHS = ("out", "cache", "consents")


def run(words: list[str]) -> int:
    """Run one command; its exit code."""
    program, *line = words
    if program == "coordinator":
        from coordinator.cli import run_cli

        return run_cli(line)
    from coordinator.server_app import make_release
    from proper_model.progress import silent
    from simulations.setup.options import RunOptions
    from simulations.setup.prepare import prepare

    options = json.loads(line[0])
    (one,) = RunOptions(**options | {name: Path(options[name]) for name in PATHS}).runs()
    make_release(prepare(one, silent), silent)
    return 0


def main(commands: Path, outputs: Path) -> int:
    """Run all commands."""
    for number, words in enumerate(json.loads(commands.read_text())):
        with heard(outputs, f"{commands.stem}-{number:02}-{words[0]}"):
            code = run(words)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
