"""The options that several commands share, each declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from simulations.setup.options import ARMS, RunOptions

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder with OPPU's or LaMP's files, or 'demo' (also demo:rate, demo:text).",
        show_default=False,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", metavar="T", help="Shipped task (LaMP_2M, ...) or a task's TOML file."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="B", help="Base model: a folder or a Hugging Face hub id."),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="OUT", help="Folder for everything the run leaves.")
]
ExperimentOut = Annotated[
    Path,
    typer.Option("--out", metavar="OUT", help="Folder for the result file and its figure."),
]
FetchOut = Annotated[
    Path, typer.Option("--out", metavar="OUT", help="Folder for the task's files.")
]
Preset = Annotated[
    str, typer.Option("--preset", help="Structure of the model: paper, default or device.")
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        help="Hyperparameters: tiny, small-gpu, paper-a100, demo, or a TOML file "
        "(default: tiny; demo for the demo)",
    ),
]
Template = Annotated[
    str | None,
    typer.Option("--template", help="Template set of the task. (default: the profile's)"),
]
TaskTemplate = Annotated[
    str | None,
    typer.Option("--template", help="Template set of the task. (default: the task's)"),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="Who is a test user: given (as the data say), random:N (N of all users), inactive:N "
        "(the N pooled users with the shortest histories, at most a fifth of the pool, taken out "
        "of it) or inactive:N:in-population (the same, left in it).",
    ),
]
Folds = Annotated[
    int, typer.Option("--folds", metavar="K", help="Rotate test users over K parts of everybody.")
]
Fold = Annotated[
    int | None,
    typer.Option("--fold", metavar="I", help="Only this fold, from 0. (default: all folds)"),
]
PooledUsers = Annotated[
    int | None, typer.Option("--pooled-users", metavar="N", help="At most N pooled users.")
]
Users = Annotated[int | None, typer.Option("--users", metavar="N", help="At most N test users.")]
MaxItems = Annotated[
    int | None,
    typer.Option("--max-items", metavar="M", help="At most the M most recent items a user."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of training and of all choices.")]
Arms = Annotated[
    str | None,
    typer.Option(
        "--arms",
        metavar="A,B",
        help="What to compare: stage1, stage2-mean, stage2, oppu-mlp, stage3, stage3-shuffled "
        "(default: all)",
    ),
]
UsersPerNode = Annotated[
    int | None,
    typer.Option(
        "--users-per-node",
        metavar="N",
        help="Devices that one Flower node hosts. (default: equal shares for the actors)",
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        "--actors",
        metavar="N",
        help="Processes that play nodes, each with a base in memory. (default: as many as GPUs or "
        "cores, free memory and users allow)",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        help="Threads of the pooled stages (default: 1 for small bases, else the cores).",
    ),
]


def _gib(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is no plain number; expected GiB without a unit, such as 0.5"
        ) from None


MemoryBudget = Annotated[
    float | None,
    typer.Option(
        "--memory-budget",
        metavar="GIB",
        parser=_gib,
        help="Memory that training may take beside the base in each process (every actor, and the "
        "pooled stages), a plain number of GiB; decides how many users train at once (default: "
        "what a GPU has free; no limit on a CPU).",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of finished phases. (default: 'cache' beside OUT)"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Only say what the whole run would cost; trains and stores nothing."
    ),
]
ShowExamples = Annotated[
    bool,
    typer.Option(
        "--show-examples",
        help="Show one query with its text in the report; synthetic people are always shown.",
    ),
]
Phases = Annotated[bool, typer.Option("--phases", help="Seconds by phase, a column a run.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="A Markdown table.")]


def run_options(
    data: Data,
    out: Out,
    task: TaskName = None,
    base: Base = None,
    preset: Preset = "default",
    profile: Profile = None,
    template: Template = None,
    split: Split = "given",
    folds: Folds = 1,
    fold: Fold = None,
    pooled_users: PooledUsers = None,
    max_items: MaxItems = None,
    users: Users = None,
    seed: Seed = 0,
    arms: Arms = None,
    users_per_node: UsersPerNode = None,
    actors: Actors = None,
    threads: Threads = None,
    memory_budget: MemoryBudget = None,
    cache: Cache = None,
    resume: Resume = False,
) -> RunOptions:
    """What a run's command line says. Raises ConfigError for a contradiction."""
    given = dict(locals())
    chosen = ARMS if arms is None else tuple(a.strip() for a in arms.split(",") if a.strip())
    return RunOptions(**{**given, "arms": chosen})


def experiment_options(
    data: Data,
    out: ExperimentOut,
    task: TaskName = None,
    base: Base = None,
    preset: Preset = "default",
    profile: Profile = None,
    template: Template = None,
    split: Split = "given",
    pooled_users: PooledUsers = None,
    max_items: MaxItems = None,
    users: Users = None,
    seed: Seed = 0,
    threads: Threads = None,
    memory_budget: MemoryBudget = None,
    cache: Cache = None,
) -> RunOptions:
    """What an experiment's command line says. Raises ConfigError for a contradiction."""
    return RunOptions(**locals())


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, ...)` every option of a run beside its own, as typer reads them."""
    return _with_options(run_options, command)


def takes_experiment_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same with the options of an experiment."""
    return _with_options(experiment_options, command)


def _with_options(
    make: Callable[..., RunOptions], command: Callable[..., None]
) -> Callable[..., None]:
    shared = inspect.signature(make).parameters
    own = list(inspect.signature(command).parameters.values())[1:]

    def called(**given: Any) -> None:
        extra = {parameter.name: given.pop(parameter.name) for parameter in own}
        command(make(**given), **extra)

    hints = get_type_hints(make, include_extras=True) | get_type_hints(command, include_extras=True)
    parameters = [
        # Required ones of a command come after optional ones of all: typer passes by name.
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (*shared.values(), *own)
    ]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
