"""`proper export` and `proper import`: leaving with everything, and arriving with it."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands import options as o
from client.commands.work import store
from client.console import print_line, progress_bars, say
from client.workspace import (
    Workspace,
    ask_passphrase,
    read_passphrase,
    read_state,
)
from proper_model.errors import ConfigError, ExportError, VaultForeignError
from proper_model.records import counted

if TYPE_CHECKING:
    from client.bundle_store import InstalledBundle
    from client.personal_state import PersonalState
    from proper_model.artifact import Release
    from proper_model.config import BaseWeights

MEASURED_ITEMS = 64  # newest items on which an approximate fold is measured


class Format(StrEnum):
    PEFT = "peft"
    MERGED = "merged"
    BACKUP = "age-backup"


Kind = Annotated[
    Format,
    typer.Option(
        "--format",
        help="peft: one LoRA for PeftModel and vLLM; merged: a whole model; age-backup: "
        "everything, encrypted, for another machine.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder (or file, for a backup) to write.")]
Approximate = Annotated[
    bool,
    typer.Option(
        "--approximate",
        help="Fold routing that reads tokens at its mean over your items; says what that loses.",
    ),
]
BackupPassphrase = Annotated[
    Path | None,
    typer.Option("--backup-passphrase-file", help="The backup's passphrase, instead of asking."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace what is stored here by the backup.")
]


def export(
    context: typer.Context,
    kind: Kind,
    out: Out,
    task: o.StoredTask = None,
    approximate: Approximate = False,
    backup_passphrase_file: BackupPassphrase = None,
) -> None:
    """Write your adapter for other programs, or a backup of everything.

    peft and merged are not encrypted: whoever has the file has what the adapter knows of you.
    """
    workspace = o.workspace(context)
    vault = workspace.open()
    if kind is Format.BACKUP:
        state = read_state(vault)
        export_backup(state, out, backup_passphrase_file)
        return
    state = read_state(vault)
    export_model(workspace, state, kind, out, task, approximate=approximate)


def export_backup(state: PersonalState, out: Path, passphrase_file: Path | None) -> None:
    """Everything in one age file."""
    from client.backup import MAX_PAYLOAD_BYTES, write_backup
    from client.personal_state import encode

    document = encode(state)
    if len(document) > MAX_PAYLOAD_BYTES:  # told before a passphrase is asked for
        raise ExportError(
            f"{o.readable_bytes(len(document))} to back up; a backup holds at most "
            f"{o.readable_bytes(MAX_PAYLOAD_BYTES)}",
            hint="copy the folder that `proper path` names instead: all that is private in it is encrypted; "
            "or adapt with fewer items: proper adapt HISTORY --max-items COUNT",
        )
    if passphrase_file is None:
        passphrase = ask_passphrase("A passphrase for the backup", twice=True)
    else:
        passphrase = read_passphrase(passphrase_file)
    with progress_bars() as show:
        show("encrypting the backup", 0, 0)
        write_backup(
            out,
            document,
            passphrase.text,
            bundle_id=state.bundle_id,
            created=datetime.now(UTC).replace(microsecond=0),
        )
    print_line(str(out))
    say("age opens it as well; on another machine: proper bundle add ..., then proper import FILE")


def export_model(
    workspace: Workspace,
    state: PersonalState,
    kind: Format,
    out: Path,
    task: str | None,
    *,
    approximate: bool,
) -> None:
    """One LoRA or a merged model, by way of a fold."""
    from client.export import write_merged, write_peft
    from proper_model.recipe import BaseSource

    name, task_state = state.task_named(task)
    if not task_state.adapter or state.embedding is None:
        raise ExportError(
            f"task {name} has no adapter yet",
            hint="proper adapt makes one once there are enough items",
        )
    tensors = {"embedding": state.embedding, **task_state.adapter}
    bundle = workspace.bundle_of(state)
    with progress_bars() as show:
        show("loading the model", 0, 0)
        release, trained_over = load_for(workspace, bundle, state, kind)
        show("folding", 0, 0)
        encoder, chosen = release.encoder(), task_state.task()
        newest = task_state.items[-MEASURED_ITEMS:] if approximate else ()
        samples = [encoder.encode(chosen.history_example(item)) for item in newest]
        reference = bundle.manifest.base_reference
        if kind is Format.PEFT:
            base = None
            if reference is not None:
                base = BaseSource(reference.hub_id, reference.revision)
            done = write_peft(
                out,
                release,
                tensors,
                bundle_id=bundle.bundle_id,
                base=base,
                approximate=approximate,
                samples=samples,
            )
        else:
            done = write_merged(
                out,
                release,
                tensors,
                bundle_id=bundle.bundle_id,
                trained_over=trained_over,
                approximate=approximate,
                samples=samples,
            )
    print_line(str(out))
    say(f"{o.readable_bytes(done.size_bytes)}; README.md in it says how to load it")
    if done.report is not None:
        say(
            f"folding loses: loss a token {done.report.exact_nll:.4f} exact, "
            f"{done.report.folded_nll:.4f} folded, on {counted(done.report.items, 'item')} of yours"
        )
    say("it is not encrypted, and a leaked adapter is as good as leaked history: keep it private")


def load_for(
    workspace: Workspace, bundle: InstalledBundle, state: PersonalState, kind: Format
) -> tuple[Release, BaseWeights]:
    """The release to export from, and how its base was held when the adapters were trained."""
    from proper_model.config import BaseWeights

    release = workspace.load(bundle, base_weights=state.base_weights)
    trained_over = release.settings.base_weights
    if kind is Format.MERGED and trained_over != BaseWeights.FULL:
        # Nothing can be merged into a packed base: its full weights are gone.
        release = workspace.load(bundle, base_weights=BaseWeights.FULL)
    return release, trained_over


def import_backup(
    context: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="A backup of proper export.")],
    backup_passphrase_file: BackupPassphrase = None,
    replace: Replace = False,
) -> None:
    """Bring a backup to this machine; it is encrypted under this machine's own key.

    A backup that this version cannot work with is refused, and what is stored here stays.
    """
    from client.backup import open_backup
    from client.bundle_store import stored
    from client.personal_state import decode
    from client.state_check import check_fits, check_state

    workspace = o.workspace(context)
    bundle = workspace.installed()
    if workspace.has_vault and not replace:
        raise ConfigError(
            "something is stored here already",
            hint="--replace puts the backup in its place, as a new generation; export it first",
        )
    if backup_passphrase_file is None:
        passphrase = ask_passphrase("The backup's passphrase")
    else:
        passphrase = read_passphrase(backup_passphrase_file)
    with progress_bars() as show:
        show("opening the backup", 0, 0)
        content = open_backup(backup, passphrase.text)
    state = decode(content.document)
    check_state(state)
    own = stored(workspace.home.path, state.bundle_id)
    if own is not None:
        check_fits(state, own.manifest)
    items = sum(len(task.items) for task in state.tasks.values())
    with workspace.changing() as vault:
        store(
            vault,
            state,
            what="import",
            task=", ".join(sorted(state.tasks)),
            items=items,
        )
    print_line(f"Imported {counted(len(state.tasks), 'task')} with {counted(items, 'item')}.")
    with suppress(VaultForeignError):
        workspace.bundle_of(state)  # says so if it is an older one
        return
    say(
        f"it was made over release {state.bundle_version} ({state.bundle_id[:16]}), which is not "
        f"here; installed is {bundle.version} ({bundle.bundle_id[:16]}): run proper rebase"
    )
