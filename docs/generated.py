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
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"<!-- generated: (?P<command>[^\n]+?) -->\n(?P<body>.*?)<!-- /generated -->", re.DOTALL
)
WIDTH = 132  # columns of the terminal whose output is shown
# All that a block may run: how its command starts, and what runs instead, in one interpreter for all.
SIMULATIONS = ("-c", "from simulations.cli import main; main()")
COMMANDS = {
    ("proper-sim", "table"): (*SIMULATIONS, "table"),
    ("proper-sim", "exp", "table"): (*SIMULATIONS, "exp", "table"),
    ("proper-sim", "privacy", "table"): (*SIMULATIONS, "privacy", "table"),
    ("proper-sim", "privacy", "report"): (*SIMULATIONS, "privacy", "report"),
    ("python", "-m", "benchmarks.table"): ("-m", "benchmarks.table"),
    ("python", "docs/json_schema.py"): ("docs/json_schema.py",),
    ("python", "-m", "benchmarks.first_minutes", "show"): (
        "-m",
        "benchmarks.first_minutes",
        "show",
    ),
}
# Reads lists of words as `python` takes them, prints what each printed; ends with the first that fails.
INTERPRETER = """
import contextlib, io, json, runpy, sys
printed = []
for how, *words in json.load(sys.stdin):
    output, code = io.StringIO(), 0
    sys.argv = ["-c", *words[1:]] if how == "-c" else words if how == "-m" else [how, *words]
    with contextlib.redirect_stdout(output):
        try:
            if how == "-c":
                exec(words[0], {"__name__": "__main__"})
            elif how == "-m":
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(how, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    if code:
        print(*words, "failed", file=sys.stderr)
        sys.exit(code)
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


def blocks(text: str) -> list[tuple[str, str]]:
    """(command, present body) of every block, in order."""
    return [(match["command"], match["body"]) for match in BLOCK.finditer(text)]


def produce(commands: Sequence[str]) -> list[str]:
    """What should stand in the block of each. Raises ValueError for a command that is not in COMMANDS."""
    arguments = [_arguments(command) for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETER],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH), "NO_COLOR": "1"},
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"a command of a generated block failed: {done.stderr.strip()}")
    return [
        _block(command, output)
        for command, output in zip(commands, json.loads(done.stdout), strict=True)
    ]


def _arguments(command: str) -> list[str]:
    words = shlex.split(command)
    start = next((known for known in COMMANDS if tuple(words[: len(known)]) == known), None)
    if start is None:
        allowed = " or ".join(f"'{' '.join(known)}'" for known in COMMANDS)
        raise ValueError(f"a generated block may only run {allowed}, got: {command}")
    return [*COMMANDS[start], *(name for word in words[len(start) :] for name in _expanded(word))]


def _block(command: str, printed: str) -> str:
    output = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return f"{output}\n" if "--markdown" in shlex.split(command) else f"```text\n{output}\n```\n"


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
    found = blocks(text)
    fresh = iter(produce([command for command, _ in found]) if found else ())
    return BLOCK.sub(
        lambda match: f"<!-- generated: {match['command']} -->\n{next(fresh)}<!-- /generated -->",
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
