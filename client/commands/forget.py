"""`proper forget`: remove items and retrain from the rest, or remove everything, keys included.

What `--items` takes, called a selector:

    3  5-9  3,5-9               numbers and ranges as `proper inspect --items` shows them, from 1
    ID                          the item's id
    before:DATE, after:DATE, on:DATE    YYYY, YYYY-MM or YYYY-MM-DD; the date itself is `on`
    contains:TEXT               in any field, whatever the case
    number:3-9, id:3            where a number is an id as well

Messages name a selector by its position, because an id or a text may be private.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.commands.outcome import took
from client.commands.training_run import learner_for, say_cost, train
from client.person.stores import VaultStore
from client.person.workspace import Memory
from client.terminal.console import (
    agreed,
    asks,
    print_line,
    remarks,
    say,
    say_as_it_is,
    stdin_bytes,
)
from client.terminal.document import gives
from client.terminal.terminal_text import preview
from proper_model.data import date_key
from proper_model.errors import ConfigError, DataError
from proper_model.tasks import HistoryItem, counted

if TYPE_CHECKING:
    from client.person.state import PersonalState

SELECTOR_HINT = (
    "selectors: a number or range as `proper inspect --items` shows them, an id, before:DATE, "
    "after:DATE, on:DATE, contains:TEXT"
)
MAX_SELECTOR_BYTES = 1 << 20
_KINDS = ("before", "after", "on", "contains", "number", "id")
_RANGE = r"[0-9]{1,12}(?:-[0-9]{1,12})?"
_LIST = re.compile(f"{_RANGE}(?:,{_RANGE})*")

# What no program can take back; said every time.
REMAINS = (
    "What cannot be recalled: exports and backups you made, copies of the whole folder from before "
    "(they open with the passphrase of that time), and what you sent somewhere yourself. Your items "
    "never left this machine through this program."
)
Items = Annotated[
    list[str] | None,
    typer.Option(
        "--items",
        metavar="WHICH",
        help="Ids, numbers as `proper inspect --items` shows them (3, 5-9), before:DATE, "
        "after:DATE, on:DATE, contains:TEXT; repeatable. - reads them from stdin, one a line, out "
        "of sight of `ps` and the shell's history.",
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="Everything, keys included.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")]
SHOWN_ITEMS, SHOWN_CHARACTERS = 10, 60  # of what is to go, on a terminal


@gives("forget")
def forget(
    context: typer.Context,
    items: Items = None,
    everything: Everything = False,
    yes: Yes = False,
    task: o.StoredTask = None,
    max_memory: o.MaxMemory = None,
    base_weights: o.BaseWeights = None,
    recompute: o.Recompute = False,
    resume: o.Resume = False,
) -> dict[str, Any]:
    """Remove items from your history and train again without them, or remove everything.

    Says first which items go, and asks. After forgetting items the adapter is what it would be had
    they never been there; the stored generations that knew them are removed, and the vault gets a new
    master key, which opens no copy of them.
    """
    if bool(items) == everything:
        raise ConfigError("say what to forget: --items WHICH, or --all")
    if everything:
        return forget_everything(context, yes=yes)
    if not yes and not asks():
        raise ConfigError(
            "forgetting asks before it removes items, and stdin is no terminal to answer on; nothing was "
            "changed",
            hint="proper inspect --items lists them; --yes removes without asking",
        )
    from client.person import adapting

    selectors = [selector for selector in items or [] if selector != "-"]
    if "-" in (items or []):
        selectors += read_selectors(stdin_bytes())
    workspace = o.workspace(context)
    memory = Memory(o.bytes_of(max_memory), base_weights, recompute)
    with workspace.changing() as vault:
        state = VaultStore(vault).read()
        bundle = workspace.bundle_of(state)
        name, task_state = state.task_named(task)
        vault.check_forgetting()  # before the minutes of training
        gone = select_items(task_state.items, selectors)
        agree_to_forget(task_state.items, gone, yes=yes)
        left = adapting.without(state, name, gone)
        histories = adapting.histories_of(left)
        with learner_for(workspace, bundle, state, memory) as learner:
            cost = say_cost(workspace, learner, histories, memory, alone=True)
            step = partial(adapting.adapt, changed=name)
            trained, spent = train(
                vault, learner, left, histories, "forget", step, cost, resume=resume
            )
        VaultStore(vault).write_without(trained, task=name, items=len(gone))
    say_forgotten(trained, name, len(gone))
    spent.say()
    return {
        "everything": False,
        "task": name,
        "forgotten": len(gone),
        "items": len(trained.tasks[name].items),
        "took": took(spent),
    }


def say_forgotten(state: PersonalState, name: str, gone: int) -> None:
    """What became of it, and what no program can take back, in plain words on stdout."""
    from client.person.item_promise import promise_sentences

    left = counted(len(state.tasks[name].items), "item")
    print_line(
        f"Forgot {counted(gone, 'item')}; {left} left. The adapter is what it would be had they never been "
        f"there{', but for chance' if state.privacy else ''}."
    )
    for sentence in promise_sentences(state.tasks[name].report):
        print_line(sentence)
    print_line(REMAINS)


def agree_to_forget(items: Sequence[HistoryItem], gone: Sequence[str], *, yes: bool) -> None:
    """Say how many items go and of which days; at a terminal show how they begin, and ask.

    Raises typer.Abort for a no.
    """
    ids = set(gone)
    chosen = [item for item in items if item.id in ids]
    days = sorted((item.date for item in chosen if item.date), key=lambda day: date_key(day) or ())
    dated = "none has a date"
    if days:
        dated = f"of {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
        if undated := len(chosen) - len(days):
            dated += f", {undated} without a date"
    say(f"{len(chosen)} of {counted(len(items), 'item')} will be forgotten, {dated}")
    if yes:
        return
    if remarks().isatty():  # text of a history is shown to a person, and never left in a log
        for item in chosen[:SHOWN_ITEMS]:
            begins = preview(item.fields, SHOWN_CHARACTERS)
            say_as_it_is(f"  {item.date or '-':10}  {begins}\n")
        if len(chosen) > SHOWN_ITEMS:
            say_as_it_is(f"  and {len(chosen) - SHOWN_ITEMS} more\n")
    if not agreed("Forget them for good?"):
        say("nothing was forgotten")
        raise typer.Abort


def forget_everything(context: typer.Context, *, yes: bool) -> dict[str, Any]:
    """Remove the vault and its keys. The release and the trust root stay: they are not private."""
    from client.vault.opening import destroy_vault

    workspace = o.workspace(context)
    if not workspace.home.vault.exists():
        print_line("Nothing private is stored here.")
        return {"everything": True, "changed": False, "warnings": []}
    if not yes and not agreed("Remove your history, adapter and keys for good?"):
        raise typer.Abort
    with workspace.home.working():
        remarks = destroy_vault(workspace.home.vault)
    for remark in remarks:
        say(f"warning: {remark}")
    print_line("Everything private is removed, keys included.")
    print_line(REMAINS)
    return {"everything": True, "changed": True, "warnings": list(remarks)}


def select_items(items: Sequence[HistoryItem], selectors: Iterable[str]) -> tuple[str, ...]:
    """Ids of the items that any selector names, each once, in the order of `items`.

    Items without a date are matched by no date. An item that says only a year counts as its
    beginning for `before:` and `after:`, and is `on:` that year alone.

    Raises ConfigError if there is no selector, or one is malformed, ambiguous or matches nothing.
    """
    chosen: set[str] = set()
    count = 0
    for count, selector in enumerate(selectors, start=1):
        matched = _matches(items, selector, f"selector {count}")
        if not matched:
            raise ConfigError(f"selector {count}: matches no item", hint=SELECTOR_HINT)
        chosen |= matched
    if not count:
        raise ConfigError("no selector given", hint=SELECTOR_HINT)
    return tuple(dict.fromkeys(item.id for item in items if item.id in chosen))


def read_selectors(stream: IO[bytes]) -> list[str]:
    """Selectors from standard input, one a line; empty lines count for nothing.

    Raises DataError if that is no UTF-8, or more than `MAX_SELECTOR_BYTES`.
    """
    data = stream.read(MAX_SELECTOR_BYTES + 1)
    if len(data) > MAX_SELECTOR_BYTES:
        raise DataError(
            f"stdin: more than {MAX_SELECTOR_BYTES} bytes of selectors",
            hint="forget in several steps, or name ranges of numbers such as 5-9",
        )
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError("stdin: not UTF-8 text", hint="write one selector a line") from None
    return [line.removesuffix("\r") for line in lines if line.strip()]


def _matches(items: Sequence[HistoryItem], selector: str, place: str) -> set[str]:
    kind, colon, value = selector.partition(":")
    if not colon or kind not in _KINDS:
        return _by_id_or_number(items, selector, place)
    if not value.strip():
        raise ConfigError(f"{place}: nothing stands after {kind}:", hint=SELECTOR_HINT)
    if kind == "id":
        return {item.id for item in items if item.id == value}
    if kind == "number":
        return _numbered(items, value, place)
    if kind == "contains":
        wanted = _folded(value)
        return {i.id for i in items if any(wanted in _folded(t) for t in i.fields.values())}
    return _dated(items, kind, value, place)


def _by_id_or_number(items: Sequence[HistoryItem], selector: str, place: str) -> set[str]:
    by_id = {item.id for item in items if item.id == selector}
    if _LIST.fullmatch(selector) is None:
        return by_id
    if not by_id:
        return _numbered(items, selector, place)
    try:
        numbered = _numbered(items, selector, place)
    except ConfigError:
        return by_id  # no such number
    if numbered != by_id:
        raise ConfigError(
            f"{place}: is the id of one item and the number of another",
            hint="write id:... or number:...",
        )
    return by_id


def _numbered(items: Sequence[HistoryItem], value: str, place: str) -> set[str]:
    if _LIST.fullmatch(value) is None:
        raise ConfigError(f"{place}: expected numbers and ranges such as 3,5-9", hint=SELECTOR_HINT)
    found: set[str] = set()
    for part in value.split(","):
        first, _, end = part.partition("-")
        low, high = int(first), int(end or first)
        if not 1 <= low <= high <= len(items):
            raise ConfigError(
                f"{place}: numbers go from 1 to {len(items)}, the smaller one first",
                hint=SELECTOR_HINT,
            )
        found |= {item.id for item in items[low - 1 : high]}
    return found


def _dated(items: Sequence[HistoryItem], kind: str, value: str, place: str) -> set[str]:
    wanted = date_key(value)
    if wanted is None:
        raise ConfigError(
            f"{place}: not a date of the calendar after {kind}:",
            hint="write YYYY-MM-DD, YYYY-MM or YYYY",
        )
    # A day is compared with a year or month by the part they share.
    tests: dict[str, Callable[[tuple[int, ...]], bool]] = {
        "before": lambda key: key[: len(wanted)] < wanted,
        "after": lambda key: key[: len(wanted)] > wanted,
        "on": lambda key: key[: len(wanted)] == wanted,
    }
    keys = ((item.id, date_key(item.date)) for item in items)
    return {item_id for item_id, key in keys if key is not None and tests[kind](key)}


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
