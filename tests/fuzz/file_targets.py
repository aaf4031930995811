"""What people write and type: task files, profiles, data sets, addresses."""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
from pathlib import Path
from random import Random

import httpx

from client.releases.web_address import redirected, release_address
from proper_model.data.users import read_population, write_oppu
from proper_model.data.validation import validate
from proper_model.errors import DataError
from proper_model.settings.settings_io import from_mapping, to_mapping
from proper_model.settings.shipped_profiles import load_profile, profile_folder
from proper_model.tasks.records import HistoryItem, Place, Query, Report
from proper_model.tasks.task import load_task, shipped_tasks, task_from_toml
from tests.fuzz.harness import CANARY, Files
from tests.fuzz.mutators import spoil_bytes, spoil_json, spoil_toml


class TaskTarget:
    """Shipped task files, spoilt: what is taken can ask, answer and check."""

    name = "task"

    def __init__(self, folder: Path) -> None:
        del folder
        self.tasks = {name: load_task(name).toml_text for name in shipped_tasks()}

    def sound(self) -> Files:
        return {"task.toml": self.tasks["LaMP_2M"].encode()}

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

    def sound(self) -> Files:
        return {"profile.toml": self.good[0]}

    def case(self, rng: Random) -> Files:
        return {"profile.toml": spoil_toml(rng.choice(self.good), rng)}

    def judge(self, files: Files) -> str | None:
        self.path.write_bytes(files["profile.toml"])
        settings = load_profile(self.path)
        written = json.loads(json.dumps(to_mapping(settings)))
        same = from_mapping(type(settings), written, where="again") == settings
        return None if same else "is another profile when written and read again"


class DataTarget:
    """OPPU's two files, spoilt: what `proper-sim validate` finds no fault in is read, and is the same
    when written and read again.
    """

    name = "data"

    def __init__(self, folder: Path) -> None:
        self.folder, self.task = folder, load_task("LaMP_3")
        profile = [{"id": f"{n}", "text": f"{CANARY} w{n}", "score": "3"} for n in range(4)]
        query = [{"id": "q1", "input": f"{CANARY} w9", "gold": "4"}]
        self.user = {"profile": profile, "query": query}

    def sound(self) -> Files:
        return {
            name: json.dumps(
                [{"user_id": f"{name[:8]}{n}", **self.user} for n in range(4)]
            ).encode()
            for name in ("user_others.json", "user_top_100_history.json")
        }

    def case(self, rng: Random) -> Files:
        files = dict(self.sound())
        spoilt = rng.choice(list(files))
        spoil = rng.choice((spoil_json, spoil_json, spoil_bytes))
        return {**files, spoilt: spoil(files[spoilt], rng)}

    def judge(self, files: Files) -> str | None:
        given = self.folder / "given"
        shutil.rmtree(given, ignore_errors=True)
        given.mkdir()
        for name, data in files.items():
            (given / name).write_bytes(data)
        found = validate(given, self.task)
        if any(CANARY in problem.message for problem in found.problems):
            return "a problem quotes a person's text"
        if not found.ok:
            raise DataError(f"{found.errors} faults")
        population = read_population(given, self.task)
        write_oppu(population, self.folder / "given again")
        again = read_population(self.folder / "given again", self.task)
        if (again.pooled, again.test) != (population.pooled, population.test):
            return "other data when written and read again"
        return None


class AddressTarget:
    """Addresses that a person types or a server redirects to: https, and never further in."""

    name = "address"
    pieces = (
        *("https://", "http://", "//", "/", "javascript:", "file://"),
        *("@", ":", "?", "#", "%00", "\\"),
        *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"),
        *("10.0.0.1", "169.254.169.254", "[fc00::1]", "example.org", "xn--"),
        *("..", "[", "]", ".", "a"),
        *("é", "１", "。", " ", "\t", "99999", "0", "x" * 300, "%25", "[fe80::1%25lo]", "1.1.1.1"),
    )

    def __init__(self, folder: Path) -> None:
        del folder

    def sound(self) -> Files:
        return {"address": b"https://releases.example/folder"}

    def case(self, rng: Random) -> Files:
        parts = [rng.choice(self.pieces) for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.6:
            parts.insert(0, "https://")
        return {"address": "".join(parts).encode()}

    def judge(self, files: Files) -> str | None:
        text = files["address"].decode("utf-8", "replace")
        target = redirected(httpx.URL("https://releases.example/r"), text, "file")
        if target.scheme != "https" or leads_inwards(target.host):
            return "followed a redirect that leads inwards"
        typed = release_address(text)
        if typed.scheme != "https" and not (typed.scheme == "http" and leads_inwards(typed.host)):
            return "takes an address without encryption"
        return None


def leads_inwards(host: str) -> bool:
    """Whether the system takes a host for an address that is not on the internet; nothing is asked."""
    if host.removesuffix(".").lower().rpartition(".")[2] == "localhost":
        return True
    try:
        found = socket.getaddrinfo(host, 443, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return not all(ipaddress.ip_address(entry[4][0]).is_global for entry in found)
