"""Generated blocks: every table of numbers in the README and in docs/ is printed by a command,
`proper-sim table` for results and one of `benchmarks` for measurements.

A block stands between two HTML comments:

    <!-- generated: proper-sim table results/demo.json --markdown -->
    ...
    <!-- /generated -->

`--write FILE...` runs each block's command from the repository's root and replaces what is between
the comments; `tests/test_readme.py` does the same and compares. Without `--markdown` the output
is a terminal's and goes into a fenced block.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"<!-- generated: (?P<command>[^\n]+?) -->\n(?P<body>.*?)<!-- /generated -->", re.DOTALL
)
WIDTH = 132  # columns of the terminal whose output is shown
# All that a block may run: how its command starts, and what this interpreter is given instead.
COMMANDS = {
    ("proper-sim", "table"): ("-c", "from simulations.cli import main; main()", "table"),
    ("proper-sim", "exp", "table"): (
        "-c",
        "from simulations.cli import main; main()",
        "exp",
        "table",
    ),
    ("proper-sim", "privacy", "table"): (
        "-c",
        "from simulations.cli import main; main()",
        "privacy",
        "table",
    ),
    ("proper-sim", "privacy", "report"): (
        "-c",
        "from simulations.cli import main; main()",
        "privacy",
        "report",
    ),
    ("python", "-m", "benchmarks.table"): ("-m", "benchmarks.table"),
    ("python", "docs/json_schema.py"): ("docs/json_schema.py",),
    ("python", "-m", "benchmarks.first_minutes", "show"): (
        "-m",
        "benchmarks.first_minutes",
        "show",
    ),
}


def blocks(text: str) -> list[tuple[str, str]]:
    """(command, present body) of every block, in order."""
    return [(match["command"], match["body"]) for match in BLOCK.finditer(text)]


def produce(command: str) -> str:
    """What should stand in a block. Raises ValueError for a command that is not in COMMANDS."""
    words = shlex.split(command)
    start = next((known for known in COMMANDS if tuple(words[: len(known)]) == known), None)
    if start is None:
        allowed = " or ".join(f"'{' '.join(known)}'" for known in COMMANDS)
        raise ValueError(f"a generated block may only run {allowed}, got: {command}")
    arguments = [name for word in words[len(start) :] for name in _expanded(word)]
    done = subprocess.run(
        [sys.executable, *COMMANDS[start], *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"{command} failed: {done.stderr.strip()}")
    output = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return f"{output}\n" if "--markdown" in words else f"```text\n{output}\n```\n"


def _expanded(word: str) -> list[str]:
    """What a shell makes of `results/news_*.json`. Raises ValueError if nothing matches."""
    if "*" not in word:
        return [word]
    names = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(word))
    if not names:
        raise ValueError(f"no file matches {word}")
    return names


def regenerate(text: str) -> str:
    """The text with every block freshly produced."""
    return BLOCK.sub(
        lambda match: (
            f"<!-- generated: {match['command']} -->\n"
            f"{produce(match['command'])}<!-- /generated -->"
        ),
        text,
    )


def main() -> None:
    """Rewrite the files named on the command line."""
    parser = argparse.ArgumentParser(description="Write generated blocks of Markdown files.")
    parser.add_argument("--write", nargs="+", type=Path, required=True, metavar="FILE")
    for path in parser.parse_args().write:
        old = path.read_text()
        new = regenerate(old)
        if count := len(blocks(new)):
            path.write_text(new)
            print(f"{path}: {count} blocks, {'changed' if new != old else 'unchanged'}")


if __name__ == "__main__":
    main()
