"""`proper-sim privacy membership`: options, and what is left in OUT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.terminal.console import print_line, print_table, say
from simulations.outcome.timings import progress_bars

if TYPE_CHECKING:
    from simulations.privacy.results.schema import PrivacyResult

RESULT, TABLE, PAGE = "membership.json", "membership.md", "membership.html"
MOST_ITEMS = 60

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder with OPPU's or LaMP's files, or 'demo' (also demo:rate, demo:text).",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(metavar="OUT", help="Folder for result, table, page and seeds.")]
Things = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="What to attack: population, experts, embeddings, router-cohort, adapter, "
        "adapter-embedding, export, answers.",
    ),
]
Levels = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="A,B",
        help="record, person, or fresh (a person, by items that never trained).",
    ),
]
EVERYTHING = "population,experts,embeddings,router-cohort,adapter,adapter-embedding,export,answers"


def membership(
    data: Data,
    out: Out,
    task: Annotated[str | None, typer.Option(metavar="T", help="Task of a data folder.")] = None,
    base: Annotated[str | None, typer.Option(metavar="B", help="Base for a data folder.")] = None,
    preset: Annotated[str, typer.Option(help="Structure of the model.")] = "default",
    profile: Annotated[
        str | None, typer.Option(help="Hyperparameters. (default: demo for the demo, else tiny)")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="S,T", help="Draws of members.")] = "0,1,2,3,4",
    things: Things = EVERYTHING,
    level: Levels = "record,person,fresh",
    people: Annotated[
        int | None, typer.Option(metavar="N", help="At most N candidates. (default: all; demo: 48)")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished phases. (default: OUT/cache)")
    ] = None,
) -> None:
    """Tell members from non-members: of a release's training people, and of an adapter's items.

    Finished seeds in OUT are not trained again.
    """
    from proper_model.settings import load_profile
    from proper_model.settings import preset as structure_of
    from simulations.privacy.membership.population import load_candidates
    from simulations.privacy.membership.seeds import Plan
    from simulations.privacy.membership.seeds import membership as attack
    from simulations.privacy.results.options import numbers
    from simulations.setup.options import DEMOS

    drawn = numbers(seeds)
    settings = load_profile(profile or ("demo" if data in DEMOS else "tiny"))
    with progress_bars() as show:
        candidates = load_candidates(
            data,
            task,
            base,
            settings,
            bases=out / "bases",
            people=people,
            max_items=MOST_ITEMS,
            progress=show,
        )
        plan = Plan(
            candidates,
            structure_of(preset),
            settings,
            drawn,
            _names(things),
            _names(level),  # type: ignore[arg-type]  # checked by the plan
        )
        result = attack(plan, out=out, cache=cache or out / "cache", progress=show)
    _leave(result, out)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _leave(result: PrivacyResult, out: Path) -> None:
    """Write result, table and page into `out`, and print table and sentences."""
    from client.terminal.tables import to_markdown
    from proper_model.storage.files import storage_errors, write_atomic
    from simulations.outcome.results import write_document
    from simulations.privacy.results import show

    table = show.advantage_table(result)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_document(result, out / RESULT)
        write_atomic(out / TABLE, (to_markdown(table) + "\n").encode())
        show.write_page(result, out / PAGE)
    print_table(table)
    for line in show.sentences(result):
        print_line(line)
    for line in show.failed_controls(result):
        say(f"warning: {line}")
    say(f"result: {out / RESULT}, page: {PAGE}")
