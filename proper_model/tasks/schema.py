"""What a task file may say: the TOML schema as frozen dataclasses, checked once when read.

The file format is described for its writers in docs/tasks.md. Everything that does not depend on a
record is checked here: unknown keys, placeholders, regular expressions, label lists, metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from proper_model.errors import ConfigError, TaskError
from proper_model.settings.settings_io import from_mapping
from proper_model.storage.documents import DocumentError, parse_toml
from proper_model.tasks.templates import Template, compile_template

Kind = Literal["classification", "ordinal", "generation"]
METRICS: Mapping[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro", "nll", "parse_failure_rate"),
    "ordinal": ("accuracy", "mae", "mae_expected", "rmse", "nll", "parse_failure_rate"),
    "generation": ("rouge1", "rougeL", "nll"),
}
COLLAPSIBLE = ("history", "line", "training-query")
MAX_TASK_CHARS = 1 << 20
MAX_NAME = 64
MAX_WORDS = 1_000_000  # of a text that is cut
_TABLES = ("labels", "query", "history", "templates")
T = TypeVar("T")


@dataclass(frozen=True)
class Head:
    """The top level of a task file."""

    name: str
    kind: str
    template: str
    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    title: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSpec:
    """[labels]: a fixed list, a pattern that cuts the list out of a query, or both."""

    values: tuple[str, ...] = ()
    pattern: str | None = None
    separator: str = ", "


@dataclass(frozen=True)
class QuerySpec:
    """[query]: how the text is cut out of a LaMP input. Without either, the input is the text."""

    markers: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True)
class HistorySpec:
    """[history.NAME]: how a history item becomes a training example."""

    prompt: str
    answer: str
    split: str | None = None
    split_share: tuple[float, ...] = (0.10, 0.25)


@dataclass(frozen=True)
class TemplateSpec:
    """[templates.NAME]: one way to ask, by query, by history, and as a retrieval line.

    Attributes:
        query_words: every query is cut to that many words.
        training_query_words: only queries that are trained on are.
        collapse: where white space becomes single blanks: some of `COLLAPSIBLE`.
    """

    query: str
    history: str
    line: str
    drops: tuple[str, ...] = ()
    query_words: int | None = None
    training_query_words: int | None = None
    history_words: int | None = None
    line_words: int | None = None
    collapse: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskSpec:
    """A whole task file."""

    head: Head
    labels: LabelSpec
    query: QuerySpec
    history: Mapping[str, HistorySpec]
    templates: Mapping[str, TemplateSpec]
    label_pattern: re.Pattern[str] | None = field(compare=False, default=None)
    query_pattern: re.Pattern[str] | None = field(compare=False, default=None)

    @property
    def query_placeholders(self) -> frozenset[str]:
        """Names of what is cut out of a query."""
        if self.query_pattern is None:
            return frozenset({"text"})
        return frozenset(self.query_pattern.groupindex)


@dataclass(frozen=True)
class Compiled:
    """The templates of one template set with one history objective."""

    query: Template
    prompt: Template
    answer: Template
    line: Template
    spec: TemplateSpec
    history: HistorySpec

    @property
    def required_fields(self) -> frozenset[str]:
        """Fields every history item must have under this set."""
        used = self.prompt.placeholders | self.answer.placeholders | self.line.placeholders
        split = self.history.split
        derived = {"labels"} if split is None else {"labels", f"{split}_head", f"{split}_rest"}
        return (used - derived) | ({split} if split is not None else frozenset())


def parse_task(text: str, *, where: str) -> TaskSpec:
    """Parse and check a task file. Raises TaskError naming `where` and the key."""
    if len(text) > MAX_TASK_CHARS:
        raise TaskError(f"{where}: {len(text)} characters, expected at most {MAX_TASK_CHARS}")
    try:
        raw = parse_toml(text)
    except DocumentError as error:
        raise TaskError(f"{where}: {error}") from None
    tables = {name: raw.pop(name, {}) for name in _TABLES}
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise TaskError(f"{where}: [{name}] must be a table")
    labels = _build(LabelSpec, tables["labels"], f"{where}: labels")
    query = _build(QuerySpec, tables["query"], f"{where}: query")
    spec = TaskSpec(
        head=_build(Head, raw, where),
        labels=labels,
        query=query,
        history=_build_all(HistorySpec, tables["history"], f"{where}: history"),
        templates=_build_all(TemplateSpec, tables["templates"], f"{where}: templates"),
        label_pattern=_regex(labels.pattern, f"{where}: labels.pattern"),
        query_pattern=_regex(query.pattern, f"{where}: query.pattern"),
    )
    _check_head(spec, where)
    _check_labels(spec, where)
    _check_query(spec, where)
    for name, template in spec.templates.items():
        if template.history not in spec.history:
            raise TaskError(f"{where}: templates.{name}.history names no [history.*] table")
        for objective in spec.history:
            compile_set(spec, name, objective, where=where)
    return spec


def compile_set(spec: TaskSpec, name: str, objective: str, *, where: str) -> Compiled:
    """Compile template set `name` with history objective `objective`.

    Raises TaskError for unknown or dropped placeholders and for an answer shown in its prompt.
    """
    template, history = spec.templates[name], spec.history[objective]
    labels = {"labels"} if spec.labels.values else set()
    place = f"{where}: templates.{name}"
    _check_words(template, place)
    cut = spec.query_placeholders
    query = compile_template(template.query, cut | labels | {"input"}, where=f"{place}.query")
    dropped = frozenset() if "input" in query.placeholders else cut - query.placeholders
    if dropped != frozenset(template.drops):
        raise TaskError(
            f"{place}: the query template leaves out {sorted(dropped)}, "
            f"but drops says {sorted(template.drops)}",
            hint="use every part of the query, or list what is left out on purpose in drops",
        )
    fields = set(spec.head.fields)
    line = compile_template(template.line, fields, where=f"{place}.line")
    place = f"{where}: history.{objective}"
    if history.split is not None:
        _check_split(history, fields, place)
        fields = fields - {history.split} | {f"{history.split}_head", f"{history.split}_rest"}
    prompt = compile_template(history.prompt, fields | labels, where=f"{place}.prompt")
    answer = compile_template(history.answer, fields, where=f"{place}.answer")
    if not answer.placeholders:
        raise TaskError(f"{place}: the answer holds no field of the item")
    if shown := prompt.placeholders & answer.placeholders:
        raise TaskError(f"{place}: the prompt shows {sorted(shown)}, which is the answer")
    if history.split is not None and (
        f"{history.split}_head" not in prompt.placeholders
        or f"{history.split}_rest" not in answer.placeholders
    ):
        raise TaskError(f"{place}: the split's head belongs in the prompt, its rest in the answer")
    return Compiled(query, prompt, answer, line, template, history)


def _build(kind: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise TaskError(f"{where}: must be a table")
    try:
        return from_mapping(kind, values, where=where)
    except ConfigError as error:
        raise TaskError(
            error.message, hint=error.hint or "the format is in docs/tasks.md"
        ) from None


def _build_all(kind: type[T], tables: dict[str, Any], where: str) -> dict[str, T]:
    if not tables:
        raise TaskError(f"{where}: at least one table is needed")
    for name in tables:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise TaskError(f"{where}.{name}: names are lower case letters, digits and hyphens")
    return {name: _build(kind, values, f"{where}.{name}") for name, values in tables.items()}


def _regex(pattern: str | None, where: str) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise TaskError(f"{where}: not a regular expression, {error}") from None


def _check_head(spec: TaskSpec, where: str) -> None:
    head = spec.head
    if head.kind not in get_args(Kind):
        raise TaskError(f"{where}: kind must be one of {', '.join(get_args(Kind))}")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", head.name) or len(head.name) > MAX_NAME:
        raise TaskError(
            f"{where}: name may hold letters, digits and _ . - only, at most {MAX_NAME} of them"
        )
    if not all(text.isprintable() for text in (head.title, *head.aliases)):
        raise TaskError(f"{where}: title and aliases are a line of printable text each")
    if not head.fields or not all(re.fullmatch(r"[a-z][a-z0-9_]*", f) for f in head.fields):
        raise TaskError(f"{where}: fields must be a list of lower case names")
    if reserved := {"id", "date", "labels", "input"} & set(head.fields):
        raise TaskError(f"{where}: fields {sorted(reserved)} are reserved names")
    allowed = METRICS[head.kind]
    if not head.metrics or not set(head.metrics) <= set(allowed):
        raise TaskError(
            f"{where}: metrics of a {head.kind} task are chosen from {', '.join(allowed)}"
        )
    if head.template not in spec.templates:
        raise TaskError(f"{where}: template names no [templates.*] table")


def _check_labels(spec: TaskSpec, where: str) -> None:
    values = spec.labels.values
    if spec.head.kind == "generation":
        if values or spec.labels.pattern is not None:
            raise TaskError(f"{where}: a generation task has no labels")
        return
    if not values and spec.label_pattern is None:
        raise TaskError(f"{where}: labels need values, a pattern, or both")
    if spec.label_pattern is not None and "labels" not in spec.label_pattern.groupindex:
        raise TaskError(f"{where}: labels.pattern needs a group (?P<labels>...)")
    if not spec.labels.separator:
        raise TaskError(f"{where}: labels.separator must not be empty")
    if len(set(values)) != len(values) or any(v != v.strip() or not v for v in values):
        raise TaskError(f"{where}: labels.values must be distinct and without outer blanks")
    if spec.head.kind == "ordinal":
        if len(values) < 2:
            raise TaskError(f"{where}: an ordinal task lists its scale in labels.values")
        if not all(_is_number(value) for value in values):
            raise TaskError(f"{where}: labels of an ordinal task must be numbers")


def _check_query(spec: TaskSpec, where: str) -> None:
    if spec.query.markers and spec.query.pattern is not None:
        raise TaskError(f"{where}: query has markers and a pattern; choose one")
    if not all(spec.query.markers):
        raise TaskError(f"{where}: query.markers must not be empty strings")
    if spec.query_pattern is not None and not spec.query_pattern.groupindex:
        raise TaskError(f"{where}: query.pattern needs named groups (?P<name>...)")
    if {"labels", "input"} & spec.query_placeholders:
        raise TaskError(f"{where}: 'labels' and 'input' are reserved names in query.pattern")


def _check_words(template: TemplateSpec, place: str) -> None:
    for name in ("query_words", "training_query_words", "history_words", "line_words"):
        words = getattr(template, name)
        if words is not None and not 1 <= words <= MAX_WORDS:
            raise TaskError(f"{place}.{name} must be 1 to {MAX_WORDS}")
    if template.query_words is not None and template.training_query_words is not None:
        raise TaskError(
            f"{place}: has query_words and training_query_words; choose one",
            hint="query_words cuts every query, training_query_words those that are trained on",
        )
    if unknown := sorted(set(template.collapse) - set(COLLAPSIBLE)):
        raise TaskError(
            f"{place}.collapse: unknown {', '.join(unknown)}",
            hint=f"known: {', '.join(COLLAPSIBLE)}",
        )


def _check_split(history: HistorySpec, fields: set[str], place: str) -> None:
    if history.split not in fields:
        raise TaskError(f"{place}: split must name one of the fields")
    share = history.split_share
    if len(share) != 2 or not 0 <= share[0] <= share[1] < 1:
        raise TaskError(f"{place}: split_share must be two numbers, 0 <= low <= high < 1")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
