"""`proper-coordinator consent`: who agreed to be pooled, who withdrew, and what is left of whom.

Ids come from a file or stdin, one a line, so that they stand in no process list and no shell history;
messages count people, or name a line by its number.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from coordinator.commands import options as o
from coordinator.commands.document import AsJson, gives, session_of
from coordinator.consents import Training, changing, read_consents
from coordinator.erasing import Moved, Remains, check_moved, erase_remains, remains_of
from proper_model.bundle.signed_time import format_time
from proper_model.errors import ConfigError, StorageError
from proper_model.storage.files import read_regular, storage_errors
from proper_model.tasks import counted

MAX_IDS_BYTES = 64 << 20
HEADER = ("id", "given", "withdrawn", "for releases", "in releases")
app = typer.Typer(help="Record who agreed to be pooled, and who withdrew.")

File = Annotated[Path, typer.Argument(metavar="CONSENTS", help="The file that you keep of them.")]
People = Annotated[
    Path,
    typer.Option(
        "--people", metavar="FILE", help="Ids as the data have them, one a line; - is stdin."
    ),
]
Caches = Annotated[
    list[Path] | None,
    typer.Option(
        "--cache", metavar="DIR", help="A further folder of finished phases; may be given again."
    ),
]
Moves = Annotated[
    list[str] | None,
    typer.Option(
        "--moved",
        metavar="OLD=NEW",
        help="A folder of runs or phases that was moved after it was recorded; may be given again.",
    ),
]


@app.command()
@gives("consent record")
def record(
    file: File,
    people: People,
    release: Annotated[
        list[str] | None,
        typer.Option(
            "--release",
            metavar="NAME",
            help="They agreed to this release only; may be given again. (default: every release)",
        ),
    ] = None,
) -> dict[str, Any]:
    """Note that people agreed, now. Who has the same consent already keeps it."""
    ids = _ids(people)
    with changing(file) as change:
        before = len(change.after.consents)
        change.after = change.after.recorded(ids, release or [], format_time(o.now()))
        new = len(change.after.consents) - before
        wider = len(change.after.wider(ids, release or []))
    o.tell(f"recorded: {counted(new, 'consent')}; {len(ids) - new} had it already")
    if wider:
        o.say(
            f"{counted(wider, 'person has', 'people have')} a wider consent too, which still stands; to leave only "
            "the narrower one: consent withdraw, then consent record --release again"
        )
    return {"recorded": new, "already": len(ids) - new, "wider": wider}


@app.command()
@gives("consent withdraw")
def withdraw(
    file: File, people: People, cache: Caches = None, moved: Moves = None
) -> dict[str, Any]:
    """Note that people withdrew, and say which releases and folders still have something of them."""
    ids, moves = _ids(people), _moves(moved or [])
    _check_there(cache or [], moves)
    with changing(file, existing=True) as change:
        check_moved(change.after, moves)
        before = change.after.withdrew()
        change.after = change.after.without(ids, format_time(o.now()))
        consents = change.after
    earlier = Counter(before[who] for who in ids if who in before)
    new = len(ids) - earlier.total()
    when_gone = [{"at": when, "people": count} for when, count in sorted(earlier.items())]
    done = {"withdrawn": new, "earlier": when_gone}
    session_of().found = done  # an error amid the search for what is left says that it is noted
    o.tell(
        f"withdrawn: {counted(new, 'person', 'people')}; the next release is trained without them"
        if new
        else "withdrawn: 0 people"
    )
    for when, people_then in sorted(earlier.items()):
        o.tell(f"had withdrawn before: {counted(people_then, 'person', 'people')}, {when}")
    trainings = consents.trained_with(ids)
    _tell_trainings(trainings)
    with storage_errors(file):
        remains = remains_of(consents, ids, cache or [], moves)
    _tell_remains(remains, file)
    left = {"phases": _paths(remains.phases), "texts": _paths(remains.texts)}
    return {
        **done,
        "trainings": _facts(trainings),
        "remains": left | _unseen(remains),
    }


@app.command("list")
@gives("consent list")
def list_consents(file: File, as_json: AsJson = False) -> dict[str, Any]:
    """Print a table, cells apart by tabs, of every consent and in how many releases the person is."""
    consents = read_consents(file)
    trained = [len(consents.trained_with([one.user_id])) for one in consents.consents]
    rows = list(zip(consents.consents, trained, strict=True))
    if not as_json:  # nor ids on stderr, which ends up in logs
        o.tell("\t".join(HEADER))
        for one, count in rows:
            releases = ",".join(one.releases) or "every"
            o.tell("\t".join((one.user_id, one.given, one.withdrawn or "-", releases, str(count))))
    return {
        "consents": [
            {
                "id": one.user_id,
                "given": one.given,
                "withdrawn": one.withdrawn,
                "releases": one.releases,
                "trained": count,
            }
            for one, count in rows
        ]
    }


@app.command()
@gives("consent erase")
def erase(file: File, cache: Caches = None, moved: Moves = None) -> dict[str, Any]:
    """Delete what runs have left of people who withdrew: finished phases, and texts of pooled people.

    A run whose texts are gone cannot be resumed or scored again; its release stays.
    """
    moves = _moves(moved or [])
    _check_there(cache or [], moves)
    consents = read_consents(file)
    check_moved(consents, moves)
    deleted: list[str] = []
    session_of().found = {"deleted": deleted}  # an error amid it says what is gone
    with storage_errors(file):
        remains = remains_of(consents, consents.withdrawn(), cache or [], moves)
        for path in erase_remains(remains):
            deleted.append(str(path))
            o.tell(f"deleted: {path}")
    _tell_missing(remains)
    gone, missing = len(remains.phases) + len(remains.texts), len(remains.missing)
    o.tell(f"{gone} deleted" + (f"; {counted(missing, 'folder')} not found" if missing else ""))
    _tell_silent(remains)
    trainings = consents.trained_with(consents.withdrawn())
    _tell_trainings(trainings)
    o.say("not touched: the data that runs were given, backups, and releases, here and on devices")
    return {"deleted": deleted, "trainings": _facts(trainings), **_unseen(remains)}


def _ids(people: Path) -> list[str]:
    """Different ids, in order. Raises ConfigError, StorageError."""
    if str(people) == "-":
        data = sys.stdin.buffer.read(MAX_IDS_BYTES + 1)
        if len(data) > MAX_IDS_BYTES:
            raise ConfigError(f"--people: more than {MAX_IDS_BYTES} bytes on stdin")
    else:
        with storage_errors(people):
            data = read_regular(people, limit_bytes=MAX_IDS_BYTES)
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ConfigError("--people: not UTF-8 text", hint="write one id a line") from None
    found = list(dict.fromkeys(line.removesuffix("\r") for line in lines))
    found = [line for line in found if line.strip()]
    if not found:
        raise ConfigError("--people: names nobody", hint="write one id a line")
    return found


def _moves(given: Sequence[str]) -> list[Moved]:
    moves = []
    for one in given:
        old, _, new = one.partition("=")
        if not old or not new:
            raise ConfigError(
                "--moved: expected OLD=NEW", hint="give the old place, =, the new one"
            )
        moves.append(Moved(Path(old).absolute(), Path(new).resolve()))
    return moves


def _check_there(caches: Sequence[Path], moves: Sequence[Moved]) -> None:
    """Raise StorageError for a folder that was typed and is not there."""
    for option, folders in (("--cache", caches), ("--moved", [one.new for one in moves])):
        for folder in folders:
            with storage_errors(folder):
                there = folder.is_dir()
            if not there:
                raise StorageError(
                    f"{option}: not found: {folder}; expected a folder",
                    hint="nothing was changed; if it was moved, give its new place",
                )


def _tell_trainings(trainings: list[Training]) -> None:
    for one in trainings:
        name = f" ({one.release})" if one.release else ""
        o.tell(f"in a release: signed {one.signed}{name}, files {one.content[:16]}, run {one.run}")


def _facts(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Trainings for programs: without the people."""
    return [
        {"signed": one.signed, "release": one.release, "content": one.content, "run": one.run}
        for one in trainings
    ]


def _unseen(remains: Remains) -> dict[str, list[str]]:
    """What could not be judged, for programs."""
    return {"missing": _paths(remains.missing), "silent": _paths(remains.silent)}


def _paths(paths: Sequence[Path]) -> list[str]:
    return list(map(str, paths))


def _tell_remains(remains: Remains, file: Path) -> None:
    for path in (*remains.phases, *remains.texts):
        o.tell(f"still there: {path}")
    if not remains.phases and not remains.texts:
        o.tell("still there: nothing" + (" in folders that were found" if remains.missing else ""))
    _tell_missing(remains)
    _tell_silent(remains)
    if remains.phases or remains.texts:
        o.say(f"hint: delete them with proper-coordinator consent erase {quote(str(file))}")


def _tell_missing(remains: Remains) -> None:
    for path in remains.missing:
        o.tell(f"not found: {path}")
    if remains.missing:
        o.say(
            "hint: nothing was looked at in what is not found; if it was moved, give its new place: "
            f"--moved {quote(str(remains.missing[0]))}=NEW"
        )


def _tell_silent(remains: Remains) -> None:
    if remains.silent:
        first = remains.silent[0].parent
        o.say(
            f"{counted(len(remains.silent), 'phase')} below {first} of an earlier program do not say whose "
            "data they have; delete them by hand"
        )
