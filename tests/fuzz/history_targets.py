"""Histories and questions in every form a person has them: read as written, or refused."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from client.commands.generate import open_questions
from client.history.reading import History, ReadOptions, read_history
from proper_model.tasks.task import load_task
from tests.fuzz.harness import CANARY, Files
from tests.fuzz.mutators import TEXTS, dump, spoil_bytes, spoil_json
from tests.histories import READ

WORDS = ("plot", "naïve", "🎬 film", "a, b; c", 'said "no"', "line\nbreak", "Ω", "12", "4.0", "é")
NAMES = ("history", "history.json", "history.jsonl", "history.csv", "history.js", "history.txt")
DATES = ("2021-02-11", "11.02.2021", "03/04/2024", "1577836800", "2021", "4 June 2020", "soon", "")
# Options in any combination: some contradict each other, and some are none.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "form": ("json", "jsonl", "csv", "lamp", "whatsapp", "clippings", "xml"),
    "columns": (
        {"text": "text"},
        {"text": "[].text", "score": "[].score"},
        {"text": "a.b.c", "date": ""},
        {"score": "My Rating", "text": "score"},
        {"nothing": "x"},
        {"text": ""},
        {"id": "messages[].id", "text": "messages[].text"},
    ),
    "max_items": (0, 1, 2),
    "scale": ("half-stars:round-up", "quarter-stars:nearest", "1-10:1-5", "0-1:1-5", "5-1:x"),
    "date_order": ("dmy", "mdy", "ymd", "x"),
    "use_date": (False,),
    "sender": ("Ada", "Name user42", ""),
}


class HistoryTarget:
    """A history whose items are known: unspoilt it is read exactly; spoilt, nothing is made up."""

    name = "history"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "history"

    def sound(self) -> Files:
        return sample("telegram")

    def case(self, rng: Random) -> Files:
        if rng.random() < 0.6:
            files = dict(sample(rng.choice(list(READ))))
        else:
            name, data, rows = _own(rng)
            truth = {"name": name, "task": "LaMP_3", "options": {}, "rows": rows}
            files = {"history": data, "truth.json": json.dumps(truth).encode()}
        truth = json.loads(files["truth.json"])
        data = files["history"]
        changes = rng.randrange(1, 8) if rng.random() < 0.9 else 0
        if changes & 1:
            spoil = spoil_json if rng.random() < 0.6 else spoil_bytes
            data = _spoilt_lines(data, rng) if rng.random() < 0.3 else spoil(data, rng)
        if changes & 2:
            chosen = rng.sample(sorted(OPTIONS), rng.choice((1, 1, 2, 3)))
            truth["options"] |= {option: rng.choice(OPTIONS[option]) for option in chosen}
            truth["options"]["lenient"] = rng.random() < 0.5
        if changes & 4:
            truth["name"] = rng.choice((truth["name"], *NAMES))
            truth["task"] = rng.choice((truth["task"], "LaMP_7", "LaMP_4"))
        if changes:
            truth["rows"] = None
        return {"history": data, "truth.json": json.dumps(truth).encode()}

    def judge(self, files: Files) -> str | None:
        truth = json.loads(files["truth.json"])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        path = self.folder / truth["name"]
        path.write_bytes(files["history"])
        task = load_task(truth["task"])
        found = read_history(path, task, ReadOptions(**truth["options"]))
        if any(CANARY in warning for warning in found.warnings):
            return "a warning quotes the person's text"
        if found.read != len(found.items) + sum(found.left_out.values()):
            return "counts that do not add up"
        if any(not task.required_fields <= item.fields.keys() for item in found.items):
            return "an item without a field that its task needs"
        answers = [item.fields[task.answer_field] for item in found.items if task.answer_field]
        if task.labels and not set(answers) <= set(task.labels):
            return "an answer that is no label"
        if truth["rows"] is not None:
            return _compare(found, truth["rows"])
        return _made_up(found, files["history"])


def sample(name: str) -> Files:
    """A sample of an export, and what is to be read of it, with a canary in texts no header has."""
    (file, task, options), content, expected, _ = READ[name]
    rows = [[date, dict(fields)] for date, fields in expected]
    words = {max(re.findall(r"\w+", fields["text"]), key=len) for _, fields in expected}
    for word in sorted(words - {"body"}):
        whole = re.compile(rf"\b{word}\b")
        content = whole.sub(CANARY + word, content)
        for _, fields in rows:
            fields["text"] = whole.sub(CANARY + word, fields["text"])
    truth = {"name": file, "task": task, "options": options, "rows": rows}
    return {"history": content.encode(), "truth.json": json.dumps(truth).encode()}


def _compare(found: History, rows: list[Any]) -> str | None:
    got = [[item.date, dict(item.fields)] for item in found.items]
    return None if got == rows else "read other items than were written"


def _made_up(found: History, data: bytes) -> str | None:
    """Whether every text of the items stands in the file, however it is written there."""
    text = _as_text(data)
    known = "".join(_bare(form) for one in (text, *_texts(text)) for form in _forms(one))
    for item in found.items:
        for name, value in item.fields.items():
            # What becomes of a rating, the tests of the scale say.
            if name != "score" and _bare(value) not in known:
                return "an item holds what the file does not"
    return None


def _as_text(data: bytes) -> str:
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if wide else "utf-8", "replace").removeprefix("\ufeff")


def _forms(text: str) -> set[str]:
    """A text as it stands, and as a site may have written it."""
    plain = re.sub(r"<[^<>]*>", "", text)
    return {text, plain, html.unescape(text), html.unescape(plain)}


_UNSEEN = re.compile("[\\s\ufeff\ufffd\u200e\u200f\u202a-\u202c\u2066-\u2069]+")


def _bare(text: str) -> str:
    """Without what readers drop or mend: blanks, marks, halves of a pair."""
    return _UNSEEN.sub("", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _texts(text: str) -> Iterator[str]:
    """Every string and number of the file under every reading of it."""
    for part in (text, *text.splitlines(), text.partition("=")[2]):
        with contextlib.suppress(ValueError, RecursionError):
            while part := part.lstrip():  # one value after another
                value, end = json.JSONDecoder().raw_decode(part)
                yield from _leaves(value)
                part = part[end:]
    for delimiter in ",;\t|":
        with contextlib.suppress(csv.Error):
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
                yield from row


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        # A message may be a list of its parts.
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        yield "".join(part for part in parts if isinstance(part, str))
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield str(value)
        yield json.dumps(value)


def _own(rng: Random) -> tuple[str, bytes, list[Any]]:
    """A file of the task's own fields, and its items as [date, fields] oldest first."""
    rows = [
        {"id": f"i{n}", "text": f"{CANARY}{n} {rng.choice(WORDS)}", "score": rng.choice("12345")}
        for n in range(rng.choice((1, 3, 8)))
    ]
    if rng.random() < 0.5:
        for n, row in enumerate(rows):
            row["date"] = f"2021-0{n + 1}-11"
    expected = [[row.get("date"), {k: row[k] for k in ("text", "score")}] for row in rows]
    name, data = rng.choice((_json, _jsonl, _csv, _user))(rows, rng)
    return name, data, expected


def _json(rows: list[dict[str, str]], rng: Random) -> tuple[str, bytes]:
    return "history.json", dump(rows, rng)


def _jsonl(rows: list[dict[str, str]], rng: Random) -> tuple[str, bytes]:
    return "history.jsonl", b"\n".join(dump(row, rng) for row in rows) + b"\n"


def _user(rows: list[dict[str, str]], rng: Random) -> tuple[str, bytes]:
    return "user.json", dump({"user_id": "u", "profile": rows}, rng)


def _csv(rows: list[dict[str, str]], rng: Random) -> tuple[str, bytes]:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], delimiter=rng.choice(",;\t"), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return "history.csv", text.getvalue().encode()


def _spoilt_lines(data: bytes, rng: Random) -> bytes:
    """Lines doubled, lost, exchanged, or with an odd cell."""
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[at], lines[other] = lines[other], lines[at]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines[at] += rng.choice((b",", b'"', b";", b"\t", b"\r"))
        case _:
            cell = rng.choice((*TEXTS, *DATES)).encode("utf-8", "surrogatepass")
            lines[at] = lines[at].replace(b",", b"," + cell + b",", 1)
    return b"\n".join(lines)


class QuestionTarget:
    """A file of questions for `proper generate --input`."""

    name = "questions"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "questions.jsonl"

    def sound(self) -> Files:
        return {"questions.jsonl": b'{"id": "q1", "input": "one"}\n{"input": "two"}\n'}

    def case(self, rng: Random) -> Files:
        rows = [{"id": f"q{n}", "input": f"{CANARY} {rng.choice(WORDS)}"} for n in range(3)]
        lines = [dump(row, rng) for row in rows]
        at = rng.randrange(len(lines))
        lines[at] = rng.choice((spoil_json, spoil_bytes))(lines[at], rng)
        return {"questions.jsonl": b"\n".join(lines)}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["questions.jsonl"])
        known = {_bare(text) for text in _texts(_as_text(files["questions.jsonl"]))}
        with open_questions(self.path) as questions:
            asked = list(questions.rows)
        if questions.total != len(asked):
            return "counts that do not add up"
        made_up = any(_bare(question.input) not in known for question in asked)
        return "asks what the file does not" if made_up else None
