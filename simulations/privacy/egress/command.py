"""`proper-sim privacy egress`: options, and what is said of the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from client.terminal.console import print_line, print_table, say
from client.terminal.document import session_of
from client.terminal.tables import Table
from proper_model.errors import EgressError
from simulations.outcome.timings import progress_bars

HEADER = (
    *("run", "canaries", "files", "leaks"),
    *("never found", "false alarms", "not looked at", "network"),
)


def egress(
    out: Annotated[Path, typer.Option("--out", help="A new folder for runs and result.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of people and training.")] = 0,
) -> dict[str, Any]:
    """Plant canaries in people's data, run a federation and one person's commands, look for them.

    Leaves OUT/egress.json, and in OUT all that was looked at. Exit code 41 where something leaked.
    """
    from proper_model.storage.files import storage_errors
    from simulations.privacy.egress.measured import RESULT_FILE
    from simulations.privacy.egress.measured import egress as measure

    with storage_errors(out), progress_bars() as show:
        result = measure(out, seed=seed, progress=show)
    parts = [
        {
            "name": part.name,
            "canaries": part.canaries,
            "files": part.files,
            "leaks": sum(leak.times for leak in part.leaks),
            "never_found": len(part.never_found),
            "false_alarms": len(part.false_alarms),
            "incomplete": len(part.incomplete),
            "network": part.network,
        }
        for part in result.parts
    ]
    rows = tuple(tuple(map(str, part.values())) for part in parts)
    print_table(Table("egress", HEADER, rows))
    print_line(result.sentence)
    say(f"result: {out / RESULT_FILE}")
    found = {
        "result": str(out / RESULT_FILE),
        "seed": result.seed,
        "commit": result.commit,
        "clean": result.clean,
        "runs": parts,
        "sentence": result.sentence,
    }
    if not result.clean:
        session_of().found = found
        raise EgressError(
            f"{out / RESULT_FILE}: something leaked, or could not be looked at",
            hint="the file says which canary, in which form, and where",
        )
    return found
