"""A task: how records become prompts and answers, which labels exist, how answers are scored.

A task is one TOML file, so that people bring their own; docs/tasks.md describes the format. Seven
LaMP tasks ship in `task_files`, each with the template sets `oppu` (byte for byte what OPPU's
release uses, docs/method.md 2.2), `oppu-fixed`, `lamp` and `short`, and six of them with `per-pcs`.
A set is named `SET`, or `SET+OBJECTIVE` to train on histories in another way (`oppu+lamp-peft`);
the name is part of every result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from proper_model.errors import DataError, TaskError
from proper_model.settings.shipped_profiles import profile_folder
from proper_model.tasks.records import HistoryItem, Place, Query, Report
from proper_model.tasks.schema import Compiled, Kind, TaskSpec, compile_set, parse_task
from proper_model.tasks.templates import Template, first_words

# How many own items stand before a question: so many, or the whole history as far as there is room.
Depth = int | Literal["all"]

SHIPPED = Path(__file__).parent / "task_files"


@dataclass(frozen=True)
class Example:
    """What the model is asked and should answer. The encoder joins the two by one space.

    Attributes:
        lines: own items before the question, if any (`proper_model.tasks.retrieval`).
    """

    id: str
    prompt: str
    answer: str
    lines: str = ""

    @property
    def asked(self) -> str:
        """All that stands before the answer."""
        return self.lines + self.prompt


@dataclass(frozen=True)
class Task:
    """One task under its active template set.

    Attributes:
        template: active set, `SET` or `SET+OBJECTIVE`.
        templates: names of all sets.
        labels: the task's own label list, None where only the prompt lists labels.
        fields: text fields of a history item that the task knows.
        metrics: names of the metrics to report.
        toml_text: the file's source, so that a bundle can ship the task.
        retrieve: how many own items stand before a question (`proper_model.tasks.retrieval`); part
            of how a person is asked, like the template, and in no task file.
    """

    name: str
    kind: Kind
    template: str
    templates: tuple[str, ...]
    labels: tuple[str, ...] | None
    fields: tuple[str, ...]
    metrics: tuple[str, ...]
    aliases: tuple[str, ...]
    title: str
    toml_text: str
    spec: TaskSpec = field(compare=False, repr=False)
    compiled: Compiled = field(compare=False, repr=False)
    retrieve: Depth = 0

    @property
    def required_fields(self) -> frozenset[str]:
        """Fields that every history item must have under the active template set."""
        return self.compiled.required_fields

    @property
    def answer_field(self) -> str | None:
        """The history field that is the whole answer, None if the answer is composed."""
        parts = self.compiled.answer.parts
        name = parts[0][1] if len(parts) == 1 and not parts[0][0] else None
        return name if name in self.fields else None

    def query_text(self, query: Query) -> dict[str, str] | None:
        """The parts cut out of a query's LaMP wording, None if it is worded in another way."""
        spec = self.spec
        if spec.query_pattern is not None:
            match = spec.query_pattern.search(query.input)
            if match is None:
                return None
            return {name: value or "" for name, value in match.groupdict().items()}
        if not spec.query.markers:
            return {"text": query.input}
        for marker in spec.query.markers:
            _, found, text = query.input.partition(marker)
            if found:
                return {"text": text}
        return None

    def query_example(self, query: Query, *, training: bool = False) -> Example:
        """The question and the user's answer. A query in unknown wording is asked as it stands.

        A template set may cut and collapse what is trained on (`training`) and leave other queries.
        """
        parts = self.query_text(query)
        prompt = self._query_part(query.input, training=training)
        if parts is not None:
            cut = {k: self._query_part(v, training=training) for k, v in parts.items()}
            prompt = self._query({**cut, "input": prompt})
        return Example(query.id, prompt, query.gold)

    def _query(self, parts: Mapping[str, str]) -> str:
        return self.compiled.query.render({**parts, "labels": self._label_list()})

    def _query_part(self, text: str, *, training: bool = False) -> str:
        spec = self.compiled.spec
        if not training:
            return first_words(text, spec.query_words)
        words = spec.query_words if spec.training_query_words is None else spec.training_query_words
        return first_words(text, words, collapse="training-query" in spec.collapse)

    def ask(self, text: str) -> str:
        """The prompt of a person's own question.

        Text in the task's LaMP wording is taken apart as a query is; any other text is the question
        itself, where the template asks for nothing else.
        """
        query = Query("question", text, "")
        placeholders = set(self.compiled.query.placeholders)
        if self.query_text(query) is None and placeholders <= {"text", "input", "labels"}:
            cut = self._query_part(text)
            return self._query({"text": cut, "input": cut})
        return self.query_example(query).prompt

    def history_example(self, item: HistoryItem) -> Example:
        """A history item as a training example. Raises DataError if a field is missing."""
        values = self._history_values(item)
        return Example(
            item.id, self.compiled.prompt.render(values), self.compiled.answer.render(values)
        )

    def _history_values(self, item: HistoryItem) -> dict[str, str]:
        compiled = self.compiled
        values = self._fields_of(item, compiled.spec.history_words, "history")
        values["labels"] = self._label_list()
        if compiled.history.split is not None:
            low, high = compiled.history.split_share
            head, rest = _split_words(values[compiled.history.split], low, high)
            values[f"{compiled.history.split}_head"] = head
            values[f"{compiled.history.split}_rest"] = rest
        return values

    def retrieval_line(self, item: HistoryItem, *, words: int | None = None) -> str:
        """A history item as a line before a question. Raises DataError if a field is missing.

        Args:
            words: of every field but the answer, where the line shows anything else.
        """
        compiled = self.compiled
        fields = self._fields_of(item, compiled.spec.line_words, "line")
        if words is not None:
            shown = compiled.line.placeholders
            for name in (shown - compiled.answer.placeholders) or shown:
                fields[name] = first_words(fields[name], words)
        return compiled.line.render(fields)

    def line_text(self, item: HistoryItem) -> str:
        """What the line shows of an item, without the template's own words: what is searched."""
        return _joined(self._fields_of(item, None, ""), self.compiled.line)

    def item_text(self, item: HistoryItem) -> str:
        """What an item's question shows of it: what is searched for when it is asked."""
        return _joined(self._history_values(item) | {"labels": ""}, self.compiled.prompt)

    def search_text(self, query: Query) -> str:
        """What a query shows beside the task's own wording: what is searched for."""
        parts = self.query_text(query)
        return query.input if parts is None else " ".join(parts.values())

    def labels_for(self, query: Query) -> tuple[str, ...]:
        """Labels this query may be answered with: those its prompt lists, else the task's own.

        Empty for generation. Raises DataError if neither exists.
        """
        spec = self.spec
        if spec.label_pattern is not None:
            match = spec.label_pattern.search(query.input)
            if match is not None:
                listed = (label.strip() for label in match["labels"].split(spec.labels.separator))
                return tuple(dict.fromkeys(label for label in listed if label))
        if self.labels is None and self.kind != "generation":
            raise DataError(
                f"query {short_id(query.id)}: the prompt lists no labels and the task has none",
                hint="give labels.values in the task file",
            )
        return self.labels or ()

    def check_query(self, query: Query, place: Place, report: Report) -> None:
        """Report a gold answer outside the labels, or labels that the prompt would not show."""
        if self.kind == "generation":
            return
        try:
            labels = self.labels_for(query)
        except DataError as error:
            report.error(place.at("input"), error.message)
            return
        shows = "labels" in self.compiled.query.placeholders
        if shows and self.labels is not None and set(labels) != set(self.labels):
            report.error(
                place.at("input"),
                f"query {short_id(query.id)} lists {len(labels)} labels that are not the "
                f"{len(self.labels)} of task {self.name}",
                hint="write a task file with these labels, or use template `lamp` or `short`",
            )
        if query.gold.strip() not in labels:
            close = folded(query.gold) in {folded(label) for label in labels}
            report.error(
                place.at("gold"),
                f"the answer of query {short_id(query.id)} is not among its {len(labels)} labels"
                + (", but differs from one of them only in case or spaces" if close else ""),
            )

    def _label_list(self) -> str:
        return self.spec.labels.separator.join(self.labels or ())

    def _fields_of(self, item: HistoryItem, words: int | None, where: str) -> dict[str, str]:
        """An item's fields, cut to so many words; `where` they go decides on white space."""
        missing = sorted(self.required_fields - item.fields.keys())
        if missing:
            raise DataError(
                f"history item {short_id(item.id)}: missing fields {', '.join(missing)}",
                hint=f"template set '{self.template}' of {self.name} needs them",
            )
        collapse = where in self.compiled.spec.collapse
        return {n: first_words(t, words, collapse=collapse) for n, t in item.fields.items()}


def _joined(values: Mapping[str, str], template: Template) -> str:
    """The values that a template shows, in its order."""
    return " ".join(values[name] for _, name in template.parts if name is not None)


def _split_words(text: str, low: float, high: float) -> tuple[str, str]:
    """Cut a text after a share of its words in [low, high]; the same text is always cut alike."""
    words = text.split()
    digest = hashlib.sha256(text.encode()).digest()
    share = low + (high - low) * int.from_bytes(digest[:4], "big") / (2**32 - 1)
    head = min(max(1, round(share * len(words))), len(words) - 1)
    if head < 1:
        return "", text
    return " ".join(words[:head]), " ".join(words[head:])


def folded(label: str) -> str:
    """A label without what people overlook: case and blanks."""
    return "".join(label.split()).casefold()


def short_id(identifier: str) -> str:
    """An id for a message: quoted, and cut, because ids come from users' files."""
    return repr(identifier if len(identifier) <= 40 else identifier[:37] + "...")


def shipped_tasks() -> tuple[str, ...]:
    """Names of the tasks that ship with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def example_tasks() -> Mapping[str, Path]:
    """Files of the tasks beside the shipped profiles, by name."""
    return {path.stem: path for path in sorted((profile_folder() / "tasks").glob("*.toml"))}


def load_task(name_or_path: str, *, template: str | None = None) -> Task:
    """A shipped task or example by name, or a task file by path. Raises TaskError."""
    path = Path(name_or_path)
    if name_or_path in shipped_tasks():
        path = SHIPPED / f"{name_or_path}.toml"
    elif path.suffix != ".toml":
        examples = example_tasks()
        if name_or_path not in examples:
            known = ", ".join((*shipped_tasks(), *examples))
            raise TaskError(
                f"unknown task '{name_or_path}'",
                hint=f"shipped: {known}; or give the path of a .toml file",
            )
        path = examples[name_or_path]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise TaskError(
            f"task file {path} cannot be read ({reason})",
            hint=f"check the path, or name a shipped task: {', '.join(shipped_tasks())}",
        ) from None
    return task_from_toml(text, template=template, where=path.name)


def task_from_toml(text: str, *, template: str | None = None, where: str = "task") -> Task:
    """A task from the text of its file under `template`, by default the file's own choice.

    Raises TaskError naming `where` and the key.
    """
    spec = parse_task(text, where=where)
    chosen = template or spec.head.template
    name, _, objective = chosen.partition("+")
    if name not in spec.templates:
        raise TaskError(
            f"{where}: no template set '{name}'", hint="sets: " + ", ".join(spec.templates)
        )
    objective = objective or spec.templates[name].history
    if objective not in spec.history:
        raise TaskError(
            f"{where}: no history objective '{objective}'",
            hint="objectives: " + ", ".join(spec.history),
        )
    return Task(
        name=spec.head.name,
        kind=cast("Kind", spec.head.kind),
        template=chosen,
        templates=tuple(spec.templates),
        labels=spec.labels.values or None,
        fields=spec.head.fields,
        metrics=spec.head.metrics,
        aliases=spec.head.aliases,
        title=spec.head.title,
        toml_text=text,
        spec=spec,
        compiled=compile_set(spec, name, objective, where=where),
    )
