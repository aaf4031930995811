"""Builds that leak on purpose, one in each way: the scan of a run must find every one of them.

A node answers requests in this process, over the backend that records messages; a child is witnessed.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import typer
from federation import CANARY, flower_identity, make_federation
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.cli import app
from client.node import cohort_host, flower_app
from client.node.cohort_host import CohortHost
from proper_model.errors import EgressError, StorageError
from proper_model.federation.protocol import Kind, Status, request_fields
from simulations.cli import run_cli
from simulations.flower import flower_engine
from simulations.flower.actors import RECORDED
from simulations.outcome.results import Document
from simulations.privacy.egress import measured as module
from simulations.privacy.egress import witness
from simulations.privacy.egress.canaries import Canary, draw, draw_numbers, never_planted
from simulations.privacy.egress.cast import learned, make_cast
from simulations.privacy.egress.measured import EgressResult, Part, examine, sentence
from simulations.privacy.egress.person_commands import commands, visits, write_given
from simulations.privacy.egress.person_run import marks
from simulations.privacy.egress.scanned_run import Allowed, ScannedRun
from simulations.privacy.egress.scanner import Finding
from tests.documents import document, error_document

__all__ = ["flower_identity"]  # a fixture, used by name

BUNDLE = "ab" * 32
# These have nothing of a person's: bases, releases without people, task files. All others are in the scanned life.
SCANNED_COMMANDS = set(typer.main.get_group(app).commands) - {"base", "start", "new-task"}
TEXT = Canary("item text", "test", text=CANARY)
NUMBERS = draw_numbers("tensor", "test", np.random.default_rng(0))
ALLOWED = (
    Allowed("out/devices/*", "test", "the device's own"),
    Allowed("out/server/pooled.json", "test", "pooled people have the same mark here"),
)


class InThisProcess:
    """In the place of the pool of processes."""

    def ask(self, request):
        message, where = request
        handlers = {Kind.PERSONALIZE: flower_app.personalize, Kind.HAVE: flower_app.have}
        return handlers[Kind(message.metadata.message_type)](message, where), where


def converse(out: Path, monkeypatch: pytest.MonkeyPatch) -> ScannedRun:
    """Both sides of two requests as they travel, recorded; and the run to be scanned."""
    plan = make_federation(out / "out", devices=3, users_per_node=3, base=False)
    wire = out / "messages"
    wire.mkdir()
    monkeypatch.setenv(RECORDED, str(wire))
    monkeypatch.setattr(flower_engine, "ActorPool", lambda _: InThisProcess())
    backend = flower_engine.ProcessBackend([])
    hosts = {"partition-id": 0, "num-partitions": 1}
    where = Context(1, 5, hosts, RecordDict(), {"plan": str(plan.out / "plan.json")})
    (plan.devices[0].folder / "numbers").write_bytes(np.array(NUMBERS.numbers).tobytes())
    for kind, more in ((Kind.PERSONALIZE, {}), (Kind.HAVE, {"pieces": [BUNDLE]})):
        fields = request_fields(kind, BUNDLE, **more)
        message = Message(RecordDict({"config": ConfigRecord(fields)}), 5, kind.value)
        message.metadata.__dict__["_message_id"] = kind.value
        backend.process_message(message, where)
    assert len(list(wire.iterdir())) == 4
    return ScannedRun("hand-made", out, out.parent / "notes", (TEXT, NUMBERS), ALLOWED, {})


def leaked(part: Part) -> set[tuple[str, str, str]]:
    """(canary, form, where) without offsets."""
    return {
        (leak.canary, leak.form, place.split(" at ")[0])
        for leak in part.leaks
        for place in leak.places
    }


def test_an_honest_build_leaks_nothing(tmp_path, monkeypatch):
    def fail(*_args):
        raise ValueError(CANARY)

    monkeypatch.setattr(CohortHost, "personalize", fail)
    part = examine(converse(tmp_path / "run", monkeypatch))
    assert part.clean
    assert part.meant[0].times > 3
    assert (tmp_path / "run" / "out" / "nodes" / "0" / "failure.json").is_file()


def unchecked(_kind, records, **_asked):
    """An exit that lets everything pass."""
    return dict(records)


LEAKS = {
    "text": (CANARY, ("item text", "utf-8")),
    "base64": (
        "loss=" + base64.b64encode(b"12" + CANARY.encode() + b"3").decode(),
        ("item text", "utf-8 base64+2"),
    ),
    "compressed": (
        zlib.compress(b"word " * 30 + CANARY.encode()),
        ("item text", "utf-8 in zlib at"),
    ),
    "float32": (np.array(NUMBERS.numbers, np.float32).tobytes(), ("tensor", "float32")),
    "float16": (np.array(NUMBERS.numbers, np.float16).tobytes(), ("tensor", "float16")),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_reply_with_more_than_a_status_is_found(kind, tmp_path, monkeypatch):
    sent, (canary, form) = LEAKS[kind]
    monkeypatch.setattr(CohortHost, "missing", lambda *_: [sent])
    monkeypatch.setattr(CohortHost, "personalize", lambda *_: Status.OK)
    monkeypatch.setattr(flower_app, "outgoing", unchecked)
    part = examine(converse(tmp_path / "run", monkeypatch))
    ((name, found, place),) = leaked(part)
    assert (name, place) == (canary, "messages/query.have.reply")
    assert found.startswith(form)


def test_the_text_of_an_exception_in_a_reply_or_a_note_is_found(tmp_path, monkeypatch):
    def fail(*_args):
        raise KeyError(CANARY)

    class Told:
        value = CANARY

    monkeypatch.setattr(CohortHost, "personalize", fail)
    monkeypatch.setattr(flower_app, "outgoing", unchecked)
    monkeypatch.setattr(flower_app, "status_of", lambda *_: Told)
    monkeypatch.setattr(cohort_host, "describe", lambda error: ("KeyError", str(error)))
    part = examine(converse(tmp_path / "run", monkeypatch))
    assert leaked(part) == {
        ("item text", "utf-8", "messages/train.personalize.reply"),
        ("item text", "utf-8", "out/nodes/0/failure.json"),
    }
    assert "2 times where they must not be" in sentence([part])


def test_a_device_that_holds_anothers_text_is_found(tmp_path):
    one, two = (draw(owner, ["item text"])["item text"] for owner in ("test 0", "test 1"))
    for number in (0, 1):
        folder = tmp_path / "run" / "devices" / str(number)
        folder.mkdir(parents=True)
        (folder / "user.json").write_text(one.text + (two.text if number else ""))
    rules = tuple(Allowed(f"devices/{n}/*", f"test {n}", "its own") for n in (0, 1))
    part = examine(ScannedRun("r", tmp_path / "run", tmp_path / "notes", (one, two), rules, {}))
    assert leaked(part) == {("item text", "utf-8", "devices/1/user.json")}
    assert part.leaks[0].owner == "test 0"


CHILD = """
import os, socket, sys, tempfile
secret, elsewhere = sys.argv[1:]
with tempfile.NamedTemporaryFile("w") as file:
    file.write(secret); file.flush()
with open("rewritten", "w") as file: file.write(secret)
with open("rewritten", "w") as file: file.write("nothing")
os.mkdir("folder")
with open("folder/one", "w") as file: file.write(secret)
with open("other", "w") as file: file.write("nothing")
os.replace("other", "folder/one")
with open(elsewhere, "w") as file: file.write(secret)
print("training on", secret)
with socket.socket() as one:
    one.settimeout(1)
    one.connect_ex(("127.0.0.1", 9))
"""


def test_files_that_are_gone_or_elsewhere_and_connections_are_found(tmp_path):
    root, notes = tmp_path / "run", tmp_path / "notes"
    for folder in (root / "tmp", root / "work", tmp_path / "far"):
        folder.mkdir(parents=True)
    environment = witness.attach(
        {**os.environ, "TMPDIR": str(root / "tmp")}, scanned=root, notes=notes
    )
    with (root / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-c", CHILD, CANARY, str(tmp_path / "far" / "file")],
            env=environment,
            cwd=root / "work",
            stdout=log,
            check=True,
        )
    assert not list((root / "tmp").iterdir())
    part = examine(ScannedRun("child", root, notes, (TEXT,), (), {}))
    places = sorted(place for _, _, place in leaked(part))
    assert places[:2] == ["elsewhere/file", "log"]
    gone = [Path(place).parts for place in places[2:]]
    assert [parts[0] for parts in gone] == ["removed"] * 3
    assert sorted(parts[2] for parts in gone) == ["tmp", "work", "work"]
    assert {parts[-1] for parts in gone} >= {"rewritten", "one"}
    assert part.network == 1
    rule = Allowed("work/*", "test", "its own")
    found = [Finding("/".join(parts), "item text", "test", "utf-8", 0) for parts in gone]
    assert [rule.covers(one) for one in found].count(True) == 2


def test_a_scan_that_could_not_have_seen_is_not_clean(tmp_path):
    (tmp_path / "run").mkdir()
    run = ScannedRun("r", tmp_path / "run", tmp_path / "notes", (TEXT, NUMBERS), (), {})
    part = examine(run)
    assert part.never_found == ["item text of test", "tensor of test"]
    assert not part.clean
    assert "says nothing" in sentence([part])
    inside = {"a state": CANARY.encode() + np.array(NUMBERS.numbers).tobytes()}
    seen = examine(ScannedRun(**{**run.__dict__, "inside": inside}))
    assert seen.clean
    assert seen.leaks == []
    assert "none was found" in sentence([seen])
    empty = Allowed("outputs/*", "test", "what was asked for", surely=True)
    left = examine(ScannedRun(**{**run.__dict__, "inside": inside, "allowed": (empty,)}))
    assert left.never_found == ["outputs/*"]
    assert not left.clean


def test_what_was_planted_nowhere_is_not_found_and_would_be(tmp_path):
    """The same strangers, once in no file and once, in a place for somebody else's, in one."""
    strangers = never_planted(np.random.default_rng(2))
    assert len(strangers) == 16
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log").write_text(CANARY)
    rules = (Allowed("*", "*", "whatever there is"),)
    run = ScannedRun("r", tmp_path / "run", tmp_path / "notes", (TEXT,), rules, {})
    assert examine(run, strangers).clean
    text, number = strangers[0], strangers[-1]
    told = text.text.encode() + np.array(number.numbers, np.float16).tobytes()
    (tmp_path / "run" / "log").write_bytes(CANARY.encode() + told)
    part = examine(run, strangers)
    assert [alarm.canary for alarm in part.false_alarms] == [number.name, text.name]
    assert (part.leaks, part.never_found, part.clean) == ([], [], False)
    assert "says nothing" in sentence([part])


def test_a_rule_for_names_of_files_is_none_for_their_contents():
    rule = Allowed("<path>*", "test", "called so", ("path",), forms="name *")
    for form, covered in (("name utf-8", True), ("utf-8", False), ("utf-8 in zlib at 3", False)):
        assert rule.covers(Finding("<path>/adapter/README.md", "path", "test", form, 0)) == covered


def test_the_people_of_both_runs_have_marks_of_their_own(tmp_path):
    cast = make_cast(0, np.random.default_rng(0))
    texts = [c.text for c in cast.canaries]
    assert len(set(texts)) == len(texts) == 5 * (len(cast.pooled) + len(cast.test)) + 7
    known = marks(cast)
    write_given(tmp_path, cast.alone, known)
    typed = commands(tmp_path, tmp_path, (tmp_path, tmp_path), known)
    words = json.dumps([one.words for one in typed])
    asked = "".join(one.body + one.path for one in visits(known, cast.alone))
    files = "".join(path.read_text(errors="replace") for path in tmp_path.iterdir())
    unused = [name for name, one in known.items() if one.text not in words + asked + files]
    assert unused == ["path"]
    failing = [one for one in typed if one.code]
    debugged = [one for one in typed if "--debug" in one.words]
    assert len(failing) == 2 * sum(one in debugged for one in failing)
    assert {word for one in typed for word in one.words} >= SCANNED_COMMANDS
    json.loads((tmp_path / "later.json").read_text())
    with pytest.raises(json.JSONDecodeError):
        json.loads((tmp_path / "broken.json").read_text())


@pytest.mark.parametrize(("places", "code"), [([], 0), (["a place at 3"], EgressError.exit_code)])
def test_the_command_fails_where_something_leaked(places, code, tmp_path, monkeypatch, capsys):
    leak = {"canary": "answer", "owner": "test 1", "form": "utf-8", "times": 1, "places": places}
    part = Part(
        name="client",
        canaries=3,
        files=2,
        bytes=10,
        leaks=[leak] if places else [],
        false_alarms=[],
        meant=[],
        never_found=[],
        incomplete=[],
        network=0,
        told={},
    )
    run = ScannedRun("client", tmp_path, tmp_path, (), (), {})
    monkeypatch.setattr(module, "run_federation", lambda *_: (run, tmp_path))
    monkeypatch.setattr(module, "run_client", lambda *_: run)
    monkeypatch.setattr(module, "examine", lambda _: part)
    out = tmp_path / "out"
    assert run_cli(["privacy", "egress", "--out", str(out), "--json"]) == code
    told = capsys.readouterr()
    found = error_document(told.out) if code else document(told.out, "privacy egress", "proper-sim")
    assert (found["clean"], found["runs"][0]["leaks"]) == (code == 0, len(places))
    result = EgressResult.model_validate_json((out / "egress.json").read_bytes())
    assert isinstance(result, Document)
    assert result.clean == (code == 0)
    assert found["sentence"] == result.sentence
    assert result.sentence in told.err.replace("\n", " ")
    assert ("leaked" in told.err) == bool(places)
    assert run_cli(["privacy", "egress", "--out", str(out)]) == StorageError.exit_code
    assert "expected a new or an empty folder" in capsys.readouterr().err


@pytest.mark.full
def test_nothing_of_a_person_leaves(tmp_path):
    """Minutes: a whole federation and a whole life with the program."""
    assert run_cli(["privacy", "egress", "--out", str(tmp_path / "out")]) == 0
    result = EgressResult.model_validate_json((tmp_path / "out" / "egress.json").read_bytes())
    assert [part.false_alarms for part in result.parts] == [[], []]


def test_numbers_that_the_release_holds_are_nobodys_even_if_two_people_stayed_at_them(
    tmp_path: Path,
) -> None:
    """A row of the release at which training left two devices; a third device's own numbers stay."""
    own = draw_numbers("tensor embedding", "test 2", np.random.default_rng(1))
    stayed = [dataclasses.replace(NUMBERS, owner=f"test {number}") for number in range(2)]
    row = np.array(NUMBERS.numbers, np.float32).tobytes()
    (tmp_path / "shared.safetensors").write_bytes(b"before" + row + b"behind")
    assert learned([*stayed, own], tmp_path) == (own,)


def test_a_folder_named_from_where_one_stands_is_found_by_what_runs_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []

    def run(folder: Path, *_: object) -> None:
        asked.append(folder)
        raise EgressError("far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run_federation", run)
    with pytest.raises(EgressError, match="far enough"):
        module.egress(Path("runs/here"))
    assert asked == [tmp_path / "runs/here/federation"]
