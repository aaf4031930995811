"""`proper-coordinator keys`: make signing keys, and with them the first root."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from coordinator.commands import options as o
from coordinator.commands.document import gives
from coordinator.commands.root import root_facts, tell_root
from coordinator.keys import (
    PUBLIC_SUFFIX,
    create_pair,
    load_key,
    load_public,
    public_file,
    write_public,
)
from coordinator.publish import open_to_readers
from coordinator.root_ceremony import ROOT_DAYS, create_root
from proper_model.bundle.folder_names import ROOT_NAME
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.trusted_root import DEFAULT_CHANNEL, LATEST, RELEASE, ROOT
from proper_model.errors import ConfigError

app = typer.Typer(help="Make signing keys, and the first root.")


@app.command("make-release")
@gives("keys make-release")
def make_release(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the key goes.")],
    encrypt: Annotated[bool, typer.Option("--encrypt", help="With a passphrase.")] = False,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Make a key that signs releases or latest.json; FILE.pub is its public half."""
    return _make(file, passphrase_file, encrypt=encrypt)


@app.command("make-holder")
@gives("keys make-holder")
def make_holder(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the key goes.")],
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Make one root key, encrypted, on the machine of the person who will keep it."""
    return _make(file, passphrase_file, encrypt=True)


@app.command()
@gives("keys show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A key, or its public half.")],
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Print the id of a key; its public half is written again where it is missing."""
    if file.suffix == PUBLIC_SUFFIX:
        name = key_id(public_bytes(load_public(file)))
    else:
        key = load_key(file, o.asking(passphrase_file))
        if not public_file(file).exists():
            write_public(file, key)
        name = key_id(public_bytes(key))
    o.tell(name)
    return {"key_id": name}


@app.command("make-root")
@gives("keys make-root")
def make_root(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="For root.json, and later for releases.")
    ],
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, help="Root keys that must sign the next root.")
    ],
    release_key: Annotated[
        list[Path], typer.Option("--release-key", help="Public half of a release key.")
    ],
    root_key: Annotated[
        o.Publics,
        typer.Option("--root-key", help="Public half of a root key that somebody else made."),
    ] = None,
    make: Annotated[
        int, typer.Option("--make", min=0, help="Make so many root keys here, encrypted.")
    ] = 0,
    keys_folder: Annotated[
        Path | None, typer.Option("--keys-folder", help="Where keys made here go.")
    ] = None,
    latest_key: Annotated[
        o.Publics,
        typer.Option(
            "--latest-key",
            help="Public half of a key for latest.json, which says which release is the newest; "
            "without it the release keys sign that too.",
        ),
    ] = None,
    release_threshold: Annotated[
        int, typer.Option("--release-threshold", min=1, help="Release keys that must sign.")
    ] = 1,
    days: Annotated[int, typer.Option("--days", help="The root is valid for so long.")] = ROOT_DAYS,
    channel: Annotated[
        str, typer.Option("--channel", help="Name of the population.")
    ] = DEFAULT_CHANNEL,
    passphrase_file: o.PassphraseFile = None,
) -> dict[str, Any]:
    """Write the first root.json of a population, which devices get by another way than releases."""
    _check_without_root(folder)
    release_keys = [load_public(path) for path in release_key]
    latest_keys = [load_public(path) for path in latest_key or ()] or release_keys
    root_keys = [load_public(path) for path in root_key or ()]
    if threshold > len(root_keys) + make:
        raise ConfigError(
            f"--threshold {threshold}: only {len(root_keys) + make} root keys",
            hint="name others with --root-key, or make them with --make",
        )
    made = _make_holders(keys_folder, make, passphrase_file)
    root_keys += made.values()
    roles = {
        ROOT: (root_keys, threshold),
        RELEASE: (release_keys, release_threshold),
        LATEST: (latest_keys, 1 if latest_key else release_threshold),
    }
    root = create_root(folder, roles, now=o.now(), days=days, channel=channel)
    open_to_readers(folder)
    tell_root(root)
    return {"folder": str(folder), "root": root_facts(root), "made": list(map(str, made))}


def _check_without_root(folder: Path) -> None:
    if (folder / ROOT_NAME).exists():
        raise ConfigError(
            f"{folder}: has a {ROOT_NAME} already",
            hint="change it with: proper-coordinator root rotate",
        )


def _make_holders(
    folder: Path | None, count: int, passphrase_file: Path | None
) -> dict[Path, Ed25519PublicKey]:
    """Files of so many new root keys in `folder`, and their public halves."""
    if count and folder is None:
        raise ConfigError(
            "--make: needs --keys-folder",
            hint="a medium that you take off this machine; never the folder with the releases",
        )
    made = {}
    for path in (folder / f"root-key-{n}.pem" for n in range(1, count + 1)) if folder else ():
        made[path] = create_pair(path, o.new_passphrase(path, passphrase_file)).public_key()
        o.say(f"root key {path}; take it off this machine")
    return made


def _make(file: Path, passphrase_file: Path | None, *, encrypt: bool) -> dict[str, Any]:
    passphrase = o.new_passphrase(file, passphrase_file) if encrypt else None
    name = key_id(public_bytes(create_pair(file, passphrase)))
    o.tell(name)
    o.say(f"hand on {public_file(file)}; keep {file} to yourself")
    return {
        "key_id": name,
        "file": str(file),
        "public_file": str(public_file(file)),
        "encrypted": encrypt,
    }
