"""Examples at the end of the help of every command of `proper-coordinator`; a test parses each."""

from __future__ import annotations

import typer

EXAMPLES: dict[str, tuple[str, ...]] = {
    "keys make-release": ("keys make-release release.pem --encrypt",),
    "keys make-holder": ("keys make-holder ada.pem",),
    "keys show": ("keys show ada.pem.pub",),
    "keys make-root": ("keys make-root releases --threshold 1 --release-key release.pem.pub",),
    "root show": ("root show releases",),
    "root rotate": ("root rotate releases --key ada.pem",),
    "root revoke": ("root revoke releases STOLENID --replace fresh.pem.pub --key ada.pem",),
    "root sign": ("root sign releases --key ben.pem",),
    "release publish": (
        "release publish runs/spring/server/release releases --key release.pem",
        "release publish runs/spring/server/release releases --key release.pem --consents consents.json",
    ),
    "release sign-latest": ("release sign-latest releases --key latest.pem",),
    "consent record": ("consent record consents.json --people agreed.txt",),
    "consent withdraw": ("consent withdraw consents.json --people gone.txt",),
    "consent list": ("consent list consents.json",),
    "consent erase": ("consent erase consents.json",),
}


def add_examples(name: str, group: typer.Typer, program: str) -> None:
    """End the help of a group's commands with examples; empty lines keep lines apart."""
    for command in group.registered_commands:
        called = command.name or (command.callback.__name__ if command.callback else "")
        lines = EXAMPLES.get(f"{name} {called.replace('_', '-')}", ())
        title = "Examples:" if len(lines) > 1 else "Example:"
        command.epilog = "\n\n".join([title, *(f"{program} {line}" for line in lines)])
