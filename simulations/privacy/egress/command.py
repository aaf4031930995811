"""`proper-sim privacy egress`: options, and what is said of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.terminal.console import print_line, print_table, say
from client.terminal.tables import Table
from proper_model.errors import EgressError
from simulations.outcome.timings import progress_bars


def egress(
    out: Annotated[Path, typer.Option("--out", help="A new folder for runs and result.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of people and training.")] = 0,
) -> None:
    """Plant canaries in people's data, run a federation and one person's commands, look for them.

    Leaves OUT/egress.json, and in OUT all that was looked at. Exit code 41 where something leaked.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.egress.measured import RESULT_FILE
    from simulations.privacy.egress.measured import egress as measure

    with storage_errors(out), progress_bars() as show:
        result = measure(out, seed=seed, progress=show)
    rows = [
        (
            part.name,
            *map(str, (part.canaries, part.files, sum(leak.times for leak in part.leaks))),
            *map(
                str,
                (len(part.never_found), len(part.false_alarms), len(part.incomplete), part.network),
            ),
        )
        for part in result.parts
    ]
    header = (
        "run",
        "canaries",
        "files",
        "leaks",
        "never found",
        "false alarms",
        "not looked at",
        "network",
    )
    print_table(Table("egress", header, tuple(rows)))
    print_line(result.sentence)
    say(f"result: {out / RESULT_FILE}")
    if not result.clean:
        raise EgressError(
            f"{out / RESULT_FILE}: something leaked, or could not be looked at",
            hint="the file says which canary, in which form, and where",
        )
