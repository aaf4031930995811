"""What a person gives: histories in every form, task files, profiles, data sets, addresses."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx

from client.address_zones import Zone, zone_of_host
from client.history import History, read_history
from client.questions import open_questions
from client.web_address import redirected, release_address
from proper_model.profiles import load_profile, profile_folder
from proper_model.records import HistoryItem, Place, Query, Report
from proper_model.settings_io import from_mapping, to_mapping
from proper_model.tasks import load_task, shipped_tasks, task_from_toml
from tests.fuzz.harness import CANARY, Files
from tests.fuzz.mutators import TEXTS, dump, spoil_bytes, spoil_json, spoil_toml

WORDS = ("plot", "naïve", "🎬 film", "a, b; c", 'said "no"', "line\nbreak", "Ω", "12", "4.0", "é")
# Heads of files that other programs export, with a row of each; layouts as of 2024 to 2026.
EXPORTS = {
    "goodreads.csv": "Book Id,Title,Author,My Rating,Date Read,My Review\n1,{t},A,{n},2024/01/02,{t}\n",
    "storygraph.csv": "Title,Authors,Last Date Read,Star Rating,Review\n{t},A,2024/01/02,{n}.5,{t}\n",
    "letterboxd.csv": "Date,Name,Year,Letterboxd URI,Rating,Review\n2024-01-02,{t},1999,x,{n}.5,{t}\n",
    "imdb.csv": "Const,Your Rating,Date Rated,Title,Title Type\ntt1,{n},2024-01-02,{t},Movie\n",
    "reddit.csv": "id,permalink,date,ip,subreddit,body\na1,x,2024-01-02 03:04:05 UTC,,s,{t}\n",
    "excel.csv": "sep=;\r\ntext;score\r\n{t};{n}\r\n",
    "tweets.js": 'window.YTD.tweets.part0 = [{{"tweet": {{"id": "1", "full_text": "{t}", '
    '"created_at": "Wed Oct 10 20:19:24 +0000 2018"}}}}]',
    "outbox.json": '{{"@context": "x", "orderedItems": [{{"type": "Create", "published": '
    '"2024-01-02T03:04:05Z", "object": {{"content": "<p>{t}</p>"}}}}]}}',
    "result.json": '{{"name": "x", "type": "personal_chat", "messages": [{{"id": 1, "type": "message", '
    '"date": "2024-01-02T03:04:05", "from": "A", "text": "{t}"}}]}}',
    "chat.txt": "[02.01.24, 03:04:05] A: {t}\n02/01/2024, 03:04 - B: {t}\n",
    "My Clippings.txt": "\ufeff{t} (A)\r\n- Your Highlight on page 1 | Added on Monday\r\n\r\n{t}\r\n=\r\n",
}


class HistoryTarget:
    """A history whose items are known: unspoilt it is read exactly; spoilt, nothing is made up."""

    name = "history"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "history"
        self.task = load_task("LaMP_3")

    def case(self, rng: Random) -> Files:
        rows = [
            {
                "id": f"i{n}",
                "text": f"{CANARY}{n} {rng.choice(WORDS)}",
                "score": rng.choice("12345"),
            }
            for n in range(rng.choice((1, 3, 8)))
        ]
        if rng.random() < 0.5:
            for n, row in enumerate(rows):
                row["date"] = f"2021-0{n % 9 + 1}-11"
        name, data = rng.choice((_json, _jsonl, _csv, _user, _export))(rows, rng)
        if rng.random() < 0.9:
            spoil = spoil_json if name.endswith(".json") and rng.random() < 0.6 else spoil_bytes
            data = _spoilt_lines(data, rng) if rng.random() < 0.3 else spoil(data, rng)
            rows = []
        options = {"lenient": rng.random() < 0.4, "suffix": rng.random() < 0.9}
        truth = json.dumps({"rows": rows, **options}).encode()
        return {name: data, "truth.json": truth}

    def judge(self, files: Files) -> str | None:
        (name,) = (name for name in files if name != "truth.json")
        truth = json.loads(files["truth.json"])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        path = self.folder / (name if truth["suffix"] else "history")
        path.write_bytes(files[name])
        found = read_history(path, self.task, lenient=truth["lenient"])
        if any(CANARY in warning for warning in found.warnings):
            return "a warning quotes the person's text"
        if found.read != len(found.items) + sum(found.left_out.values()):
            return "counts that do not add up"
        if truth["rows"] and name not in EXPORTS:
            return _compare(found, truth["rows"])
        return _made_up(found, files[name])


def _compare(found: History, rows: list[dict[str, str]]) -> str | None:
    expected = {(_plain(row["text"]), row["score"]) for row in rows}
    got = {(_plain(item.fields["text"]), item.fields["score"]) for item in found.items}
    return None if got == expected else "read other items than were written"


def _made_up(found: History, data: bytes) -> str | None:
    """Whether every text of the items stands in the file, however it is written there."""
    known = {_plain(text) for text in _texts(data)}
    whole = _plain(data.decode("utf-8", "replace"))
    for item in found.items:
        for text in item.fields.values():
            plain = _plain(text)
            if plain not in known and plain not in whole and not _is_number_in(plain, known):
                return "an item holds what the file does not"
    return None


def _plain(text: str) -> str:
    """Without what readers may drop or mend: marks of byte order, blanks, halves of a pair."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(whole.replace("\ufeff", "").replace("\ufffd", "").split())


def _is_number_in(text: str, known: set[str]) -> bool:
    """4 for 4.0, and half of a ten-point scale."""
    try:
        value = float(text)
    except ValueError:
        return False
    for other in known:
        with contextlib.suppress(ValueError):
            if value in (float(other), float(other) / 2, round(float(other))):
                return True
    return False


def _texts(data: bytes) -> Iterator[str]:
    """Every string and number of the file under every reading of it."""
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
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
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield str(value)
        yield json.dumps(value)


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


def _export(rows: list[dict[str, str]], rng: Random) -> tuple[str, bytes]:
    name = rng.choice(list(EXPORTS))
    text = json.dumps(f"{CANARY} {rng.choice(WORDS[:3])}")[1:-1]
    return name, EXPORTS[name].format(t=text, n=rows[0]["score"]).encode()


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
            cell = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
            lines[at] = lines[at].replace(b",", b"," + cell + b",", 1)
    return b"\n".join(lines)


class QuestionTarget:
    """A file of questions for `proper generate --input`."""

    name = "questions"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "questions.jsonl"

    def case(self, rng: Random) -> Files:
        rows = [{"id": f"q{n}", "input": f"{CANARY} {rng.choice(WORDS)}"} for n in range(3)]
        lines = [dump(row, rng) for row in rows]
        at = rng.randrange(len(lines))
        lines[at] = rng.choice((spoil_json, spoil_bytes))(lines[at], rng)
        return {"questions.jsonl": b"\n".join(lines)}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["questions.jsonl"])
        known = {_plain(text) for text in _texts(files["questions.jsonl"])}
        with open_questions(self.path) as questions:
            asked = list(questions.rows)
        if questions.total != len(asked):
            return "counts that do not add up"
        made_up = any(_plain(question.input) not in known for question in asked)
        return "asks what the file does not" if made_up else None


class TaskTarget:
    """Shipped task files, spoilt: what is taken can ask, answer and check."""

    name = "task"

    def __init__(self, folder: Path) -> None:
        del folder
        self.tasks = {name: load_task(name).toml_text for name in shipped_tasks()}

    def case(self, rng: Random) -> Files:
        good = self.tasks[rng.choice(list(self.tasks))].encode()
        return {"task.toml": spoil_toml(good, rng)}

    def judge(self, files: Files) -> str | None:
        text = files["task.toml"].decode("utf-8", "replace")
        task = task_from_toml(text)
        again = task_from_toml(task.toml_text, template=task.template)
        if (again.name, again.labels, again.template) != (task.name, task.labels, task.template):
            return "is another task when read again"
        value = task.labels[0] if task.labels else "w1"
        item = HistoryItem(
            "i", dict.fromkeys((*task.required_fields, *task.spec.head.fields), value)
        )
        query = Query("q", 'review: w1 description: w2 "a" and "b"', value)
        report = Report(strict=False)
        task.history_example(item)
        task.retrieval_line(item)
        task.check_query(query, Place("x"), report)
        if not report.errors:
            task.query_example(query)
            task.labels_for(query)
        return None


class ProfileTarget:
    """Shipped profiles, spoilt: what is taken is the same after it was written and read."""

    name = "profile"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "profile.toml"
        self.good = [path.read_bytes() for path in sorted(profile_folder().glob("*.toml"))]

    def case(self, rng: Random) -> Files:
        return {"profile.toml": spoil_toml(rng.choice(self.good), rng)}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["profile.toml"])
        settings = load_profile(self.path)
        written = json.loads(json.dumps(to_mapping(settings)))
        same = from_mapping(type(settings), written, where="again") == settings
        return None if same else "is another profile when written and read again"


class DataTarget:
    """OPPU's two files, spoilt, through `proper-sim validate`."""

    name = "data"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.user = {
            "user_id": "u1",
            "profile": [{"id": f"{n}", "text": f"w{n}", "score": "3"} for n in range(4)],
            "query": [{"id": "q1", "input": "review: w9", "gold": "4"}],
        }

    def case(self, rng: Random) -> Files:
        users = [dict(self.user, user_id=f"u{n}") for n in range(3)]
        good = json.dumps(users).encode()
        names = ("user_others.json", "user_top_100_history.json")
        spoilt = rng.choice(names)
        return {name: spoil_json(good, rng) if name == spoilt else good for name in names}

    def judge(self, files: Files) -> str | None:
        from proper_model import validation

        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, data in files.items():
            (self.folder / name).write_bytes(data)
        validation.validate(self.folder, load_task("LaMP_3"))
        return None


class AddressTarget:
    """Addresses that a person types or a server redirects to: https, and never further in."""

    name = "address"
    pieces = (
        *(
            "https://",
            "http://",
            "//",
            "/",
            "javascript:",
            "file://",
            "@",
            ":",
            "?",
            "#",
            "%00",
            "\\",
        ),
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"),
        *(
            "10.0.0.1",
            "169.254.169.254",
            "[fc00::1]",
            "example.org",
            "xn--",
            "..",
            "[",
            "]",
            ".",
            "a",
        ),
        *("é", "１", "。", " ", "\t", "99999", "0", "x" * 300, "%25", "[fe80::1%25lo]", "1.1.1.1"),
    )

    def __init__(self, folder: Path) -> None:
        del folder

    def case(self, rng: Random) -> Files:
        parts = [rng.choice(self.pieces) for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.6:
            parts.insert(0, "https://")
        return {"address": "".join(parts).encode()}

    def judge(self, files: Files) -> str | None:
        text = files["address"].decode("utf-8", "replace")
        target = redirected(httpx.URL("https://releases.example/r"), text, "file")
        if target.scheme != "https" or zone_of_host(target.host) not in (None, Zone.INTERNET):
            return "followed a redirect that leads inwards"
        release_address(text)
        return None
