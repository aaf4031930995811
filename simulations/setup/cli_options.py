"""The options of a run as the command line shows them, and those that other commands share.

A run's options are the fields of `RunOptions`, with its types and defaults; here is what a person
reads about each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from proper_model.errors import ConfigError
from simulations.setup.options import RunOptions

Found = TypeVar("Found")


def _gib(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            "no plain number; expected GiB without a unit, such as 0.5"
        ) from None


RUN_OPTIONS: Mapping[str, Any] = {
    "data": typer.Argument(
        metavar="DATA",
        help="Folder with OPPU's or LaMP's files, a dataset (hf:NAME[@REVISION][:SPLIT], or a folder of "
        "arrow), or 'demo' (also demo:rate, demo:text).",
        show_default=False,
    ),
    "out": typer.Option(metavar="OUT", help="Folder for everything the run leaves."),
    "task": typer.Option(metavar="T", help="Shipped task (LaMP_2M, ...) or a task's TOML file."),
    "base": typer.Option(
        metavar="B", help="Base model: a folder, a Hugging Face hub id, or FILE.gguf."
    ),
    "preset": typer.Option(
        help="Structure of the model: paper, default, device, calibrated or released. (default: "
        "calibrated where the profile sets people apart to calibrate with, else default)"
    ),
    "profile": typer.Option(
        help="Hyperparameters: tiny, tiny-few, small-gpu, smollm2-cpu, smollm2-gpu, paper-a100, "
        "released-a100, demo, or a TOML file (default: tiny; demo for the demo)",
    ),
    "columns": typer.Option(
        metavar="USER=COLUMN,...",
        help="What a dataset's columns mean, where their names do not say it: user, date, id, and the "
        "task's fields, such as user=author,text=body.",
    ),
    "template": typer.Option(help="Template set of the task. (default: the profile's)"),
    "split": typer.Option(
        help="Who is a test user: given (as the data say), random:N (N of all users), inactive:N "
        "(the N pooled users with the shortest histories, at most a fifth of the pool, taken out "
        "of it) or inactive:N:in-population (the same, left in it).",
    ),
    "stage2_users": typer.Option(
        metavar="WHO",
        help="Whose items train stage 2: pooled, everybody (test users' histories too, never their "
        "queries) or shuffled (a control: pooled users' items, permuted across identities).",
    ),
    "population_only": typer.Option(
        "--population-only",
        help="Release stage 1 alone, which then calls itself population-only: devices train a private "
        "LoRA over it.",
    ),
    "folds": typer.Option(metavar="K", help="Rotate test users over K parts of everybody."),
    "fold": typer.Option(metavar="I", help="Only this fold, from 0. (default: all folds)"),
    "pooled_users": typer.Option(metavar="N", help="At most N pooled users."),
    "max_items": typer.Option(metavar="M", help="At most the M most recent items a user."),
    "users": typer.Option(metavar="N", help="At most N test users."),
    "seed": typer.Option(help="Seed of training and of all choices."),
    "arms": typer.Option(
        metavar="A,B",
        help="What to compare: stage1, stage2-mean, stage2, oppu-mlp, stage3, stage3-shuffled "
        "(default: all)",
    ),
    "users_per_node": typer.Option(
        metavar="N",
        help="Devices that one Flower node hosts. (default: equal shares for the actors)",
    ),
    "actors": typer.Option(
        metavar="N",
        help="Processes that play nodes, each with a base in memory. (default: as many as GPUs or "
        "cores, free memory and users allow)",
    ),
    "threads": typer.Option(
        metavar="N",
        help="Threads of the pooled stages (default: 1 for small bases, else the cores).",
    ),
    "memory_budget": typer.Option(
        metavar="GIB",
        parser=_gib,
        help="Memory that training may take beside the base in each process (every actor, and the "
        "pooled stages), a plain number of GiB; decides how many users train at once (default: "
        "what a GPU has free; no limit on a CPU).",
    ),
    "consents": typer.Option(
        metavar="FILE",
        help="Pool only people with a standing consent in this file of proper-coordinator consent. "
        "(default: everybody, and the release says so)",
    ),
    "release_name": typer.Option(
        metavar="NAME", help="The release that people agreed to, for consents that name releases."
    ),
    "cache": typer.Option(help="Folder of finished phases. (default: 'cache' beside OUT)"),
    "resume": typer.Option("--resume", help="Go on with the run in OUT."),
}
# An experiment runs on one machine without Flower, from start to end and with arms of its own.
EXPERIMENT_OPTIONS: Mapping[str, Any] = {
    name: option
    for name, option in RUN_OPTIONS.items()
    if name
    not in (
        *("folds", "fold", "arms", "users_per_node", "actors", "resume", "population_only"),
        *("consents", "release_name"),  # nothing is released
    )
} | {"out": typer.Option(metavar="OUT", help="Folder for the result file and its figure.")}

# A benchmark names presets or seeds in options of its own, and always goes on with what lies in OUT.
BENCHMARK_OPTIONS: Mapping[str, Any] = {
    name: option
    for name, option in RUN_OPTIONS.items()
    if name
    not in (
        *("fold", "arms", "users_per_node", "actors", "resume", "population_only"),
        *("consents", "release_name"),
    )
} | {
    "out": typer.Option(
        metavar="OUT", help="Folder for results, page and all that it goes on from."
    )
}

Data = Annotated[str, RUN_OPTIONS["data"]]
TaskName = Annotated[str | None, RUN_OPTIONS["task"]]
Columns = Annotated[str | None, RUN_OPTIONS["columns"]]
TaskTemplate = Annotated[
    str | None, typer.Option(help="Template set of the task. (default: the task's)")
]
FetchOut = Annotated[Path, typer.Option(metavar="OUT", help="Folder for the task's files.")]
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
Tensorboard = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Write the run's curves, scores and settings into DIR for TensorBoard.",
    ),
]
Phases = Annotated[bool, typer.Option("--phases", help="Seconds by phase, a column a run.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="A Markdown table.")]


def check_page(out: Path | None) -> None:
    """Raise ConfigError for a page that cannot be one, before anything is read: it would take the place of results."""
    if out is not None and (out.suffix != ".html" or out.is_dir()):
        raise ConfigError(
            f"--out: {out.name} is {'a folder' if out.is_dir() else 'no .html file'}",
            hint="name a file, such as --out runs/page.html",
        )


def takes_run_options(command: Callable[..., Found]) -> Callable[..., Found]:
    """Give `command(options, ...)` every option of a run beside its own, as typer reads them."""
    return _with_options(RUN_OPTIONS, command)


def takes_experiment_options(command: Callable[..., Found]) -> Callable[..., Found]:
    """The same with the options of an experiment."""
    return _with_options(EXPERIMENT_OPTIONS, command)


def takes_benchmark_options(command: Callable[..., Found]) -> Callable[..., Found]:
    """The same with the options of a benchmark, but those that the command has of its own."""
    own = set(inspect.signature(command).parameters)
    taken = {"preset"} if "presets" in own else set()
    taken |= {"seed"} if "seeds" in own else set()
    taken |= {"split"} & own
    options = {name: option for name, option in BENCHMARK_OPTIONS.items() if name not in taken}
    return _with_options(options, command)


def _with_options(
    options: Mapping[str, Any], command: Callable[..., Found]
) -> Callable[..., Found]:
    fields, types = dict(inspect.signature(RunOptions).parameters), get_type_hints(RunOptions)
    # One word with commas, not an option that is repeated.
    fields["arms"], types["arms"] = fields["arms"].replace(default=None), str | None
    hints = get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]

    def called(arms: str | None = None, **given: Any) -> Found:
        extra = {parameter.name: given.pop(parameter.name) for parameter in own}
        if arms is not None:
            given["arms"] = tuple(arm.strip() for arm in arms.split(",") if arm.strip())
        return command(RunOptions(**given), **extra)

    parameters = [
        # Required ones of a command come after optional ones of all: typer passes by name.
        parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter, annotation in (
            *((fields[name], Annotated[types[name], option]) for name, option in options.items()),
            *((parameter, hints[parameter.name]) for parameter in own),
        )
    ]
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
