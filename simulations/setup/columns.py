"""Which columns of a dataset say what: who wrote a row, when, and the fields of the task.

By their names: `user_id` or `user`, `date`, `id`, and every field of the task under its own name. `--columns
user=author,text=body` says where they are called otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from proper_model.errors import ConfigError, DataError
from proper_model.tasks import Task, counted

USER, DATE, ID = "user", "date", "id"
USER_COLUMNS = ("user_id", "user")  # the first that is there
MOST_NAMED = 20  # columns that an error lists
_NAME = re.compile(r"[^\W\d][\w.-]{0,39}")
COLUMNS_HINT = "for example --columns user=author,text=body"


@dataclass(frozen=True)
class Columns:
    """Columns by what they mean.

    Attributes:
        user: who wrote a row.
        date: when; None: rows stand oldest first.
        id: of a row; None: its number.
        fields: of the task, those that are there.
    """

    user: str
    date: str | None
    id: str | None
    fields: Mapping[str, str]

    @property
    def read(self) -> list[str]:
        """All columns that matter, each once."""
        named = (self.user, self.date, self.id, *self.fields.values())
        return list(dict.fromkeys(name for name in named if name is not None))


def parse_columns(given: str | None) -> dict[str, str]:
    """`user=author,text=body` as a mapping. Raises ConfigError."""
    found: dict[str, str] = {}
    for pair in given.split(",") if given is not None else ():
        meaning, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or not meaning or not column:
            raise ConfigError(
                f"--columns: part {len(found) + 1} is not MEANING=COLUMN", hint=COLUMNS_HINT
            )
        if meaning in found:
            raise ConfigError(
                f"--columns says twice which column is '{meaning}'", hint="say it once"
            )
        found[meaning] = column
    return found


def _listed(present: Collection[str]) -> str:
    """Columns by name, but only what looks like one: of a table without a head, they are its first row."""
    named = sorted(name for name in present if _NAME.fullmatch(name))
    hidden = len(present) - len(named)
    shown = named[:MOST_NAMED]
    if len(named) > MOST_NAMED:
        shown.append(f"and {len(named) - MOST_NAMED} more")
    if hidden:
        shown.append(f"{counted(hidden, 'other')} whose names are no single words")
    return ", ".join(shown) or "none"


def find_columns(
    present: Collection[str], given: Mapping[str, str], task: Task, *, where: str
) -> Columns:
    """The columns of a dataset at `where` for a task; others are left out.

    Raises ConfigError where `given` names no meaning that there is, DataError for a column that is not
    there.
    """
    known = (USER, DATE, ID, *task.fields)
    for meaning in given:
        if meaning not in known:
            raise ConfigError(
                f"--columns: '{meaning}' is nothing that task {task.name} knows, expected one of "
                + ", ".join(known),
                hint=COLUMNS_HINT,
            )

    def column(meaning: str, usual: Collection[str], what: str, *, needed: bool) -> str | None:
        wanted = (given[meaning],) if meaning in given else tuple(usual)
        found = next((name for name in wanted if name in present), None)
        if found is None and (needed or meaning in given):
            raise DataError(
                f"{where}: no column {' or '.join(map(repr, wanted))}, expected {what}; "
                f"columns: {_listed(present)}",
                hint=f"--columns {meaning}=COLUMN says which one it is",
            )
        return found

    user = column(USER, USER_COLUMNS, "an id of who wrote the row", needed=True)
    assert user is not None
    fields = {
        name: found
        for name in task.fields
        if (
            found := column(
                name,
                (name,),
                f"the text of field {name} of task {task.name}",
                needed=name in task.required_fields,
            )
        )
        is not None
    }
    return Columns(
        user,
        column(DATE, (DATE,), "when the row was written", needed=False),
        column(ID, (ID,), "an id of the row", needed=False),
        fields,
    )
