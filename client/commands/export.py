"""`proper export`: an adapter for other programs, or a backup of everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.export.formats import ADAPTERS, Format, check_writable, write_format
from client.person.stores import VaultStore
from client.person.workspace import Workspace
from client.terminal.console import print_line, progress_bars, say
from client.terminal.document import gives
from client.terminal.terminal_text import json_line
from client.vault.passphrases import new_passphrase
from proper_model.errors import ConfigError, ExportError
from proper_model.tasks import ALL, Depth, counted

if TYPE_CHECKING:
    from torch import Tensor

    from client.export.request import Exported
    from client.person.state import PersonalState, Report
    from client.releases.store import InstalledBundle
    from proper_model.export import FoldReport
    from proper_model.release.contents import Release
    from proper_model.settings import BaseWeights

MEASURED_ITEMS = 64  # newest items on which what an export loses is measured
BACKUP_OPTION = "--backup-passphrase-file FILE"

Kind = Annotated[
    Format,
    typer.Option(
        "--format",
        help="One LoRA: peft (PEFT, vLLM), gguf (llama.cpp), mlx. A whole model: merged, "
        "gguf-merged. age-backup: everything, encrypted, for another machine. history: your items, as proper adapt reads them.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder (or file, for a backup or history) to write.")
]
Approximate = Annotated[
    bool,
    typer.Option(
        "--approximate",
        help="Fold routing that reads tokens at its mean over your items; says what that loses.",
    ),
]
WithBase = Annotated[
    bool,
    typer.Option(
        "--with-base",
        help="Write the base beside the LoRA as well, so that the folder needs nothing else.",
    ),
]
BackupPassphrase = Annotated[
    Path | None,
    typer.Option("--backup-passphrase-file", help="The backup's passphrase, instead of asking."),
]


@gives("export")
def export(
    context: typer.Context,
    kind: Kind,
    out: Out,
    task: o.StoredTask = None,
    approximate: Approximate = False,
    with_base: WithBase = False,
    backup_passphrase_file: BackupPassphrase = None,
) -> dict[str, Any]:
    """Write your adapter for other programs, your items, or a backup of everything.

    All but the backup are not encrypted: whoever has them has what the adapter knows of you,
    or your very items.
    """
    if with_base and kind not in ADAPTERS:
        raise ConfigError(
            f"--with-base goes with a LoRA; format {kind} needs no base beside it",
            hint=f"leave it out, or choose one of {', '.join(ADAPTERS)}",
        )
    if kind is Format.HISTORY and approximate:
        raise ConfigError(
            "--approximate goes with an adapter; a history holds items", hint="leave it out"
        )
    if kind is Format.BACKUP and (approximate or task is not None):
        raise ConfigError(
            f"{'--approximate' if approximate else '--task'} goes with one adapter; a backup holds "
            "everything, as it is",
            hint="leave it out",
        )
    if kind is not Format.BACKUP and backup_passphrase_file is not None:
        raise ConfigError(
            f"--backup-passphrase-file: format {kind} is not encrypted",
            hint="leave it out, or choose --format age-backup",
        )
    workspace = o.workspace(context)
    vault = workspace.open()
    state = VaultStore(vault).read()
    if kind is Format.BACKUP:
        export_backup(state, out, backup_passphrase_file, weak=workspace.keys.weak)
        return told(kind, out, out.stat().st_size)
    if kind is Format.HISTORY:
        export_history(state, out, task)
        return told(kind, out, out.stat().st_size)
    done = export_model(
        workspace, state, kind, out, task, approximate=approximate, with_base=with_base
    )
    return told(kind, out, done.size_bytes, done.report)


def told(
    kind: Format, out: Path, size_bytes: int, lost: FoldReport | None = None
) -> dict[str, Any]:
    """An export as its document has it."""
    return {
        "format": kind.value,
        "place": str(out),
        "size_bytes": size_bytes,
        "exact_nll": None if lost is None else lost.exact_nll,
        "folded_nll": None if lost is None else lost.folded_nll,
    }


def export_backup(
    state: PersonalState, out: Path, passphrase_file: Path | None, *, weak: bool
) -> None:
    """Everything in one age file."""
    from client.person.state import encode
    from client.vault.backup import MAX_PAYLOAD_BYTES, write_backup

    document = encode(state)
    if len(document) > MAX_PAYLOAD_BYTES:  # told before a passphrase is asked for
        raise ExportError(
            f"{o.readable_bytes(len(document))} to back up; a backup holds at most "
            f"{o.readable_bytes(MAX_PAYLOAD_BYTES)}",
            hint="copy the folder that `proper path` names instead: all that is private in it is encrypted; "
            "or adapt with fewer items: proper adapt HISTORY --max-items COUNT",
        )
    passphrase = new_passphrase(
        "A passphrase for the backup", passphrase_file, weak=weak, instead=BACKUP_OPTION
    )
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


def export_history(state: PersonalState, out: Path, task: str | None) -> None:
    """One task's items as JSONL, readable by their owner alone; `proper adapt` reads the same items again.

    Raises ExportError if something of that name is there.
    """
    from proper_model.storage.durable import create_file
    from proper_model.storage.files import storage_errors

    name, task_state = state.task_named(task)
    taken = ExportError(
        f"{out.name} exists already", hint="nothing was written; name a new file with --out"
    )
    if os.path.lexists(out):
        raise taken
    dated = ({"date": item.date} if item.date else {} for item in task_state.items)
    rows = (
        {"id": item.id, **when, **item.fields}
        for item, when in zip(task_state.items, dated, strict=True)
    )
    with storage_errors(out):
        try:
            create_file(out, (f"{json_line(row)}\n".encode() for row in rows))
        except FileExistsError:
            raise taken from None
    print_line(str(out))
    say(f"{counted(len(task_state.items), 'item')} of task {name}, oldest first")
    say(
        "warning: it is not encrypted: whoever can read this file reads your items, and proper forget does "
        "not reach it; remove it when you are done"
    )


def export_model(
    workspace: Workspace,
    state: PersonalState,
    kind: Format,
    out: Path,
    task: str | None,
    *,
    approximate: bool,
    with_base: bool = False,
) -> Exported:
    """One LoRA or a whole model, by way of a fold: stage 3, or stage 2 of whoever has no adapter.

    Raises ExportError where all that there is would be others' too.
    """
    from client.person.answering import Personal
    from proper_model.model import ALONE

    name, task_state = state.task_named(task)
    alone = not task_state.adapter
    if state.embedding is None or (alone and not _own_embedding(state)):
        raise ExportError(
            f"task {name} has neither an adapter nor an embedding of your own, so there is nothing to "
            "export",
            hint="proper adapt says from how many items on there is one; proper generate and proper "
            "serve answer without",
        )
    check_writable(kind, out)
    bundle = workspace.bundle_of(state)
    with progress_bars() as show:
        show("loading the model", 0, 0)
        release, trained_over = load_for(workspace, bundle, state, kind)
        show("folding", 0, 0)
        mine, encoder = Personal.of(release, state, name), release.encoder()
        own = mine.own_items("3")
        share = ALONE if alone else mine.share
        measured = measures(state, approximate=approximate or share != ALONE)
        newest = task_state.items[-MEASURED_ITEMS:] if measured else ()
        done = write_format(
            kind,
            out,
            release,
            with_blank_adapter(release, mine.private) if alone else mine.private,
            home=workspace.home,
            bundle=bundle,
            with_base=with_base,
            trained_over=trained_over,
            approximate=approximate,
            samples=[encoder.encode(own.history_example(item)) for item in newest],
            asked=own.task,
            share=share,
        )
    print_line(str(out))
    if alone:
        say("it is stage 2: the group's experts as your embedding mixes them; you have no adapter")
    say_depth(own.task.retrieve)
    tell(done, kind, embedded=bundle.manifest.base_reference is None, with_base=with_base)
    say_private(task_state.report)
    return done


def say_depth(depth: Depth) -> None:
    """That own items are expected before a question, where they are."""
    if depth:
        items = "your whole history" if depth == ALL else counted(depth, "own item")
        say(
            f"it expects {items} before every question; none is in it, README.md says in which form"
        )


def say_private(report: Report) -> None:
    """What a leak would give away, and what was promised about that."""
    from client.person.item_promise import promise_sentences

    promised = promise_sentences(report)
    for sentence in promised:
        say(sentence)
    leaked = "tells of your items as a whole" if promised else "is as good as leaked history"
    say(f"it is not encrypted, and a leaked adapter {leaked}: keep it private")


def measures(state: PersonalState, *, approximate: bool) -> bool:
    """Whether own items are asked what an export loses: where it is not exact.

    Raises ExportError where that would say more of the items than was promised.
    """
    if approximate and state.privacy is not None:
        raise ExportError(
            "your adapter is under privacy of single items, and this export would hold more of them: how "
            "they lean on the experts, or what folding loses on them",
            hint="over a release that folds exactly (preset 'device') leave --approximate out; proper export "
            "--format age-backup holds everything, encrypted",
        )
    return approximate


def _own_embedding(state: PersonalState) -> bool:
    """Whether the embedding says something of the person: neither the average one, nor none at all."""
    return state.embedding_report.get("embedding_source", "mean") not in ("mean", "none")


def with_blank_adapter(release: Release, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A person's private parts with an adapter that changes nothing, for a fold of stage 2."""
    from client.person.learner import Learner

    learner = Learner(release)
    return {**learner.lora_tensors(learner.model.new_user_lora([0]), 0), **own}


def tell(done: Exported, kind: Format, *, embedded: bool, with_base: bool) -> None:
    """What was written, what it loses, and what to know before using it."""
    say(f"{o.readable_bytes(done.size_bytes)}; README.md in it says how to load it")
    if done.report is not None and done.report.mixed:
        weight, temperature = done.report.share
        say(
            "it is stage 3 alone: proper mixes its probabilities with stage 2's "
            f"(weight {weight:g}, temperature {temperature:g})"
        )
    if done.report is not None:
        say(
            f"folding loses: loss a token {done.report.exact_nll:.4f} exact, "
            f"{done.report.folded_nll:.4f} folded, on {counted(done.report.items, 'item')} of yours"
        )
    if kind is Format.PEFT and with_base:
        say("adapter_config.json names this folder's place; README.md says what to do on moving it")
    elif kind in ADAPTERS and embedded and not with_base:
        say("it needs the release's own base, see README.md; --with-base writes that beside it")


def load_for(
    workspace: Workspace, bundle: InstalledBundle, state: PersonalState, kind: Format
) -> tuple[Release, BaseWeights]:
    """The release to export from, and how its base was held when the adapters were trained."""
    from proper_model.settings import BaseWeights

    release = workspace.load(bundle, base_weights=state.base_weights)
    trained_over = release.settings.base_weights
    if kind not in ADAPTERS and trained_over != BaseWeights.FULL:
        # Nothing can be merged into a packed base: its full weights are gone.
        release = workspace.load(bundle, base_weights=BaseWeights.FULL)
    return release, trained_over
