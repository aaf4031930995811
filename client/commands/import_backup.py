"""`proper import`: a backup of `proper export` on this machine."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.commands.export import BACKUP_OPTION, BackupPassphrase
from client.commands.training_run import store
from client.person.stores import VaultStore
from client.terminal.console import agreed, asks, print_line, progress_bars, say
from client.terminal.document import gives
from client.vault.passphrases import read_passphrase, until_right
from proper_model.errors import ConfigError, PassphraseError, VaultError, VaultForeignError
from proper_model.tasks import counted

if TYPE_CHECKING:
    from client.person.state import PersonalState
    from client.vault.backup import Backup
    from client.vault.opening import Vault
    from client.vault.secrets import Passphrase

Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace what is stored here; says what that loses, and asks."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Replace also where something is lost by it.")]


@gives("import")
def import_backup(
    context: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="A backup of proper export.")],
    backup_passphrase_file: BackupPassphrase = None,
    replace: Replace = False,
    yes: Yes = False,
) -> dict[str, Any]:
    """Bring a backup to this machine; it is encrypted under this machine's own key.

    A backup that this version cannot work with is refused, and what is stored here stays.
    """
    from client.person.replacing import item_count
    from client.person.state import decode
    from client.person.state_check import check_fits, check_state
    from client.releases.store import stored

    workspace = o.workspace(context)
    bundle = workspace.installed()
    if workspace.has_vault and not replace:
        raise ConfigError(
            "something is stored here already",
            hint="--replace puts the backup in its place, and says what that loses",
        )
    content = opened_backup(backup, backup_passphrase_file)
    state = decode(content.document)
    check_state(state)
    own = stored(workspace.home.path, state.bundle_id)
    if own is not None:
        check_fits(state, own.manifest)
    items = item_count(state)
    there = workspace.has_vault
    with workspace.changing() as vault:
        if there:
            agree_to_replace(vault, state, content.created, yes=yes)
        store(vault, state, what="import", task=", ".join(sorted(state.tasks)), items=items)
    print_line(f"Imported {counted(len(state.tasks), 'task')} with {counted(items, 'item')}.")
    told = {"tasks": sorted(state.tasks), "items": items, "release_here": True}
    with suppress(VaultForeignError):
        workspace.bundle_of(state)  # says so if it is an older one
        return told
    say(
        f"it was made over release {state.bundle_version} ({state.bundle_id[:16]}), which is not "
        f"here; installed is {bundle.version} ({bundle.bundle_id[:16]}): run proper rebase"
    )
    return told | {"release_here": False}


def opened_backup(path: Path, passphrase_file: Path | None) -> Backup:
    """A backup by the passphrase of a file, or asked for. Raises as `open_backup`."""
    from client.vault.backup import open_backup

    def opened(passphrase: Passphrase) -> Backup:
        with progress_bars() as show:
            show("opening the backup", 0, 0)
            for text in passphrase.earlier:
                with suppress(PassphraseError):
                    return open_backup(path, text)
            return open_backup(path, passphrase.text)

    if passphrase_file is None:
        return until_right("The backup's passphrase", opened, instead=BACKUP_OPTION)
    return opened(read_passphrase(passphrase_file))


def agree_to_replace(vault: Vault, state: PersonalState, created: datetime, *, yes: bool) -> None:
    """Say what is lost by a backup, and ask. Raises ConfigError, or typer.Abort for a no."""
    from client.person.replacing import losses

    kept = VaultStore(vault)
    if not kept.exists():
        return
    present: PersonalState | None = None
    try:
        present = kept.read()
    except VaultError as error:
        say(f"warning: {error.message}")
    lost = losses(present, state, created)
    for one in lost:
        say(f"warning: {one}")
    if not lost or yes:
        return
    if not asks():
        raise ConfigError(
            "replacing what is stored here would lose something; nothing was changed",
            hint="the warnings say what; --yes replaces it all the same",
        )
    if not agreed("Replace what is stored here?"):
        raise typer.Abort
