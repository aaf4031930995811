"""A child process: an operator's commands, one after another, each with its own stdout and stderr.

    python -m simulations.privacy.deletion.life COMMANDS.json OUTPUTS

COMMANDS.json is a list of lists of words: `sim` and a line of `proper-sim`, `coordinator` and a line of
`proper-coordinator`, or `train` and a prepared run's folder, whose release is trained and signed as
the coordinator of a run does it, without the devices. The first exit code that is not 0 ends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from simulations.privacy.egress.client_life import heard


def run(words: list[str]) -> int:
    """Run one command; its exit code."""
    program, *line = words
    if program == "coordinator":
        from coordinator.cli import run_cli as coordinate

        return coordinate(line)
    if program == "sim":
        from simulations.cli import run_cli as simulate

        return simulate(line)
    from coordinator.server_app import make_release
    from proper_model.federation.run_plan import PLAN_FILE, RunPlan

    make_release(RunPlan.load(Path(line[0]) / PLAN_FILE), lambda *_: None)
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
