"""From what the user typed to people, a task and a base: real data, or the synthetic demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator.consents import read_consents
from proper_model.answering import label_starts
from proper_model.checks import FoundBase, base_beside, check_base, find_base, is_gguf
from proper_model.data import (
    apply_split,
    check_pool,
    effective_split,
    parse_split,
    read_population,
    validation,
)
from proper_model.errors import ConfigError, DataError, TaskError
from proper_model.progress import Progress
from proper_model.settings import StageSettings
from proper_model.storage.files import expanded
from proper_model.tasks import Example, Population, Report, Task, counted, load_task
from proper_model.text import Encoder, label_warnings, text_warnings
from simulations.setup.columns import parse_columns
from simulations.setup.dataset_people import read_dataset
from simulations.setup.dataset_rows import is_dataset, parse_name
from simulations.setup.options import ASKED_LABEL, Demo, Files, People, Reading

DATA_HINT = "give a folder with OPPU's or LaMP's files, or a dataset as hf:NAME"
MOST_WARNINGS = 5  # shown by a run; `validate` shows all


@dataclass(frozen=True)
class Source:
    """What a run works on. `truth` is JSON for synthetic people, None for real ones.

    `people` says who takes part, as results name it. `base` is where the base lies, `found` what its
    files say; of a base that is still to be made, files that only describe it. `left_out` pooled people of
    the data have no standing consent, where consents are asked for. `fewest_tested` test users are in the smallest
    of the folds, where there are several.
    """

    name: str
    population: Population
    task: Task
    base: str
    found: FoundBase
    settings: StageSettings
    truth: str | None = None
    warnings: tuple[str, ...] = ()
    people: str = ""
    left_out: int = 0
    fewest_tested: int | None = None


def load_source(reading: Reading, progress: Progress, *, scratch: Path | None = None) -> Source:
    """Read or make everything a run needs, split as asked.

    With `scratch` nothing is trained or stored: a base that is still to be made is sketched there.
    Raises TaskError, DataError, ConfigError or BaseModelError with place and next step.
    """
    origin, people = reading.origin, reading.people
    if isinstance(origin, Demo):
        source = _demo(origin, reading, progress, scratch)
    else:
        source = _real(origin, reading, progress)
    warnings = [*source.warnings]
    split = effective_split(source.population, people.split)
    if split != people.split:
        warnings.append(
            f"split {people.split} takes {split.split(':')[1]} users: at most a fifth of the "
            f"{len(source.population.pooled)} pooled ones, of those with a history and a query"
        )
    population = apply_split(
        source.population,
        people.split,
        fold=people.fold,
        folds=people.folds,
        pooled_users=people.pooled_users,
        users=people.users,
        max_items=people.max_items,
        seed=reading.seed,
    )
    fewest = None
    if people.folds > 1:
        fewest = _fewest_tested(source.population, people)
    left_out = 0
    if reading.consents is not None:
        agreed = read_consents(reading.consents).standing(reading.release_name)
        pooled = tuple(user for user in population.pooled if user.user_id in agreed)
        left_out = len(population.pooled) - len(pooled)
        population = replace(population, pooled=pooled)
        if left_out:
            warnings.append(
                f"{counted(left_out, 'pooled user')} without a standing consent "
                f"{'is' if left_out == 1 else 'are'} left out"
            )
    check_pool(population.pooled)
    _tell(warnings)
    label = replace(people, split=split).label
    if isinstance(origin, Files) and is_dataset(origin.data):
        label = f"{label}, {ASKED_LABEL}"  # such data have no questions of their own
    return replace(
        source, population=population, people=label, left_out=left_out, fewest_tested=fewest
    )


def _fewest_tested(population: Population, people: People) -> int:
    """Test users of the smallest of the folds that `apply_split` makes of `given` or `random:N`."""
    wanted = parse_split(people.split)
    asked = sum(bool(user.queries) for user in (*population.pooled, *population.test))
    found = wanted.count if wanted.kind == "random" else asked // people.folds
    return found if people.users is None else min(found, people.users)


def _tell(warnings: Sequence[str]) -> None:
    """Warnings on stderr, above any bar; only the first of many."""
    from client.terminal.console import say

    for warning in warnings[:MOST_WARNINGS]:
        say(f"warning: {warning}")
    if len(warnings) > MOST_WARNINGS:
        say(f"warning: and {len(warnings) - MOST_WARNINGS} more; proper-sim validate lists them")


def _real(files: Files, reading: Reading, progress: Progress) -> Source:
    settings = reading.settings
    task, warnings = choose_template(files.task, reading.template, settings)
    hint = f"{DATA_HINT}, or the word demo"
    check_there(files.data, hint=hint)
    name = base_beside(files.base, progress) if is_gguf(files.base) else files.base
    found = check_base(name, settings)
    progress("reading users", 0, 0)
    report = Report()
    population, people = read_data(
        files.data,
        task,
        files.columns,
        hint=hint,
        report=report,
        progress=progress,
    )
    doubts = _doubts(found, settings, task, population)
    base = expanded(name)
    return Source(
        name=people,
        population=population,
        task=task,
        base=str(base.resolve()) if base.is_dir() else name,
        found=found,
        settings=settings,
        warnings=(*warnings, *doubts, *(str(group) for group in report.groups)),
    )


def read_data(
    data: str,
    task: Task,
    columns: Mapping[str, str],
    *,
    hint: str = DATA_HINT,
    report: Report | None = None,
    progress: Progress | None = None,
) -> tuple[Population, str]:
    """Everybody in DATA, and what results call them: of a dataset, or of OPPU's or LaMP's files.

    `columns` are a dataset's by what they mean. Raises DataError with place, or with the hint if there is
    nothing; ConfigError for columns of files that have none.
    """
    report = Report() if report is None else report
    if is_dataset(data):
        name = parse_name(data)
        return read_dataset(name, task, columns, report=report, progress=progress), name.short
    path = existing_data(data, hint=hint)
    check_no_columns(data, columns)
    return read_population(path, task, report=report, progress=progress), path.resolve().name


def validate_data(
    data: str, task: Task, columns: str | None, progress: Progress
) -> validation.ValidationReport:
    """What is in DATA and what is wrong with it. Raises as `read_data`, but not for a fault of a record."""
    given = parse_columns(columns)
    if not is_dataset(data):
        check_no_columns(data, given)
        return validation.validate(existing_data(data, hint=DATA_HINT), task, progress=progress)
    report = Report(strict=False)
    population, name = read_data(data, task, given, report=report, progress=progress)
    return validation.validate_users(population.pooled, name, task, report)


def check_there(data: str, *, hint: str) -> None:
    """Raise DataError with the hint where DATA names no dataset and no file: before a base is looked at."""
    if not is_dataset(data):
        existing_data(data, hint=hint)


def check_no_columns(data: str, columns: Mapping[str, str]) -> None:
    """Raise ConfigError for columns of what has none."""
    if columns:
        raise ConfigError(
            f"--columns says what the columns of a dataset mean, but {data} is none",
            hint="leave it out, or give hf:NAME",
        )


def existing_data(data: str, *, hint: str) -> Path:
    """The path of a data folder or file. Raises DataError with the hint if there is none."""
    path = expanded(data)
    if not path.exists():
        raise DataError(f"{data}: no such file or folder", hint=hint)
    return path


def encoder_of(base: FoundBase, settings: StageSettings) -> Encoder:
    """Texts as tokens of the base, cut as the profile says."""
    return Encoder(
        base.tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_answer_tokens=settings.max_answer_tokens,
    )


def _doubts(
    base: FoundBase, settings: StageSettings, task: Task, population: Population
) -> tuple[str, ...]:
    """What the base's tokenizer makes of labels and texts. Raises MetricError."""
    encoder = encoder_of(base, settings)
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


def _demo(demo: Demo, reading: Reading, progress: Progress, scratch: Path | None) -> Source:
    from simulations.synthetic.people import make_synthetic
    from simulations.synthetic.tiny_base import make_tiny_base, sketch_tiny_base

    settings, seed = reading.settings, reading.seed
    progress("making people", 0, 0)
    synthetic = make_synthetic(demo.kind, preset="demo", seed=seed)
    texts, words = synthetic.pretrain_texts, synthetic.vocabulary
    if scratch is not None:
        sketch = sketch_tiny_base(scratch, texts, vocabulary=words, seed=seed)
        base, found = demo.bases / sketch.name, find_base(str(sketch))
    else:
        base = make_tiny_base(
            demo.bases,
            texts,
            vocabulary=words,
            seed=seed,
            progress=lambda done, total: progress("pretraining a tiny base", done, total),
        )
        found = check_base(str(base), settings)
    task, warnings = choose_template(synthetic.task, reading.template, settings)
    return Source(
        name=synthetic.settings.kind,
        population=synthetic.population,
        task=task,
        base=str(base.resolve()),
        found=found,
        settings=settings,
        truth=json.dumps(synthetic.truth, indent=1, sort_keys=True) + "\n",
        warnings=warnings,
    )
