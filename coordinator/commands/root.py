"""`proper-coordinator root`: show the root, change it, take stolen keys away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from coordinator.commands import options as o
from coordinator.commands.document import gives
from coordinator.keys import load_public
from coordinator.publish import open_to_readers
from coordinator.root_ceremony import (
    NEXT_NAME,
    ROOT_DAYS,
    RoleChange,
    Signing,
    find_key,
    propose,
    read_root,
    sign_next,
    withdraw,
)
from proper_model.bundle.signed_time import format_time
from proper_model.bundle.trusted_root import LATEST, RELEASE, ROLES, ROOT, ROOT_FORMAT, TrustedRoot
from proper_model.errors import ConfigError

app = typer.Typer(help="Show, change and sign the root.")

Names = list[str] | None
Days = Annotated[int, typer.Option("--days", help="The next root is valid for so long.")]
OptionalKeys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="A root key to sign with, now; others may follow."),
]


@app.command()
@gives("root show")
def show(folder: o.Folder) -> dict[str, Any]:
    """List roles, keys and dates of a folder's root, and the fingerprint that people compare."""
    root, waiting = read_root(folder), None
    tell_root(root)
    if (folder / NEXT_NAME).exists():
        o.tell("waiting for signatures:")
        waiting = read_root(folder, NEXT_NAME)
        tell_root(waiting)
    return {
        "root": root_facts(root),
        "waiting": None if waiting is None else root_facts(waiting),
    }


@app.command("rotate")
@gives("root rotate")
def rotate_(
    folder: o.Folder,
    add_root: Annotated[o.Publics, typer.Option("--add-root", help="Public half.")] = None,
    remove_root: Annotated[Names, typer.Option("--remove-root", help="Key id.")] = None,
    root_threshold: Annotated[int | None, typer.Option("--root-threshold", min=1)] = None,
    add_release: Annotated[o.Publics, typer.Option("--add-release", help="Public half.")] = None,
    remove_release: Annotated[Names, typer.Option("--remove-release", help="Key id.")] = None,
    release_threshold: Annotated[int | None, typer.Option("--release-threshold", min=1)] = None,
    add_latest: Annotated[o.Publics, typer.Option("--add-latest", help="Public half.")] = None,
    remove_latest: Annotated[Names, typer.Option("--remove-latest", help="Key id.")] = None,
    latest_threshold: Annotated[int | None, typer.Option("--latest-threshold", min=1)] = None,
    days: Days = ROOT_DAYS,
    key: OptionalKeys = None,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Make the next root, with other keys or thresholds, or only a later date; sign what you can."""
    root = read_root(folder)
    changes = {
        name: RoleChange(
            tuple(load_public(path) for path in add or ()),
            frozenset(find_key(root, word) for word in remove or ()),
            threshold,
        )
        for name, add, remove, threshold in (
            (ROOT, add_root, remove_root, root_threshold),
            (RELEASE, add_release, remove_release, release_threshold),
            (LATEST, add_latest, remove_latest, latest_threshold),
        )
    }
    return _propose(folder, changes, days, key, passphrase_file)


@app.command()
@gives("root revoke")
def revoke(
    folder: o.Folder,
    name: Annotated[
        list[str], typer.Argument(metavar="KEY...", help="Ids of stolen or lost keys; 8 digits do.")
    ],
    replace: Annotated[
        o.Publics, typer.Option("--replace", help="Public half of a key that takes their place.")
    ] = None,
    days: Days = ROOT_DAYS,
    key: OptionalKeys = None,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Take keys out of every role they have; what they alone had signed is no longer believed."""
    root = read_root(folder)
    gone = {find_key(root, word) for word in name}
    new = tuple(load_public(path) for path in replace or ())
    changes = {
        role: RoleChange(new, frozenset(gone & set(listed.keys)))
        for role, listed in root.roles.items()
        if gone & set(listed.keys)
    }
    if new and ROOT in changes and len(changes) > 1 and root.format >= ROOT_FORMAT:
        raise ConfigError(
            "--replace: root keys and release keys cannot be replaced by the same key",
            hint="revoke them one after the other, or use: proper-coordinator root rotate",
        )
    return _propose(folder, changes, days, key, passphrase_file)


@app.command()
@gives("root sign")
def sign(
    folder: o.Folder,
    key: OptionalKeys = None,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Add signatures to the next root; with enough of them it takes effect."""
    return _told(folder, sign_next(folder, o.load_keys(key or (), passphrase_file)))


def tell_root(root: TrustedRoot) -> None:
    """A root for people."""
    expires = "never (format 1)" if root.expires is None else format_time(root.expires)
    o.tell(f"root {root.version} of channel {root.channel}, expires {expires}")
    for name in ROLES:
        role = root.roles[name]
        o.tell(f"  {name}: {role.threshold} of {len(role.keys)} keys must sign")
        for key in role.keys:
            o.tell(f"    {key}")
    o.tell(f"  fingerprint {root.fingerprint}")


def root_facts(root: TrustedRoot) -> dict[str, Any]:
    """A root for programs."""
    roles = {name: root.roles[name] for name in ROLES}
    return {
        "version": root.version,
        "channel": root.channel,
        "expires": None if root.expires is None else format_time(root.expires),
        "fingerprint": root.fingerprint,
        "roles": {
            name: {"threshold": role.threshold, "keys": list(role.keys)}
            for name, role in roles.items()
        },
    }


def _propose(
    folder: Path,
    changes: dict[str, RoleChange],
    days: int,
    keys: Sequence[Path] | None,
    passphrase_file: Path | None,
) -> dict[str, Any]:
    loaded = o.load_keys(keys or (), passphrase_file)  # a wrong passphrase is told before a file is
    propose(folder, changes, now=o.now(), days=days)
    try:
        progress = sign_next(folder, loaded)
    except ConfigError:  # a key that has no say; the proposal must not be in the way of the next
        withdraw(folder)
        raise
    return _told(folder, progress)


def _told(folder: Path, progress: Signing) -> dict[str, Any]:
    tell_root(progress.root)
    if progress.done:
        open_to_readers(folder)
        o.say("the new root is in its place; publish the folder")
    else:
        o.tell(
            f"root {progress.root.version} waits: {progress.missing_current} more of the present root "
            f"keys and {progress.missing_next} more of the next ones must sign"
        )
        o.say(
            f"the next holder signs with: proper-coordinator root sign {quote(str(folder))} --key FILE"
        )
    return {
        "root": root_facts(progress.root),
        "done": progress.done,
        "missing_current": progress.missing_current,
        "missing_next": progress.missing_next,
    }
