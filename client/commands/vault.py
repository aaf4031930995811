"""`proper status`, `path`, `lock`, `passwd` and `rollback`: the vault itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.commands.training_run import discard
from client.person.workspace import say_warning
from client.terminal.console import print_line, print_table, say
from client.terminal.document import gives
from client.terminal.tables import Table
from client.vault.passphrases import new_passphrase
from proper_model.errors import ConfigError, NotAdaptedError, ProperError
from proper_model.tasks import counted

if TYPE_CHECKING:
    from client.vault.opening import Vault

# Shown for the states of content that `damage.judge` names.
CONTENT = {
    "none": "-",
    "whole": "whole",
    "unchecked": "not checked; with --passphrase-file or --key-file it is",
    "older": "the newest generation is damaged; the one before is used",
    "damaged": "damaged; nothing can be read",
}
NewPassphrase = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="The new passphrase, instead of asking."),
]
AddKeyFile = Annotated[
    Path | None,
    typer.Option("--add-key-file", help="Make a new key file there that opens the vault too."),
]
AddKeyring = Annotated[
    bool, typer.Option("--add-keyring", help="Let this desktop's keyring open the vault.")
]
RemoveSlot = Annotated[
    str | None, typer.Option("--remove", metavar="SLOT", help="A slot of `proper status`.")
]
Rotate = Annotated[
    bool,
    typer.Option("--rotate", help="A new master key under the new passphrase, and no other key."),
]


@gives("status")
def status(context: typer.Context, as_json: o.AsJson = False) -> dict[str, Any]:
    """Say what is stored. No key is asked for; where an option names one, the content is checked too."""
    from client.releases.installed_list import warnings_of
    from client.releases.store import installed
    from client.vault.damage import judge, look_at
    from client.vault.opening import vault_exists

    workspace = o.workspace(context)
    bundle = installed(workspace.home.path)
    shown = look_at(workspace.home) if vault_exists(workspace.home.vault) else None
    content, warnings = judge(workspace.home.vault, shown, workspace.keys.given)
    slots = () if shown is None else shown.slots
    found: dict[str, Any] = {
        "folder": str(workspace.home.path.absolute()),
        "generations": 0 if shown is None else len(shown.generations),
        "bytes": 0 if shown is None else shown.size_bytes,
        "content": content,
        "warnings": warnings,
        "interrupted": shown is not None and shown.working > 0,
        "leftovers": 0 if shown is None else shown.leftovers,
        "slots": _slots(slots),
        "release_version": None if bundle is None else bundle.version,
        "bundle_id": None if bundle is None else bundle.bundle_id,
    }
    for warning in warnings:
        say_warning(warning)
    if as_json:
        return found
    rows = [
        ("folder", found["folder"]),
        (
            "release",
            "none: proper bundle add PATH_OR_URL"
            if bundle is None
            else f"{bundle.version} ({bundle.bundle_id[:16]})",
        ),
        ("adapter", _kept(found)),
        ("content", CONTENT[content]),
        ("opens with", ", ".join(f"{kind} (slot {name})" for name, kind in slots) or "-"),
        (
            "interrupted work",
            "yes: the same command with --resume" if found["interrupted"] else "no",
        ),
    ]
    if shown is not None and shown.leftovers:
        files = counted(shown.leftovers, "file")
        told = f"{files}, by a command at work or a killed one; the next removes those"
        rows.append(("left half written", told))
    print_table(Table("proper", ("", ""), tuple(rows), labels=2))
    for warning in warnings_of(workspace.home, bundle) if bundle is not None else ():
        say(f"warning: {warning}")
    return found


def _kept(found: dict[str, Any]) -> str:
    if not found["generations"]:
        if found["content"] == "damaged":
            return "its files are there, and no key"
        return "none yet: proper adapt HISTORY"
    return f"{counted(found['generations'], 'generation')}, {o.readable_bytes(found['bytes'])}, encrypted"


@gives("path")
def path(context: typer.Context) -> dict[str, Any]:
    """Print the folder in which everything is kept."""
    folder = str(o.workspace(context).home.path)
    print_line(folder)
    return {"folder": folder}


@gives("lock")
def lock(context: typer.Context) -> dict[str, Any]:
    """Take the vault's key out of the desktop's keyring: from now on the passphrase is needed.

    Nothing else on this machine remembers a key: without a keyring the vault is always locked.
    """
    from client.vault.opening import open_vault, slot_kinds
    from client.vault.secrets import KeyringEntry

    workspace = o.workspace(context)
    if not workspace.has_vault:
        raise NotAdaptedError("nothing private is stored here yet", hint="there is nothing to lock")
    with workspace.home.working():
        slots = slot_kinds(workspace.home.vault)
        if any(kind == "keyring" for _, kind in slots):
            vault = open_vault(workspace.home.vault, KeyringEntry())
            vault.settle()  # an unfinished change of the master key leaves other slots
            _remove_keyring_slots(vault)
            slots = vault.slot_kinds()
            for warning in vault.warnings:
                say(f"warning: {warning}")
    print_line("The vault is locked: it opens with your " + _kinds(slots) + " only.")
    return {"slots": _slots(slots)}


def _remove_keyring_slots(vault: Vault) -> None:
    slots = vault.slot_kinds()
    rings = [name for name, kind in slots if kind == "keyring"]
    if len(rings) == len(slots):
        raise ConfigError(
            "the keyring alone opens this vault, so locking it would lose it",
            hint="first add another key: proper passwd, or proper passwd --add-key-file FILE",
        )
    for name in rings:
        vault.remove_slot(name)


def _slots(slots: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"slot": name, "kind": kind} for name, kind in slots]


def _kinds(slots: list[tuple[str, str]]) -> str:
    return " or ".join(sorted({kind.replace("-", " ") for _, kind in slots}))


@gives("passwd")
def passwd(
    context: typer.Context,
    new_passphrase_file: NewPassphrase = None,
    add_key_file: AddKeyFile = None,
    add_keyring: AddKeyring = False,
    remove: RemoveSlot = None,
    rotate: Rotate = False,
) -> dict[str, Any]:
    """Change the passphrase, or add and remove other keys. The adapter's files stay as they are.

    A copy of the folder from before still opens with the old passphrase; --rotate makes a new
    master key, for when one has leaked.
    """
    from client.vault.secrets import KeyringEntry

    asked = [add_key_file is not None, add_keyring, remove is not None]
    if sum(asked) + (rotate or new_passphrase_file is not None) > 1:
        raise ConfigError("one change at a time: a key to add, a slot to remove, or a passphrase")
    workspace = o.workspace(context)
    with workspace.changing(create=False) as vault:
        changed = "passphrase"
        if add_key_file is not None:
            changed = "key-file"
            _add_key_file(vault, add_key_file)
            print_line(f"{add_key_file} opens the vault now; keep it apart from this machine.")
        elif add_keyring:
            changed = "keyring"
            vault.add_slot(KeyringEntry())
            print_line(
                "This desktop's keyring opens the vault now; proper lock takes it out again."
            )
        elif remove is not None:
            changed = "removed"
            vault.remove_slot(remove)
            print_line(f"Slot {remove} opens the vault no longer.")
        else:
            weak = workspace.keys.weak
            new = new_passphrase(
                "The new passphrase",
                new_passphrase_file,
                weak=weak,
                instead="--new-passphrase-file FILE",
            )
            if rotate:
                changed = "master-key"
                discard(vault)  # sealed under the old key
                vault.rotate([new])
                print_line("The vault has a new master key, which this passphrase alone opens.")
            else:
                vault.change_passphrase(new)
                print_line("The passphrase is changed.")
        return {"changed": changed, "slots": _slots(vault.slot_kinds())}


def _add_key_file(vault: Vault, path: Path) -> None:
    """A new key file and its slot, or neither."""
    from client.vault.secrets import make_key_file

    vault.settle()  # before the file is made: it may fail
    before = vault.slot_kinds()
    made = make_key_file(path)
    try:
        vault.add_slot(made)
    except ProperError:
        # A failure may come after the slot is there; then the file opens the vault.
        if vault.slot_kinds() == before:
            with suppress(OSError):  # the error that led here is the one to tell
                path.unlink()
        raise


@gives("rollback")
def rollback(context: typer.Context) -> dict[str, Any]:
    """Go back to the generation before; what is current now becomes the one before."""
    from client.person.state import decode

    workspace = o.workspace(context)
    with workspace.changing(create=False) as vault:
        before = vault.read_previous()
        if before is None:
            raise NotAdaptedError("there is no generation before this one", hint="nothing changed")
        generation = vault.roll_back()
        state = decode(before.payload)
    items = sum(len(task.items) for task in state.tasks.values())
    print_line(f"Back to the state before, with {items} items, as generation {generation}.")
    return {"items": items, "generation": generation}
