"""Writes a man page a command of the three programs: `python docs/man_pages.py dist/man`.

click-man reads the commands' own help; their examples, which it leaves out, are added.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
from click_man.core import write_man_pages
from typer.main import get_command

from client.cli import app as device
from coordinator.cli import app as coordinator
from simulations.cli import app as simulations

PROGRAMS = {"proper": device, "proper-sim": simulations, "proper-coordinator": coordinator}


def write(folder: Path) -> list[Path]:
    """All pages, in a folder that is made; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for program, app in PROGRAMS.items():
        group = get_command(app)
        named = list(commands(program, group))
        for _, command in named:
            command.short_help = first_sentence(command)
        write_man_pages(program, group, version=version("proper"), target_dir=str(folder))
        for words, command in named:
            page = folder / f"{words.replace(' ', '-')}.1"
            # typer escapes brackets for its own markup; to troff that would be a sign's name.
            text = page.read_text().replace("\\[", "[")
            page.write_text(text + examples(command.epilog or ""))
            pages.append(page)
    return pages


def commands(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, each with the words that call it."""
    yield words, command
    for name, below in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(f"{words} {name}", below)


def first_sentence(command: click.Command) -> str:
    """What a command does, in one line."""
    line = " ".join((command.help or "").split("\n\n")[0].split())
    return line.split(". ")[0].rstrip(".")


def examples(epilog: str) -> str:
    """The section of a page, each example a line as it is typed."""
    lines = [line.strip() for line in epilog.split("\n\n")[1:]]
    if not lines:
        return ""
    typed = [line.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq") for line in lines]
    return "\n".join(["", ".SH EXAMPLES", ".nf", *typed, ".fi", ""])


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} pages in {sys.argv[1]}")
