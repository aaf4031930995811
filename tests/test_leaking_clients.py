"""Builds of `proper` that leak on purpose, each in one kind of place: the scan must find every one.

A person's commands run in this process, over a release of the tests, and the real server around a
session without a model is visited as in `proper-sim privacy egress`; folders, files, requests and the
list of what is allowed are those of the real run.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import gguf
import pytest
import safetensors.torch
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from client.commands import export, rebase
from client.export import folder as exported
from client.person.state import encode
from client.serving import app, completions
from client.serving.faults import RequestError
from client.terminal import command_line
from coordinator.keys import load_or_create_key
from coordinator.publish import publish
from coordinator.run_keys import KEYS_FOLDER, RELEASE_KEY
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.errors import DataError, SimulationError
from proper_model.release.contents import release_to_files
from simulations.privacy.egress import client_life
from simulations.privacy.egress.canaries import Canary, draw, plant
from simulations.privacy.egress.cast import OF_PERSON, PERSON
from simulations.privacy.egress.measured import examine
from simulations.privacy.egress.person_commands import (
    EXPORTS,
    SECRETS,
    TOKEN,
    Typed,
    visits,
    write_given,
)
from simulations.privacy.egress.person_run import (
    GIVEN,
    allowed_of_person,
    check_codes,
    check_statuses,
    next_release,
)
from simulations.privacy.egress.scanned_run import OUTPUTS, ScannedRun
from simulations.privacy.egress.visitor import STATUSES, Visit, visit_all
from tests import serving
from tests.device_cli import Person, quick_release
from tests.releases import small_users

Leak = Callable[[pytest.MonkeyPatch, str], None]


def drawn() -> dict[str, Canary]:
    known = draw(PERSON, (*OF_PERSON, *SECRETS))
    return known | {TOKEN: Canary(TOKEN, PERSON, text=serving.TOKEN)}


@dataclass
class Scanned:
    """A person in a folder that is scanned, as in the real run."""

    root: Path
    known: dict[str, Canary]

    @property
    def place(self) -> Path:
        return self.root / self.known["path"].text

    @property
    def outputs(self) -> Path:
        return self.root / OUTPUTS

    @property
    def person(self) -> Person:
        return Person(self.place / "private", self.place / GIVEN / "passphrase")

    def text(self, name: str) -> str:
        return self.known[name].text

    @contextmanager
    def heard(self, name: str) -> Iterator[None]:
        with (
            (self.outputs / f"{name}.stdout").open("w") as out,
            (self.outputs / f"{name}.stderr").open("w") as errors,
            redirect_stdout(out),
            redirect_stderr(errors),
        ):
            yield

    def run(self, *words: str | Path) -> int:
        """One command; `command.stdout` and `.stderr` are what it said."""
        with self.heard(f"00-{next(str(w) for w in words if str(w).isalpha())}"):
            return self.person.run(*words)

    def leaked(self) -> set[tuple[str, str]]:
        """(canary, place) of all that stands where it must not; nothing that was never planted."""
        notes = self.root.parent / "notes"
        canaries = tuple(self.known.values())
        part = examine(ScannedRun("client", self.root, notes, canaries, allowed_of_person(), {}))
        assert part.false_alarms == []
        return {(leak.canary, at.split(" at ")[0]) for leak in part.leaks for at in leak.places}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scanned, Path]:
    """A person who has adapted over a release; and that release's folder."""
    folder = tmp_path_factory.mktemp("leaking")
    key = load_or_create_key(folder / "run" / KEYS_FOLDER / RELEASE_KEY)
    release = folder / "run" / "release"
    files, now = release_to_files(quick_release()), datetime.now(UTC)
    publish(files, release, [key], created=now, valid_for_days=90)
    (release / "root.json").write_bytes(TrustedRoot.of([key]).to_bytes())
    known = drawn()
    scanned = Scanned(folder / "scanned", known)
    given = scanned.place / GIVEN
    for made in (given, scanned.outputs):
        made.mkdir(parents=True)
    write_given(given, plant(small_users()[1][0], known, keep=["tag"]), known)
    assert scanned.run("bundle", "add", release) == 0
    assert scanned.run("adapt", given / "user.json") == 0
    return scanned, release


@pytest.fixture
def scanned(adapted: tuple[Scanned, Path]) -> Iterator[Scanned]:
    """The person; what a test has left beside the home is removed."""
    one, _ = adapted
    before = {path for path in one.root.rglob("*") if one.person.home not in path.parents}
    yield one
    for path in sorted(one.root.rglob("*"), reverse=True):
        if path not in before and one.person.home not in path.parents:
            path.rmdir() if path.is_dir() else path.unlink()


def bug(text: str) -> Callable[..., None]:
    """What fails as no command is meant to, with a text in a variable and in its message."""

    def fail(*_args: object, **_more: object) -> None:
        line = f"a line with {text}"
        raise KeyError(line)

    return fail


def test_an_honest_client_leaks_nothing(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in EXPORTS.items():
        assert (
            scanned.run("--debug", "export", "--format", *kind, "--out", scanned.place / name) == 0
        )
    assert scanned.leaked() == set()
    for name in ("broken.json", "bad.json", "not-text.json", "bad.csv"):
        assert scanned.run("--debug", "update", scanned.place / GIVEN / name) == DataError.exit_code
        assert scanned.leaked() == set()
    assert scanned.run("generate", "tell", scanned.text("question")) == 2
    assert scanned.leaked() == set()
    monkeypatch.setattr(export, "export_model", bug(scanned.text("item text")))
    assert scanned.run("--debug", "export", "--format", "peft", "--out", scanned.place / "x") == 1
    said = (scanned.outputs / "00-export.stderr").read_text()
    assert "in fail" in said, "a traceback shows where it happened"
    assert "KeyError" in said
    assert scanned.leaked() == set()


def in_readme(patch: pytest.MonkeyPatch, text: str) -> None:
    honest = exported.peft_readme
    patch.setattr(exported, "peft_readme", lambda *given: honest(*given) + f"Trained on: {text}")


def in_metadata(patch: pytest.MonkeyPatch, text: str) -> None:
    def save(tensors: dict, metadata: dict) -> bytes:
        return safetensors.torch.save(tensors, metadata | {"items": json.dumps([text])})

    patch.setattr(exported, "save", save)


def in_gguf(patch: pytest.MonkeyPatch, text: str) -> None:
    honest = gguf.GGUFWriter.add_type

    def add_type(writer: gguf.GGUFWriter, kind: str) -> None:
        honest(writer, kind)
        writer.add_description(text)

    patch.setattr(gguf.GGUFWriter, "add_type", add_type)


def beside_the_folder(patch: pytest.MonkeyPatch, text: str) -> None:
    honest = exported.write_adapter

    def write(out: Path, *given: object) -> int:
        out.with_name("export.log").write_bytes(text.encode("utf-16-le").hex().encode())
        return honest(out, *given)

    patch.setattr(exported, "write_adapter", write)


EXPORTING = {
    "a README": (in_readme, "adapter", "<path>/adapter/README.md"),
    "metadata of tensors": (in_metadata, "adapter", "<path>/adapter/adapter_model.safetensors"),
    "metadata of GGUF": (in_gguf, "gguf", "<path>/gguf/adapter.gguf"),
    "a file beside the folder": (beside_the_folder, "adapter", "<path>/export.log"),
}


@pytest.mark.parametrize("leak", EXPORTING)
def test_an_export_with_a_text_is_found(
    leak: str, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, name, place = EXPORTING[leak]
    plan(monkeypatch, scanned.text("item text"))
    out = scanned.place / name
    assert scanned.run("export", "--format", *EXPORTS[name], "--out", out) == 0
    assert scanned.leaked() == {("item text", place)}


def test_an_export_that_names_the_persons_folder_is_found(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_readme(monkeypatch, str(scanned.person.home))
    out = scanned.place / "adapter"
    assert scanned.run("export", "--format", "peft", "--out", out) == 0
    assert scanned.leaked() == {("path", "<path>/adapter/README.md")}


def with_locals(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def with_messages(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("shown", [with_locals, with_messages])
def test_a_traceback_that_shows_a_text_is_found(
    shown: Callable[[BaseException], str], scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "traceback_of", shown)
    monkeypatch.setattr(export, "export_model", bug(scanned.text("item text")))
    words = ["export", "--format", "peft", "--out", scanned.place / "adapter"]
    assert scanned.run(*words) == 1
    assert scanned.leaked() == set()
    assert scanned.run("--debug", *words) == 1
    found = scanned.leaked()  # locals are more than the text
    assert ("item text", f"{OUTPUTS}/00-export.stderr") in found
    assert {place for _, place in found} == {f"{OUTPUTS}/00-export.stderr"}


def test_words_of_the_command_line_in_an_error_are_found(
    scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(error: command_line.click.ClickException) -> tuple[str, str]:
        return error.format_message(), ""

    monkeypatch.setattr(command_line, "told_of_usage", quoting)
    assert scanned.run("generate", "tell", scanned.text("question")) == 2
    assert scanned.leaked() == {("question", f"{OUTPUTS}/00-generate.stderr")}


def test_a_rebase_that_leaves_the_state_in_clear_is_found(
    adapted: tuple[Scanned, Path], scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the next release, which holds the same content."""
    _, release = adapted
    assert scanned.run("bundle", "add", next_release(release, scanned.root / "next")) == 0
    honest = rebase.store

    def store(vault, state, **said: object) -> None:
        (vault.folder / "before-rebase").write_bytes(encode(state))
        honest(vault, state, **said)

    monkeypatch.setattr(rebase, "store", store)
    assert scanned.run("rebase") == 0
    left = scanned.person.home / "vault" / "before-rebase"
    place = str(Path("<path>") / left.relative_to(scanned.place))
    assert scanned.leaked() == {(name, place) for name in ("item id", "item text")}
    left.unlink()
    assert scanned.leaked() == set()


class Answering(serving.FakeSession):
    """Answers with the question, as a model may; `told` is what a leaking one does with it."""

    told: Callable[[str], object] = staticmethod(lambda _: None)

    def generate(self, messages, *, stage, manner):
        self.told(messages[-1].text)
        return super().generate(messages, stage=stage, manner=manner)


def visit(scanned: Scanned, session: serving.FakeSession) -> list[Visit]:
    """Ask everything that the real run asks, into files that are scanned."""
    user = plant(small_users()[1][0], scanned.known)
    asked, answers = visits(scanned.known, user), scanned.outputs / client_life.VISITED
    answers.mkdir()
    with scanned.heard("00-serve"), serving.running(session) as server:
        statuses = visit_all(asked, server.port, serving.TOKEN, answers)
    (answers / STATUSES).write_text(json.dumps(statuses))
    return asked


def test_an_honest_server_leaks_nothing(scanned: Scanned) -> None:
    asked = visit(scanned, Answering())
    assert len(check_statuses(scanned.outputs, asked)) == len(asked)
    assert scanned.leaked() == set()
    answer = (scanned.outputs / client_life.VISITED / "asked-text-whole").read_bytes()
    assert scanned.text("question").encode() in answer, "control: the answer can hold the question"


def logging_prompts(_: pytest.MonkeyPatch, session: Answering) -> None:
    session.told = lambda prompt: sys.stderr.write(f"asked: {prompt}\n")


def quoting_bad_input(patch: pytest.MonkeyPatch, _: Answering) -> None:
    def parse_body(model, data: bytes):
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise RequestError(400, str(error)) from None

    patch.setattr(completions, "parse_body", parse_body)


def quoting_addresses(patch: pytest.MonkeyPatch, _: Answering) -> None:
    async def refuse(request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"{request.url.path}: no such page"}, status_code=404)

    patch.setattr(app, "_refuse", refuse)


def telling_the_last_question(_: pytest.MonkeyPatch, session: Answering) -> None:
    def note(prompt: str) -> None:
        session.task = prompt

    session.told = note


def quoting_ids(_: pytest.MonkeyPatch, session: Answering) -> None:
    def forget(ids, *, progress):
        raise DataError(f"{ids[0]}: no such item")

    session.forget = forget


SERVING = {
    "a log of prompts": (logging_prompts, {("question", f"{OUTPUTS}/00-serve.stderr")}),
    "a 400 that quotes its input": (
        quoting_bad_input,
        {
            (name, f"{OUTPUTS}/visited/refused-{which}")
            for name, which in (
                ("exception", "type-whole"),
                ("exception", "type-streamed"),
                ("exception", "part-whole"),
                ("exception", "part-streamed"),
                ("exception", "json"),
            )
        },
    ),
    "a 404 that quotes its address": (
        quoting_addresses,
        {("exception", f"{OUTPUTS}/visited/refused-address")},
    ),
    "a status with the last question": (
        telling_the_last_question,
        {("question", f"{OUTPUTS}/visited/status")},
    ),
    "a failure that quotes ids": (
        quoting_ids,
        {
            ("exception", f"{OUTPUTS}/visited/forget-none-told"),
            ("item id", f"{OUTPUTS}/visited/forget-one-told"),
            ("item id", f"{OUTPUTS}/visited/status"),
        },
    ),
}


@pytest.mark.parametrize("leak", SERVING)
def test_a_server_that_tells_more_than_the_answer_is_found(
    leak: str, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, expected = SERVING[leak]
    session = Answering()
    plan(monkeypatch, session)
    visit(scanned, session)
    found = scanned.leaked()
    assert expected <= found
    assert all(place.startswith(f"{OUTPUTS}/") for _, place in found)


def test_a_life_that_went_otherwise_is_no_life_that_was_scanned(tmp_path: Path) -> None:
    (tmp_path / client_life.CODES).write_text(json.dumps({"00-export": 0, "01-export": 49}))
    typed = [Typed(["export"]), Typed(["export"], 49)]
    told = {"exit code of 00-export": 0, "exit code of 01-export": 49}
    assert check_codes(tmp_path, typed) == told
    with pytest.raises(SimulationError, match="01-export that was to be scanned ended with 49"):
        check_codes(tmp_path, [typed[0], typed[0]])
    answers = tmp_path / client_life.VISITED
    answers.mkdir()
    (answers / STATUSES).write_text(json.dumps({"page": 500}))
    with pytest.raises(SimulationError, match="request page that was to be scanned ended with 500"):
        check_statuses(tmp_path, [Visit("page", "GET", "/", 200)])


def test_the_name_of_an_output_is_a_commands_never_a_persons() -> None:
    known = ("adapt", "generate")
    assert client_life.name_of(3, ["--debug", "generate", "adapt me"], known) == "03-generate"
    assert client_life.name_of(4, ["zqword", "of mine"], known) == "04-unknown"
