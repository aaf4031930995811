"""`proper` as a person runs it: from a release to a private model, and away with everything."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from client.cli import run_cli
from client.person import answering
from client.person.evaluation import count_tested
from client.person.stores import VaultStore
from client.terminal.terminal_text import preview
from client.vault.opening import Vault
from proper_model.engine import checkpoint, cohort
from proper_model.errors import ConfigError
from proper_model.release.contents import Release
from proper_model.storage.files import storage_errors
from proper_model.tasks.records import User
from tests.device_cli import CANARY, Person, publish_release, quick_release, write_csv, write_jsonl
from tests.releases import small_users

# The program in a process of its own, with a checkpoint after every second step.
PROGRAM = """
import sys
import proper_model.engine.cohort as cohort
def start(self, *args, _init=cohort.Cohort.__init__, **options):
    _init(self, *args, **options)
    self.checkpoint_every = 2
cohort.Cohort.__init__ = start
from client.cli import run_cli
sys.exit(run_cli(sys.argv[1:]))
"""
NUMBER = Vault.number


def steps_of(person: Person, *words: str | Path, stop_at: int = -1) -> tuple[int, int]:
    """The exit code and the steps begun, with a checkpoint every second one and Ctrl-C at `stop_at`."""
    start, step, steps = cohort.Cohort.__init__, cohort.Cohort._train_step, 0

    def started(self: cohort.Cohort, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        self.checkpoint_every = 2

    def counted(self: cohort.Cohort) -> Any:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort.Cohort, "__init__", started)
        patch.setattr(cohort.Cohort, "_train_step", counted)
        return person.run(*words), steps


def printed(person: Person, capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    """What a command prints with --json: the rows of a list, else the one document."""
    capsys.readouterr()
    assert person.run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    return list(found.get("releases", found.get("listed", [found])))


def adapter_of(person: Person) -> dict[str, torch.Tensor]:
    """Everything learned: the only task's adapter, and the embedding."""
    state = VaultStore(person.vault()).read()
    (task,) = state.tasks.values()
    assert state.embedding is not None
    return {**task.adapter, "embedding": state.embedding}


def assert_same_bits(a: Person, b: Person) -> None:
    ours, theirs = adapter_of(a), adapter_of(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module", autouse=True)
def same_person() -> Iterator[None]:
    """A person's seed is drawn at random; here it is always the same one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "number", lambda *_: 1)
        yield


@pytest.fixture(scope="module")
def release() -> Release:
    return quick_release()


@pytest.fixture(scope="module")
def user() -> User:
    return small_users()[1][0]


@pytest.fixture(scope="module")
def published(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_release(release, tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def adapted_home(published: Path, user: User, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A person who has adapted with all but the last four items; copied, never changed."""
    folder = tmp_path_factory.mktemp("person")
    person = Person.make(folder)
    assert person.run("bundle", "add", published) == 0
    assert person.run("adapt", write_jsonl(folder / "h.jsonl", user.history[:-4])) == 0
    return person


@pytest.fixture
def person(adapted_home: Person, tmp_path: Path) -> Person:
    """A copy of that home, free to change."""
    shutil.copytree(adapted_home.home, tmp_path / "home", symlinks=True)
    return Person(tmp_path / "home", adapted_home.passphrase_file)


def vault_files(person: Person) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((person.home / "vault").iterdir())}


def test_from_a_release_to_an_answer(
    published: Path, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = Person.make(tmp_path)
    assert me.run("status") == 0
    assert "proper bundle add" in capsys.readouterr().out
    assert me.run("adapt", write_csv(tmp_path / "h.csv", user.history)) == 44
    assert "no release is installed" in capsys.readouterr().err
    assert me.run("bundle", "add", published) == 0
    (row,) = printed(me, capsys, "bundle", "list")
    assert (row["current"], row["task"], row["preset"]) == (True, "synth_tag", "device")
    assert me.run("adapt", "--plan", tmp_path / "h.csv") == 0
    told = capsys.readouterr()
    assert f"{len(user.history)} items: about" in told.err
    assert not (me.home / "vault" / "keys.json").exists(), "a plan stores nothing"
    assert me.run("adapt", tmp_path / "h.csv") == 0
    told = capsys.readouterr()
    assert f"trained on {len(user.history)} items" in told.out
    for stage in "123":
        assert me.run("generate", user.queries[0].input, "--stage", stage) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    (facts,) = printed(me, capsys, "inspect")
    assert facts["items"] == len(user.history)
    assert all(abs(sum(row) - 1) < 1e-3 for row in facts["routing"].values())
    assert (facts["stage3_weight"], facts["temperature"]) == (1, 1)
    assert me.run("path") == 0
    assert capsys.readouterr().out.strip() == str(me.home)


def test_a_person_sees_how_answers_are_mixed(
    person: Person,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And that an export is not: its loss on own items stands beside that of the answers."""
    monkeypatch.setattr(answering, "share_of", lambda *_: (0.4, 1.5))
    (facts,) = printed(person, capsys, "inspect")
    assert (facts["stage3_weight"], facts["temperature"]) == (0.4, 1.5)
    assert person.run("inspect") == 0
    assert "stage 3 with weight 0.4 and stage 2 with 0.6" in capsys.readouterr().out
    assert person.run("export", "--format", "peft", "--out", tmp_path / "peft") == 0
    told = capsys.readouterr().err
    assert "it is stage 3 alone" in told
    assert "(weight 0.4, temperature 1.5)" in told
    assert "folding loses: loss a token" in told


def test_an_export_is_planned_for_as_its_options_say(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every option of reading reaches the reader; --plan trains nothing."""
    me = Person.make(tmp_path)
    assert me.run("bundle", "add", published) == 0
    file = tmp_path / "ratings.csv"
    rows = "03/04/2023,F,2000,u,0.5\n04/03/2023,G,2000,u,4\n05/05/2023,H,2000,u,x\n"
    file.write_text(f"Date,Name,Year,Letterboxd URI,Rating\n{rows}")
    command = ["adapt", file, "--task", "LaMP_3", "--plan"]
    for options, message in (
        ([], "none says whether the day or the month stands first"),
        (["--date-order", "mdy"], "--scale half-stars:round-up"),
        (["--scale", "half-stars:round-up"], "record 3 (line 4), field score: the answer is no"),
        (["--lenient"], "--yes, or --column"),
    ):
        command += options
        assert me.run(*command) == 13
        assert message in capsys.readouterr().err
    assert me.run(*command, "--yes") == 0
    assert "2 items: about" in capsys.readouterr().err
    assert me.run(*command, "--no-date") == 11
    assert "--date-order is for dates" in capsys.readouterr().err
    columns = ("--column", "text=Name", "--column", "score=Rating", "--max-items", "1")
    assert me.run(*command, *columns) == 0
    assert "left out: 1 item (older)" in capsys.readouterr().err


def test_an_update_and_back(
    person: Person, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = vault_files(person)
    new = write_jsonl(tmp_path / "new.jsonl", user.history)
    assert person.run("update", new) == 0
    told = capsys.readouterr().out
    assert "4 new items" in told
    assert len(vault_files(person)) == 3, "keys and two generations"
    assert person.run("update", new) == 0
    assert "no new item" in capsys.readouterr().out
    assert len(vault_files(person)) == 3
    assert person.run("rollback") == 0
    assert len(person.items()) == len(user.history) - 4
    assert before.keys() != vault_files(person).keys(), "generations never go back"


def test_an_update_adapts_whoever_had_too_few_items(
    published: Path, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = Person.make(tmp_path)
    assert me.run("bundle", "add", published) == 0
    assert me.run("adapt", write_jsonl(tmp_path / "few.jsonl", user.history[:2])) == 0
    assert "With 2 items there is no adapter of your own yet" in capsys.readouterr().out
    assert me.run("update", write_jsonl(tmp_path / "more.jsonl", user.history[2:])) == 0
    (facts,) = printed(me, capsys, "inspect")
    assert facts["items"] == len(user.history), "the first two are not forgotten"
    assert facts["routing"]


def test_adapting_to_less_says_what_is_dropped(
    person: Person, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert person.run("adapt", write_jsonl(tmp_path / "h.jsonl", user.history[5:-4])) == 0
    assert "5 stored items of this task are not in this history" in capsys.readouterr().err


def test_a_task_of_ones_own_is_named_by_its_file_everywhere(
    person: Person, release: Release, user: User, tmp_path: Path
) -> None:
    text = release.task.toml_text
    file = tmp_path / "my own.toml"
    file.write_text(text.replace(f'name = "{release.task.name}"', 'name = "mine"'))
    history = write_jsonl(tmp_path / "h.jsonl", user.history[:6])
    assert person.run("adapt", history, "--task", file) == 0
    for task in ("mine", str(file)):
        assert person.run("inspect", "--items", "--task", task) == 0
        assert person.run("generate", "a question", "--task", task) == 0
    assert person.run("update", write_jsonl(history, user.history[:8]), "--task", file) == 0
    assert person.run("forget", "--yes", "--items", "1,3-4", "--task", file) == 0
    assert person.run("generate", "a question") == 50, "two tasks: which is meant?"


def test_forgetting_items_leaves_no_trace(
    person: Person, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(person, capsys, "inspect", "--items")
    gone = [rows[0]["id"], rows[4]["id"]]
    assert person.run("forget", "--yes", "--items", gone[0], "--items", "5") == 0
    told = capsys.readouterr().out
    assert "Forgot 2 items" in told
    assert "cannot be recalled" in told
    assert person.vault().read_previous() is None, "no generation that knew them stays"
    assert not {item.id for item in person.items()} & set(gone)


def test_forgetting_asks_and_shows_texts_on_a_terminal_alone(
    person: Person, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the person's own items, and the files of the vault, which stay until there is a yes."""
    before, items = vault_files(person), person.items()
    assert person.run("forget", "--items", "1-2") == 11
    assert "--yes removes without asking" in capsys.readouterr().err
    first = preview(items[0].fields, 20)
    for terminal in (True, False):
        stdin, stderr = io.StringIO("n\n"), io.StringIO()
        stdin.isatty = lambda: True  # type: ignore[method-assign]
        stderr.isatty = lambda shown=terminal: shown  # type: ignore[method-assign]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stderr", stderr)
            assert person.run("forget", "--items", "1-12") == 130
        told = stderr.getvalue()
        assert f"12 of {len(items)} items will be forgotten, none has a date" in told
        assert (first in told) is terminal
        assert ("  and 2 more\n" in told) is terminal
    assert vault_files(person) == before


def test_a_history_goes_out_and_comes_in_again(
    person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the stored items themselves, ids, order and all."""
    items, out = person.items(), tmp_path / "mine.jsonl"
    assert person.run("export", "--format", "history", "--out", out) == 0
    assert "warning: it is not encrypted" in capsys.readouterr().err
    assert out.stat().st_mode & 0o777 == 0o600
    assert person.run("export", "--format", "history", "--out", out) != 0, "never over a file"
    assert person.run("update", out) == 0
    assert "no new item" in capsys.readouterr().out
    other = Person(tmp_path / "other", person.passphrase_file)
    shutil.copytree(person.home, other.home, symlinks=True)
    assert other.run("forget", "--all", "--yes") == 0
    assert other.run("adapt", out) == 0
    assert other.items() == items


def test_a_lost_key_file_is_told_and_nobody_else_answers(
    person: Person, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = person.home / "vault" / "keys.json"
    kept, before = keys.read_bytes(), vault_files(person)
    keys.unlink()
    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    for words in (
        ["generate", "x"], ["chat"], ["serve", "--port", "0"], ["adapt", history], ["update", history],
        ["inspect"], ["lock"], ["forget", "--yes", "--items", "1"],
    ):  # fmt: skip
        assert person.run(*words) == 46, words
        told = capsys.readouterr()
        assert told.out == ""
        assert "what you adapted lies there, but no keys.json" in told.err
        assert "put keys.json back from a copy" in told.err
        assert "forget" not in told.err
    assert person.run("status") == 0
    assert "its files are there, and no key" in capsys.readouterr().out
    keys.write_bytes(kept)
    keys.chmod(0o600)
    assert vault_files(person) == before
    assert person.run("inspect") == 0
    keys.unlink()
    assert person.run("forget", "--all", "--yes") == 0, "who means it can still remove all"
    assert not keys.parent.exists()


def test_a_question_of_unknown_words_is_told_without_them(
    person: Person, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    assert person.run("generate", f"{CANARY} quux zork a") == 0
    told = capsys.readouterr().err
    assert "the base does not know " in told
    assert CANARY not in told
    assert person.run("generate", user.queries[0].input) == 0
    assert "does not know" not in capsys.readouterr().err


MISSING_FILE = """
import sys
from client.cli import run_cli
code = run_cli(sys.argv[1:])
print(code, {"torch", "transformers"} & set(sys.modules))
"""


@pytest.mark.parametrize("command", [["adapt"], ["update"], ["generate", "--input"]])
@pytest.mark.parametrize("stored", [True, False])
def test_a_missing_file_is_told_before_what_computes_is_loaded(
    person: Person, published: Path, tmp_path: Path, command: list[str], stored: bool
) -> None:
    if not stored:
        shutil.rmtree(person.home / "vault")
    words = [*person.options(), *command, str(tmp_path / "absent.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", MISSING_FILE, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "13 set()"
    assert "absent.jsonl" in done.stderr


# A compiler, its algebra, tensors that are spread over machines, what only models of pictures need, and what
# only training a population or packing a base does.
NEVER_FOR_AN_ANSWER = """
import sys
from client.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
never = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy", "scipy", "sklearn"}
print(code, sorted((never | {"peft", "bitsandbytes", "pandas"}) & set(sys.modules)))
"""


@pytest.mark.parametrize("stage", ["1", "3"])
def test_an_answer_loads_no_compiler_and_nothing_for_pictures(person: Person, stage: str) -> None:
    words = [*person.options(), "generate", "rain again", "--max-tokens", "1", "--stage", stage]
    done = subprocess.run(
        [sys.executable, "-c", NEVER_FOR_AN_ANSWER, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapt", "HISTORY", "--base-weights", "2bit"], "unknown --base-weights '2bit'"),
        (["adapt", "HISTORY", "--max-memory", "0"], "expected a number of GiB above 0, got 0.0"),
        (["adapt", "HISTORY", "--max-memory", "4G"], "expected a number of GiB"),
        (["evaluate", "--base-weights", "4"], "unknown --base-weights '4'"),
        (["generate", "x", "--max-memory", "nan"], "expected a number of GiB above 0"),
        (["serve", "--max-memory", "-1"], "expected a number of GiB above 0"),
        (["serve", "--port", "99999"], "expected a whole number from 0 to 65535"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, list) else "",
)
def test_an_option_that_cannot_be_is_told_before_a_passphrase_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """The passphrase file is not there: whoever reads it, or the history or the release, ends by that."""
    history = tmp_path / "h.jsonl"
    history.write_text("")
    person = Person(tmp_path / "home", tmp_path / "no-passphrase")
    words = [str(history) if word == "HISTORY" else word for word in words]
    assert person.run(*words) in (2, ConfigError.exit_code)
    told = capsys.readouterr().err.splitlines()
    assert said in told[0]
    assert told[0].startswith("proper: error: ")
    assert told[1].startswith("proper: hint: ")
    assert not (tmp_path / "home").exists()


def test_what_to_forget_need_not_be_an_argument(
    person: Person, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments are seen by `ps` and kept by the shell."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"contains:zqxcanaryzq\n")))
    assert person.run("forget", "--yes", "--items", "2", "--items", "-") == 11
    told = capsys.readouterr().err
    assert "selector 2: matches no item" in told
    assert "zqxcanaryzq" not in told
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"3\n1-2\n")))
    assert person.run("forget", "--yes", "--items", "-") == 0
    assert "Forgot 3 items" in capsys.readouterr().out


def test_forgetting_everything(person: Person, capsys: pytest.CaptureFixture[str]) -> None:
    assert person.run("forget") == 11
    assert person.run("forget", "--all", "--yes") == 0
    assert "keys included" in capsys.readouterr().out
    assert not (person.home / "vault").exists()
    assert person.run("inspect") == 50
    assert person.run("forget", "--all", "--yes") == 0


def test_evaluation_says_what_it_found(person: Person, capsys: pytest.CaptureFixture[str]) -> None:
    before = vault_files(person)
    (found,) = printed(person, capsys, "evaluate")
    assert set(found["scores"]) == {"1", "2", "3"}
    assert found["tested"] == count_tested(found["trained"] + found["tested"])
    assert found["verdict"]
    rates = {stage: one["parse_failure_rate"] for stage, one in found["scores"].items()}
    assert found["unusable"] == rates, "for a task of labels the metric says the same"
    assert vault_files(person) == before


def test_wrong_passphrase_changes_nothing(
    person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = vault_files(person)
    wrong = Person.make(tmp_path / "wrong", "not it")
    wrong = Person(person.home, wrong.passphrase_file)
    for words in (["inspect"], ["generate", "x"], ["evaluate"], ["rollback"], ["passwd"]):
        assert wrong.run(*words) == 45
        assert "wrong passphrase" in capsys.readouterr().err
    assert vault_files(person) == before


def test_the_passphrase_changes_and_the_adapter_does_not(
    person: Person,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = vault_files(person)
    new = Person.make(tmp_path / "new", "another one")
    assert person.run("passwd", "--new-passphrase-file", new.passphrase_file) == 0
    after = vault_files(person)
    assert {n: b for n, b in after.items() if n != "keys.json"} == {
        n: b for n, b in before.items() if n != "keys.json"
    }
    assert person.run("inspect", "--items") == 45
    assert Person(person.home, new.passphrase_file).run("inspect", "--items") == 0
    key = tmp_path / "stick" / "key"
    key.parent.mkdir()
    assert Person(person.home, new.passphrase_file).run("passwd", "--add-key-file", key) == 0
    capsys.readouterr()
    monkeypatch.setenv("PROPER_PASSPHRASE_FILE", str(person.passphrase_file))
    assert run_cli(["--home", str(person.home), "--key-file", str(key), "status"]) == 0
    assert "key-file" in capsys.readouterr().out
    assert run_cli(["--home", str(person.home), "--key-file", str(key), "inspect", "--items"]) == 0


def publish_next(release: Release, folder: Path, factor: float) -> None:
    """Another release of the same publisher, with experts that are a little stronger."""
    shared = {
        name: tensor * factor if name.startswith("experts.") else tensor
        for name, tensor in release.shared.items()
    }
    publish_release(dataclasses.replace(release, shared=shared), folder)


def test_an_adapter_goes_on_over_its_own_release_until_a_rebase(
    person: Person,
    release: Release,
    user: User,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "published"
    shutil.copytree(published, folder)
    question = user.queries[0].input

    def routing() -> dict[str, list[float]]:
        return dict(printed(person, capsys, "inspect")[0]["routing"])

    def releases() -> list[int]:
        return [row["version"] for row in printed(person, capsys, "bundle", "list")]

    first = routing()
    publish_next(release, folder, 1.5)
    assert person.run("bundle", "add", folder) == 0
    before = vault_files(person)
    assert person.run("generate", question) == 0
    assert "release 2 is installed, and proper rebase moves to it" in capsys.readouterr().err
    assert routing() == first, "the new release changes nothing yet"
    assert vault_files(person) == before
    assert person.run("rebase") == 0
    assert routing() != first
    assert releases() == [1, 2], "the pair before stays for a rollback"
    assert person.run("rebase") == 0
    assert "already" in capsys.readouterr().out
    assert person.run("bundle", "add", published) == 36, "no way back"
    assert person.run("rollback") == 0
    assert routing() == first
    assert person.run("rebase") == 0
    publish_next(release, folder, 2.0)
    assert person.run("bundle", "add", folder) == 0
    assert person.run("rebase") == 0
    assert "older releases that nothing needs any more are removed" in capsys.readouterr().err
    assert releases() == [2, 3]


def test_an_adapter_without_its_release_waits_for_a_rebase(
    person: Person,
    release: Release,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As after bringing a backup to a machine with a newer release."""
    folder = tmp_path / "published"
    shutil.copytree(published, folder)
    (own,) = (entry for entry in (person.home / "bundles").iterdir() if entry.is_dir())
    publish_next(release, folder, 1.01)
    assert person.run("bundle", "add", folder) == 0
    shutil.rmtree(own)
    before = vault_files(person)
    for words in (["generate", "a question"], ["inspect"], ["evaluate"]):
        assert person.run(*words) == 47
        assert "proper rebase" in capsys.readouterr().err
    assert vault_files(person) == before
    assert person.run("rebase") == 0
    assert person.run("generate", "a question") == 0


def test_batches_of_questions(
    person: Person, user: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text(
        "".join(json.dumps({"id": q.id, "input": q.input}) + "\n" for q in user.queries)
    )
    out = tmp_path / "answers.jsonl"
    assert person.run("generate", "--input", source, "--output", out) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [q.id for q in user.queries]
    assert out.stat().st_mode & 0o077 == 0
    assert person.run("generate", "--input", source, "--output", out) == 11
    source.write_text('{"id": "1"}\n')
    capsys.readouterr()
    assert person.run("generate", "--input", source) == 13
    assert "line 1" in capsys.readouterr().err


def test_the_exported_adapter_answers_as_ours(
    person: Person,
    release: Release,
    user: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Oracle: PEFT itself, over the release's own base, logits to 1e-5."""
    from peft import AutoPeftModelForCausalLM, PeftModel

    from client.person.answering import Personal

    out, alone = tmp_path / "adapter", tmp_path / "alone"
    assert person.run("export", "--format", "peft", "--out", out) == 0
    assert "--with-base" in capsys.readouterr().err
    assert person.run("export", "--format", "peft", "--with-base", "--out", alone) == 0
    assert "names this folder's place" in capsys.readouterr().err
    mine = Personal.of(release, VaultStore(person.vault()).read(), None)
    ids = torch.tensor([mine.prompt_tokens(user.queries[0].input, stage="3")])
    now = mine.make_pass("3")(torch.zeros(1, dtype=torch.long))
    with torch.no_grad(), mine.model.attached(), mine.model.running(now):
        ours = mine.model.base(input_ids=ids).logits
    with torch.no_grad():
        plain = release.base(input_ids=ids).logits
        theirs = PeftModel.from_pretrained(release.base, out)(input_ids=ids).logits
        monkeypatch.chdir(tmp_path)
        with_base = AutoPeftModelForCausalLM.from_pretrained("alone")(input_ids=ids).logits
        monkeypatch.chdir(person.home / "bundles")
        over_bundle = AutoPeftModelForCausalLM.from_pretrained(out)(input_ids=ids).logits
    for logits in (theirs, with_base, over_bundle):
        torch.testing.assert_close(logits, ours, atol=1e-5, rtol=1e-5)
    assert (ours - plain).abs().max() > 1e-2, "the adapter does something"


def test_a_command_at_work_keeps_others_out(
    person: Person, tmp_path: Path, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    from client.home import Home

    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    with Home(person.home).working():
        assert person.run("adapt", history) == 48
    assert "another proper command" in capsys.readouterr().err


def test_ctrl_c_keeps_the_state_and_resume_goes_on(
    person: Person, tmp_path: Path, user: User, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed in another process: the same adapter, to the bit, as without a stop."""
    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    before = vault_files(person)
    whole = Person(tmp_path / "whole", person.passphrase_file)
    shutil.copytree(person.home, whole.home)
    assert whole.run("adapt", history) == 0

    assert steps_of(person, "adapt", history, stop_at=14) == (130, 14)
    assert "--resume goes on" in capsys.readouterr().err
    after = vault_files(person)
    assert {n: after[n] for n in before} == before
    assert (kept := [n for n in after if n.startswith("training-")])
    assert person.run("adapt", history, "--max-items", "5", "--resume") == 11
    assert "is other work" in capsys.readouterr().err
    assert [n for n in vault_files(person) if n.startswith("training-")] == kept
    assert person.run("status") == 0
    command = [sys.executable, "-c", PROGRAM, *person.options(), "adapt", history, "--resume"]
    resumed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "nothing was interrupted" not in resumed.stderr
    assert not [n for n in vault_files(person) if n.startswith("training-")]
    assert_same_bits(person, whole)


def test_a_first_adaptation_is_resumed_too(
    published: Path, tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored yet, and the person's seed is the same all the same."""
    monkeypatch.setattr(Vault, "number", NUMBER)
    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    person = Person.make(tmp_path / "new")
    assert person.run("bundle", "add", published) == 0
    assert steps_of(person, "adapt", history, stop_at=9) == (130, 9)
    whole = Person(tmp_path / "whole", person.passphrase_file)
    shutil.copytree(person.home, whole.home)
    code, whole_steps = steps_of(whole, "adapt", history)
    assert code == 0
    assert steps_of(person, "adapt", history, "--resume") == (0, whole_steps - 8)
    assert_same_bits(person, whole)


def test_a_full_disk_stops_training_with_the_old_state(
    person: Person,
    tmp_path: Path,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = vault_files(person)
    monkeypatch.setattr(checkpoint, "write_atomic", full)
    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    assert person.run("adapt", history) == 20
    assert "No space left" in capsys.readouterr().err
    assert vault_files(person) == before


def test_a_killed_adaptation_leaves_the_old_state(
    person: Person, tmp_path: Path, user: User
) -> None:
    history = write_jsonl(tmp_path / "h.jsonl", user.history)
    before = vault_files(person)
    # A process of its own: one that is forked from a process with threads may wait for them for ever.
    command = [sys.executable, "-c", PROGRAM, *person.options(), "adapt", str(history)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not list((person.home / "vault").glob("training-*")):
            time.sleep(0.02)
        child.kill()
    assert child.returncode == -signal.SIGKILL, "it was killed while it trained"
    after = vault_files(person)
    assert {n: after[n] for n in before if n in after} == before
    assert person.run("inspect", "--items") == 0


def test_usage_errors(person: Person, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert person.run("adapt", tmp_path / "nothing.json") == 13
    (tmp_path / "empty.json").touch()
    assert person.run("adapt", "--task", "LaMP_99", tmp_path / "empty.json") == 12
    assert person.run("generate") == 11
    assert person.run("generate", "x", "--stage", "4") == 11
    assert person.run("export", "--format", "peft") == 2
    assert person.run("export", "--format", "gguf2", "--out", tmp_path / "x") == 2
    assert person.run("export", "--format", "merged", "--with-base", "--out", tmp_path / "x") == 11
    assert not (tmp_path / "x").exists()
    assert person.run("nonsense") == 2
    assert person.run("adapt", os.devnull) == 13
    assert "Traceback" not in capsys.readouterr().err


def test_the_program_answers_before_it_loads_what_computes() -> None:
    """`proper path` and `--help` must not take the seconds that torch takes."""
    code = "import client.cli, sys; print({'torch', 'transformers', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# The program, which then says what it is like from inside.
FROM_INSIDE = """
import atexit, os, resource, sys
def say():
    from huggingface_hub import constants
    mask = os.umask(0)
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    print(constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_OFFLINE, oct(mask), limit)
    import ctypes
    print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
atexit.register(say)
sys.argv = ["proper", "path"]
from client.cli import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's prctl")
def test_the_program_is_quiet_and_keeps_its_memory_to_itself(tmp_path: Path) -> None:
    """Oracle: the hub library's own constants, and the process as the kernel sees it."""
    clean = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", FROM_INSIDE],
        env=clean | {"PROPER_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "home")
    assert lines[1] == "True True 0o77 (0, 0)"
    assert lines[2] == "dumpable 0"


def test_forgetting_that_fails_half_way_is_not_forgotten(
    person: Person, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(5, os.strerror(5), "generation")

    with monkeypatch.context() as patch:
        patch.setattr("client.vault.contents.remove_generations", storage(refused))
        assert person.run("forget", "--yes", "--items", "1-2") == 20
    assert "nothing reads the older files" in capsys.readouterr().err
    assert len(list((person.home / "vault").glob("*.vault"))) == 2
    assert person.run("rollback") == 50, "what was forgotten does not come back"
    assert person.run("status") == 0
    assert len(list((person.home / "vault").glob("*.vault"))) == 1


def storage(action: Callable[..., None]) -> Callable[..., None]:
    """The same as the product would tell it."""

    def run(*arguments: object) -> None:
        with storage_errors(Path("vault")):
            action(*arguments)

    return run
