"""Consents of pooled people: recorded, withdrawn, asked for before training and publishing, and erased."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from coordinator import pooled_stages, server_app
from coordinator.cli import run_cli
from coordinator.consents import Consents, Training, changing, content_of, read_consents
from coordinator.phase_people import mark_of, write_people
from coordinator.republication import _check_consents
from proper_model.bundle.file_names import RECIPE
from proper_model.errors import BusyError, ConfigError, StorageError
from proper_model.federation.run_plan import RunPlan
from proper_model.release.contents import Release
from proper_model.release.recipe import parse_recipe
from proper_model.storage.durable import locked
from proper_model.storage.files import save_private
from tests.federation import make_federation
from tests.releases import small_release

SECRET = "zq-an-id-that-is-secret"
THEN, LATER = "2026-01-02T03:04:05Z", "2026-02-03T04:05:06Z"


def training(people: list[str], run: Path, *, cache: str = "", content: str = "a" * 64) -> Training:
    return Training(
        content=content, signed=LATER, release=None, people=people, run=str(run), cache=cache
    )


def test_a_consent_stands_until_it_is_withdrawn_and_only_for_its_releases() -> None:
    found = Consents().recorded(["ada", "ben"], [], THEN).recorded(["cem"], ["spring"], THEN)
    assert found.standing(None) == {"ada", "ben"}
    assert found.standing("spring") == {"ada", "ben", "cem"}
    assert found.standing("autumn") == {"ada", "ben"}
    assert found.recorded(["ada"], [], LATER) == found  # has the same already
    gone = found.without(["ada"], LATER)
    assert gone.standing("spring") == {"ben", "cem"} and gone.withdrawn() == {"ada"}
    back = gone.recorded(["ada"], [], LATER)  # what was withdrawn stays on record
    assert back.withdrawn() == set() and len(back.consents) == len(gone.consents) + 1
    assert "ada" in back.standing(None)


def test_a_release_says_numbers_and_who_withdrew_since_the_one_before(tmp_path: Path) -> None:
    found = Consents().recorded(["ada", "ben", "cem", "dot"], [], THEN)
    first, second = tmp_path / "first", tmp_path / "second"
    assert found.counts(["ada"], left_out=0, run=first)["withdrawn_since_previous"] == 0
    found = found.with_training(training(["ada", "ben", "cem"], first))
    found = found.without(["ada", "dot"], LATER)  # dot was in no release
    said = found.counts(["ben", "cem"], left_out=2, run=second)
    assert said == {"recorded": True, "people": 2, "left_out": 2, "withdrawn_since_previous": 1}
    # A coordinator that is killed after its record and started again says the same.
    again = found.with_training(training(["ben", "cem"], second, content="b" * 64))
    assert again.counts(["ben", "cem"], left_out=2, run=second) == said
    assert [one.content[0] for one in again.trained_with(["ada"])] == ["a"]


def test_the_file_is_strict_private_and_quotes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "consents.json"
    with changing(path) as change:
        change.after = change.after.recorded(["ada"], ["spring"], THEN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_consents(path).standing("spring") == {"ada"}
    whole = json.loads(path.read_bytes())
    entry = whole["consents"][0]
    broken: list[Any] = [
        "[]",
        f'{{"{SECRET}": 1, ',
        {**whole, SECRET: 1},
        {**whole, "format": 2},
        {**whole, "format": True},
        {**whole, "consents": [{**entry, SECRET: SECRET}]},
        {**whole, "consents": [{**entry, "given": SECRET}]},
        {**whole, "consents": [{**entry, "withdrawn": "2025-01-01T00:00:00Z"}]},
        {**whole, "consents": [{**entry, "user_id": f"{SECRET}\n"}]},
        {**whole, "consents": [{**entry, "releases": [f"../{SECRET}"]}]},
    ]
    for content in broken:
        text = content if isinstance(content, str) else json.dumps(content)
        save_private(path, text.encode())
        with pytest.raises(ConfigError) as caught:
            read_consents(path)
        assert SECRET not in f"{caught.value.message} {caught.value.hint}", content
    save_private(path, json.dumps(whole).encode())
    path.chmod(0o644)
    with pytest.raises(StorageError, match="other users"):
        read_consents(path)


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "consents.json"
    with changing(path) as change:
        change.after = change.after.recorded(["ada"], [], THEN)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="person 2") as caught, changing(path) as change:
        change.after = change.after.without(["ada", SECRET], LATER)
    assert SECRET not in str(caught.value) and path.read_bytes() == before


def planted_run(folder: Path) -> dict[str, Path]:
    """Phases of ada and ben, of ben alone, and of nobody known; a run's texts."""
    places = {name: folder / "cache" / f"group-{name * 24}" for name in "abc"}
    for place in places.values():
        place.mkdir(parents=True)
        (place / "done.safetensors").write_bytes(b"x")
    write_people(places["a"], [mark_of("ada"), mark_of("ben")])
    write_people(places["b"], [mark_of("ben")])
    texts = folder / "run" / "server" / "pooled.json"
    texts.parent.mkdir(parents=True)
    texts.write_text("texts")
    return places | {"texts": texts}


def test_from_record_to_erasure_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids = tmp_path / "consents.json", tmp_path / "ids"
    ids.write_text("ada\r\nben\n\nada\n")

    def call(*words: str, code: int = 0) -> str:
        assert run_cli(["consent", *words]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    assert "2 consents; 0 had" in call("record", str(file), "--people", str(ids))
    assert "0 consents; 2 had" in call("record", str(file), "--people", str(ids))
    places = planted_run(tmp_path)
    with changing(file) as change:
        made = training(["ada", "ben"], tmp_path / "run", cache=str(tmp_path / "cache"))
        change.after = change.after.with_training(made)
    ids.write_text(f"ada\n{SECRET}\n")
    assert SECRET not in call("withdraw", str(file), "--people", str(ids), code=11)
    ids.write_text("ada\n")
    told = call("withdraw", str(file), "--people", str(ids))
    assert "withdrawn: 1 person;" in told and f"in a release: signed {LATER}" in told
    assert str(places["a"]) in told and str(places["texts"]) in told
    assert str(places["b"]) not in told and places["a"].exists()
    rows = [line.split("\t") for line in call("list", str(file)).splitlines()]
    assert rows.pop(0) == ["id", "given", "withdrawn", "for releases", "in releases"]
    assert [(row[0], row[2] == "-", row[4]) for row in rows] == [
        ("ada", False, "1"),
        ("ben", True, "1"),
    ]
    with locked(places["a"].with_name(f".{places['a'].name}.lock"), timeout_s=0):
        assert "trains this phase now" in call("erase", str(file), code=BusyError.exit_code)
    assert str(places["a"]) in call("erase", str(file))
    assert [places[name].exists() for name in ("a", "b", "c", "texts")] == [
        False,
        True,
        True,
        False,
    ]
    assert call("erase", str(file)).startswith("0 deleted\nin a release")
    ids.write_text("ada\n" + SECRET * 100 + "\n")
    assert "person 2" in call("record", str(file), "--people", str(ids), code=11)
    words = ("record", str(file), "--people", str(ids), "--release", f"{SECRET} !")
    assert SECRET not in call(*words, code=11)
    ids.write_bytes(b"\xff")
    assert "UTF-8" in call("record", str(file), "--people", str(ids), code=11)
    ids.write_text("\n")
    assert "nobody" in call("record", str(file), "--people", str(ids), code=11)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """Twelve pooled people who agreed; the stages are trained already."""
    file = tmp_path / "consents.json"
    with changing(file) as change:
        people = [f"pooled{number}" for number in range(12)]
        change.after = change.after.recorded(people, [], THEN)
    made = make_federation(tmp_path / "out", base=False, consents=file, left_out=3)

    def trained(*_: object, **__: object) -> Release:
        return small_release()

    monkeypatch.setattr(pooled_stages, "run_pooled_stages", trained)
    return made


def notes_of(path: Path) -> Any:
    return parse_recipe((path / RECIPE).read_bytes()).notes["consents"]


def files_of(path: Path) -> dict[str, bytes]:
    signed = ("manifest.json", "signatures.json")
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in signed
    }


def test_a_run_says_its_consents_records_its_people_and_is_not_published_after_a_withdrawal(
    plan: RunPlan,
) -> None:
    assert plan.consents is not None
    release = server_app.make_release(plan, lambda *_: None)
    said = notes_of(release.path)
    assert said == {"recorded": True, "people": 12, "left_out": 3, "withdrawn_since_previous": 0}
    files, consents = files_of(release.path), read_consents(plan.consents)
    (one,) = consents.trainings
    assert len(one.people) == 12 and (one.run, one.cache) == (str(plan.out), str(plan.cache))
    assert not [name for name, data in files.items() if b"pooled1" in data]  # numbers, no ids
    _check_consents(files, consents)
    with pytest.raises(ConfigError, match="recorded consents"):
        _check_consents(files, None)
    with pytest.raises(ConfigError, match="say nothing"):
        _check_consents({**files, RECIPE: b"another"}, consents)
    gone = consents.without(["pooled3"], LATER)
    with pytest.raises(ConfigError, match="1 of 12"):
        _check_consents(files, gone)
    with changing(plan.consents) as change:
        change.after = gone
    with pytest.raises(ConfigError, match="1 of 12"):
        server_app.make_release(plan, lambda *_: None)


def test_somebody_who_withdraws_while_the_stages_train_is_not_signed(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def withdrawing(*_: object, **__: object) -> Release:
        assert plan.consents is not None
        with changing(plan.consents) as change:
            change.after = change.after.without(["pooled3"], LATER)
        return small_release()

    monkeypatch.setattr(pooled_stages, "run_pooled_stages", withdrawing)
    with pytest.raises(ConfigError, match="1 of 12"):
        server_app.make_release(plan, lambda *_: None)
    assert not (plan.out / "server" / "release").exists()


def test_a_run_without_a_file_says_that_none_were_recorded(plan: RunPlan) -> None:
    release = server_app.make_release(plan.model_copy(update={"consents": None}), lambda *_: None)
    assert notes_of(release.path) == {"recorded": False}
    _check_consents(files_of(release.path), None)


def test_where_consents_lie_is_no_part_of_a_runs_identity(plan: RunPlan) -> None:
    without = plan.model_copy(update={"consents": None, "left_out": 0, "release_name": "spring"})
    assert without.fingerprint() == plan.fingerprint()


def test_the_content_of_a_release_is_its_files_whatever_signs_them() -> None:
    assert content_of({"a": "1", "b": "2"}) == content_of({"b": "2", "a": "1"})
    assert content_of({"a": "1"}) != content_of({"a": "2"})


def test_a_place_that_cannot_be_written_is_no_internal_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("ada\n")
    for place in (tmp_path / "file" / "consents.json", tmp_path):
        words = ["consent", "record", str(place), "--people", str(tmp_path / "file")]
        assert run_cli(words) == StorageError.exit_code
        assert "internal" not in capsys.readouterr().err


def call(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> tuple[str, str]:
    """What `proper-coordinator consent` says on stdout and on stderr."""
    assert run_cli(["consent", *map(str, words)]) == code
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.parametrize("content", [b"# No consents\n", b'{"format": 1, "consents'])
def test_another_file_is_not_told_to_be_closed(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_bytes(content)
    other.chmod(0o644)
    _, said = call(capsys, "list", other, code=ConfigError.exit_code)
    assert "expected a file of consents" in said and "chmod" not in said
    other.write_bytes(b"{}")  # one of them, though empty
    assert f"chmod 600 {other}" in call(capsys, "list", other, code=StorageError.exit_code)[1]


def test_nobody_withdraws_from_a_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, gone = tmp_path / "ids", tmp_path / "nosuch.json"
    ids.write_text("ada\n")
    words = ("withdraw", gone, "--people", ids)
    assert "No such file" in call(capsys, *words, code=StorageError.exit_code)[1]
    assert list(tmp_path.iterdir()) == [ids]  # no lock either


@pytest.mark.parametrize("blank", [" ", "\t", "\N{NO-BREAK SPACE}"])
def test_an_id_with_a_blank_at_an_end_is_nobody(blank: str) -> None:
    found = Consents().recorded(["ada"], [], THEN)
    for who in (f"{SECRET}{blank}", f"{blank}{SECRET}"):
        with pytest.raises(ConfigError, match="person 2 .* begins or ends with a blank") as caught:
            found.recorded(["ben", who], [], LATER)
        assert SECRET not in str(caught.value)
    assert found.recorded([f"a{blank}b"], [], LATER).standing(None) == {"ada", f"a{blank}b"}


def test_a_wider_consent_that_still_stands_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids = tmp_path / "consents.json", tmp_path / "ids"
    with changing(file) as change:
        agreed = Consents().recorded(["ada", "ben"], [], THEN).recorded(["cem"], ["spring"], THEN)
        change.after = agreed.recorded(["dot"], ["autumn", "spring"], THEN).without(["ben"], LATER)
    ids.write_text("ada\nben\ncem\ndot\n")
    words = ("record", file, "--people", ids)
    said = call(capsys, *words, "--release", "spring")
    assert "3 consents; 1 had" in said[0] and "2 people have a wider consent" in said[1]
    assert "wider" not in call(capsys, *words)[1]  # none is wider than every release
    call(capsys, "withdraw", file, "--people", ids)
    assert "wider" not in call(capsys, *words, "--release", "spring")[1]
    assert read_consents(file).standing("autumn") == set()


def test_who_withdraws_again_is_not_counted_but_told_when_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids = tmp_path / "consents.json", tmp_path / "ids"
    with changing(file) as change:
        # ada withdrew twice and ben came back.
        agreed = Consents().recorded(["ada", "ben", "cem"], [], THEN).without(["ada", "ben"], THEN)
        change.after = agreed.recorded(["ada", "ben"], [], LATER).without(["ada"], LATER)
    words = ("withdraw", file, "--people", ids)
    ids.write_text("ada\nben\ncem\n")
    said, _ = call(capsys, *words)
    assert "withdrawn: 2 people;" in said
    assert f"had withdrawn before: 1 person, {LATER}\n" in said
    whole = file.read_bytes()
    ids.write_text("ada\n")
    said, _ = call(capsys, *words)
    assert said.startswith(f"withdrawn: 0 people\nhad withdrawn before: 1 person, {LATER}\n")
    assert file.read_bytes() == whole


def withdrawn_training(folder: Path) -> Path:
    """A file of consents: ada withdrew from the release of `planted_run`."""
    file = folder / "consents.json"
    with changing(file) as change:
        made = training(["ada", "ben"], folder / "run", cache=str(folder / "cache"))
        agreed = Consents().recorded(["ada", "ben"], [], THEN).with_training(made)
        change.after = agreed.without(["ada"], LATER)
    return file


def test_folders_that_are_not_found_are_said_and_looked_at_in_their_new_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids, new = withdrawn_training(tmp_path), tmp_path / "ids", tmp_path / "new"
    ids.write_text("ada\n")
    missing = f"not found: {tmp_path / 'run'}\nnot found: {tmp_path / 'cache'}\n"
    said, hint = call(capsys, "erase", file)
    assert said.startswith(f"{missing}0 deleted; 2 folders not found\n")
    assert "if it was moved, give its new place" in hint
    said, hint = call(capsys, "withdraw", file, "--people", ids)
    assert f"still there: nothing in folders that were found\n{missing}" in said
    assert "if it was moved, give its new place" in hint

    new.mkdir()
    places = planted_run(new)
    moved = ("--moved", f"{tmp_path / 'run'}={new / 'run'}", "--moved", f"{tmp_path}={new}")
    said, hint = call(capsys, "withdraw", file, "--people", ids, *moved)
    assert f"still there: {places['a']}\nstill there: {places['texts']}\n" in said
    assert "not found" not in said and "moved" not in hint
    assert "\n2 deleted\n" in call(capsys, "erase", file, *moved)[0]
    assert [places[name].exists() for name in ("a", "b", "texts")] == [False, True, False]
    said, _ = call(capsys, "withdraw", file, "--people", ids, *moved)
    assert "still there: nothing\n" in said and "not found" not in said


def test_a_folder_that_is_typed_and_not_there_stops_before_anything_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids = withdrawn_training(tmp_path), tmp_path / "ids"
    places, before = planted_run(tmp_path), file.read_bytes()
    ids.write_text("ben\n")
    for words in (("erase", file), ("withdraw", file, "--people", ids)):
        for wrong in (("--cache", tmp_path / "no"), ("--moved", f"{tmp_path}={tmp_path / 'no'}")):
            _, said = call(capsys, *words, *wrong, code=StorageError.exit_code)
            assert f"not found: {tmp_path / 'no'}" in said and "give its new place" in said
        for typed in (f"{tmp_path / 'other'}={tmp_path}", "nothing"):
            call(capsys, *words, "--moved", typed, code=ConfigError.exit_code)
    assert file.read_bytes() == before and places["a"].exists() and places["texts"].exists()


def test_what_nobody_withdrew_from_is_not_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "consents.json"
    with changing(file) as change:
        made = training(["ada"], tmp_path / "run", cache=str(tmp_path / "cache"))
        change.after = Consents().recorded(["ada"], [], THEN).with_training(made)
    assert call(capsys, "erase", file)[0] == "0 deleted\n"
