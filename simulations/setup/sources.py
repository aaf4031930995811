"""From what the user typed to people, a task and a base: real data, or the synthetic demo."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from proper_model.answering import label_starts
from proper_model.checks import check_base, locate, read_tokenizer
from proper_model.data import apply_split, check_pool, effective_split, read_population
from proper_model.errors import DataError, TaskError
from proper_model.settings import StageSettings, load_profile
from proper_model.tasks import Example, Population, Report, Task, load_task
from proper_model.text import Encoder, label_warnings, text_warnings
from simulations.setup.options import RunOptions

# (phase, done, total); total 0 means: unknown.
Progress = Callable[[str, int, int], None]

MOST_WARNINGS = 5  # shown by a run; `validate` shows all

DEMO_KINDS = {
    "demo": "synth_tag",
    "demo:tag": "synth_tag",
    "demo:rate": "synth_rate",
    "demo:text": "synth_text",
}


@dataclass(frozen=True)
class Source:
    """What a run works on. `truth` is JSON for synthetic people, None for real ones.

    `people` says who takes part, as results name it; `sketch` holds configuration and tokenizer of
    a base that is not made yet, None for others.
    """

    name: str
    population: Population
    task: Task
    base: str
    settings: StageSettings
    truth: str | None = None
    warnings: tuple[str, ...] = ()
    people: str = ""
    sketch: str | None = None

    @property
    def config_base(self) -> str:
        """Where configuration and tokenizer can be read."""
        return self.sketch or self.base


def load_source(options: RunOptions, progress: Progress, *, scratch: Path | None = None) -> Source:
    """Read or make everything a run needs, split as asked.

    With `scratch` nothing is trained or stored: a base that is still to be made is sketched there.
    Raises TaskError, DataError, ConfigError or BaseModelError with place and next step.
    """
    source = _demo(options, progress, scratch) if options.is_demo else _real(options, progress)
    warnings = [*source.warnings]
    split = effective_split(source.population, options.split)
    if split != options.split:
        warnings.append(
            f"split {options.split} takes {split.split(':')[1]} users: at most a fifth of the "
            f"{len(source.population.pooled)} pooled ones, of those with a history and a query"
        )
    population = apply_split(
        source.population,
        options.split,
        fold=options.fold or 0,
        folds=options.folds,
        pooled_users=options.pooled_users,
        users=options.users,
        max_items=options.max_items,
        seed=options.seed,
    )
    check_pool(population.pooled)
    _tell(warnings)
    return replace(source, population=population, people=replace(options, split=split).people_label)


def _tell(warnings: Sequence[str]) -> None:
    """Warnings on stderr, above any bar; only the first of many."""
    from client.terminal.console import say

    for warning in warnings[:MOST_WARNINGS]:
        say(f"warning: {warning}")
    if len(warnings) > MOST_WARNINGS:
        say(f"warning: and {len(warnings) - MOST_WARNINGS} more; proper-sim validate lists them")


def _real(options: RunOptions, progress: Progress) -> Source:
    assert options.task is not None
    assert options.base is not None
    settings = load_profile(options.profile_name)
    task, warnings = choose_template(options.task, options.template, settings)
    path = Path(options.data).expanduser()
    if not path.exists():
        raise DataError(
            f"{options.data}: no such file or folder",
            hint="give a folder with OPPU's or LaMP's files, or the word demo",
        )
    check_base(options.base, settings)
    progress("reading users", 0, 0)
    report = Report()
    population = read_population(path, task, report=report, progress=progress)
    doubts = _doubts(options.base, settings, task, population)
    base = Path(options.base).expanduser()
    return Source(
        name=path.resolve().name,
        population=population,
        task=task,
        base=str(base.resolve()) if base.is_dir() else options.base,
        settings=settings,
        warnings=(*warnings, *doubts, *(str(group) for group in report.groups)),
    )


def _doubts(
    base: str, settings: StageSettings, task: Task, population: Population
) -> tuple[str, ...]:
    """What the base's tokenizer makes of labels and texts. Raises MetricError."""
    encoder = Encoder(
        read_tokenizer(base, locate(base)),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )
    labels = () if task.labels is None else tuple(task.labels)
    if labels and "mae_expected" in task.metrics:
        # Else found when all is trained and answers are scored.
        label_starts(encoder, Example("labels", "", labels[0]), labels)
    texts = (query.input for user in population.pooled for query in user.queries)
    return (*label_warnings(encoder, labels), *text_warnings(encoder, texts))


def choose_template(
    name: str, template: str | None, settings: StageSettings
) -> tuple[Task, tuple[str, ...]]:
    """The task under the template asked for, else the profile's where the task has it.

    The second part is the warning if it does not. Raises TaskError.
    """
    task = load_task(name, template=template)
    wished = settings.template
    if template is not None or wished is None:
        return task, ()
    try:
        return load_task(name, template=wished), ()
    except TaskError:
        warning = (
            f"task {task.name} has no template set '{wished}', which profile {settings.name} asks "
            f"for; its own choice '{task.template}' is used"
        )
        return task, (warning,)


def _demo(options: RunOptions, progress: Progress, scratch: Path | None) -> Source:
    from simulations.synthetic.people import make_synthetic
    from simulations.synthetic.tiny_base import make_tiny_base, sketch_tiny_base

    settings = load_profile(options.profile_name)
    progress("making people", 0, 0)
    synthetic = make_synthetic(DEMO_KINDS[options.data], preset="demo", seed=options.seed)
    bases, texts, words = (
        options.cache_folder / "bases",
        synthetic.pretrain_texts,
        synthetic.vocabulary,
    )
    sketch = None
    if scratch is not None:
        sketch = sketch_tiny_base(scratch, texts, vocabulary=words, seed=options.seed)
        base = bases / sketch.name
    else:
        base = make_tiny_base(
            bases,
            texts,
            vocabulary=words,
            seed=options.seed,
            progress=lambda done, total: progress("pretraining a tiny base", done, total),
        )
        check_base(str(base), settings)
    task, warnings = choose_template(synthetic.task, options.template, settings)
    return Source(
        name=synthetic.settings.kind,
        population=synthetic.population,
        task=task,
        base=str(base.resolve()),
        settings=settings,
        truth=json.dumps(synthetic.truth, indent=1, sort_keys=True) + "\n",
        warnings=warnings,
        sketch=None if sketch is None else str(sketch),
    )
