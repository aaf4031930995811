"""A task file out of four answers: a name, one item as a line, the kind of answer, what counts.

The line says how an item of a history is asked and answered, `note: {text} mood: {mood}`: its last field is the
answer, all before it is the prompt. What is written is read by `task_from_toml` before anybody gets it, so
whatever a task file may not say is refused here in the same words (docs/tasks.md).
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from proper_model.errors import TaskError
from proper_model.tasks.schema import METRICS, Kind
from proper_model.tasks.task import Task, task_from_toml
from proper_model.tasks.templates import Template, compile_template

SET = "short"  # what shipped profiles ask for
TEXT = "text"
MOST_SCORES = 101
USUAL_METRIC: dict[Kind, str] = {
    "classification": "accuracy",
    "ordinal": "mae",
    "generation": "rougeL",
}
_SCORES = re.compile(r"(\d{1,4})\s*-\s*(\d{1,4})")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Answers:
    """What an answer may be: any text, or one of `labels`."""

    kind: Kind
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ItemLine:
    """An item as a line, taken apart.

    Attributes:
        whole: as it was given.
        prompt: what stands before the answer, without the blank in between.
        asked: fields of the prompt, in order.
        answer: the field that is the answer.
    """

    whole: str
    prompt: Template
    asked: tuple[str, ...]
    answer: str


def read_line(line: str) -> ItemLine:
    """An item's line, for example `note: {text} mood: {mood}`. Raises TaskError."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(line) if name]
    except ValueError:
        names = []
    parts = compile_template(line, names, where="item").parts
    if not parts or parts[-1][1] is None:
        raise TaskError(
            "item: ends with other text than a field, expected the answer's field in braces at its end",
            hint="for example: note: {text} mood: {mood}",
        )
    before, answer = (*parts[:-1], (parts[-1][0].rstrip(), None)), str(parts[-1][1])
    asked = tuple(dict.fromkeys(name for _, name in before if name is not None))
    if not asked or answer in asked:
        raise TaskError(
            f"item: {len(asked)} fields before the answer {{{answer}}}, which stands at the end alone; "
            "expected one or more others",
            hint="for example: note: {text} mood: {mood}",
        )
    return ItemLine(line, Template(before), asked, answer)


def read_answers(given: str) -> Answers:
    """The kind of answer: `text`, scores as `1-5` or `1, 2, 3`, or labels as `calm, angry`. Raises TaskError."""
    given = given.strip()
    if given == TEXT:
        return Answers("generation")
    scores = _SCORES.fullmatch(given)
    if scores is not None:
        first, last = int(scores[1]), int(scores[2])
        if not 1 <= last - first < MOST_SCORES:
            raise TaskError(
                f"answer: scores from {first} to {last}, expected 2 to {MOST_SCORES} of them, rising",
                hint="for example: 1-5",
            )
        return Answers("ordinal", tuple(map(str, range(first, last + 1))))
    labels = tuple(label.strip() for label in given.split(","))
    if len(labels) < 2 or not all(labels) or len(set(labels)) < len(labels):
        raise TaskError(
            f"answer: {len(labels)} labels, expected at least two different ones with commas between",
            hint=f"{TEXT} for any text, 1-5 for scores, or labels: calm, angry",
        )
    numbers = all(_NUMBER.fullmatch(label) for label in labels)
    return Answers("ordinal" if numbers else "classification", labels)


def metrics_of(kind: Kind) -> tuple[str, ...]:
    """What may count for answers of a kind."""
    return METRICS[kind]


def read_metric(given: str | None, kind: Kind) -> tuple[str, ...]:
    """The task's metrics, the one that counts first; None: the usual one. Raises TaskError."""
    chosen = (given or USUAL_METRIC[kind]).strip()
    if chosen not in METRICS[kind]:
        raise TaskError(
            f"metric: not one of a {kind} task",
            hint=f"choose from {', '.join(METRICS[kind])}",
        )
    return (chosen, *(metric for metric in METRICS[kind] if metric != chosen))


def make_task(name: str, item: str, answer: str, metric: str | None = None) -> Task:
    """The task of the four answers; its `toml_text` is the file. Raises TaskError."""
    line, answers = read_line(item), read_answers(answer)
    metrics = read_metric(metric, answers.kind)
    asked = _braced(line.prompt)
    head = [
        f"name = {_text(name)}",
        f"title = {_text(name)}",
        f"kind = {_text(answers.kind)}",
        f"template = {_text(SET)}",
        f"fields = {_list((*line.asked, line.answer))}",
        f"metrics = {_list(metrics)}",
    ]
    labels = ["[labels]", f"values = {_list(answers.labels)}"] if answers.labels else []
    alone = len(line.asked) == 1
    query = [] if alone else ["[query]", f"pattern = {_text(_pattern(line.prompt))}"]
    # With a single field a question is that field and nothing else.
    text = Template(tuple((part, name and "text") for part, name in line.prompt.parts))
    question = _braced(text) if alone else asked
    history = [
        f"[history.{SET}]",
        f"prompt = {_text(asked)}",
        f"answer = {_text(f'{{{line.answer}}}')}",
    ]
    shown = f"{line.whole}\n"
    templates = [
        f"[templates.{SET}]",
        f"query = {_text(question)}",
        f"history = {_text(SET)}",
        f"line = {_text(shown)}",
    ]
    tables = (head, labels, query, history, templates)
    file = "\n\n".join("\n".join(table) for table in tables if table) + "\n"
    return task_from_toml(file, where="new task")


def _braced(template: Template) -> str:
    """A template's text, literal braces doubled again."""
    literal = (text.replace("{", "{{").replace("}", "}}") for text, _ in template.parts)
    names = (f"{{{name}}}" if name is not None else "" for _, name in template.parts)
    return "".join(a + b for a, b in zip(literal, names, strict=True))


def _pattern(template: Template) -> str:
    """A regular expression that takes a question in the prompt's wording apart."""
    found, seen = "", set()
    for literal, name in template.parts:
        found += re.escape(literal)
        if name is not None:
            found += f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"
            seen.add(name)
    return rf"^{found}\s*$"


def _text(value: str) -> str:
    """A TOML string: JSON's are among them, but for one character that JSON takes as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
