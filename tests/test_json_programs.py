"""`--json` of all three programs: a form for every command, and real documents of `proper-sim` and
`proper-coordinator`; those of `proper`: tests/test_json_documents.py.

What takes long prints its document where a test runs it anyway: test_experiments.py,
test_benchmark_commands.py, test_privacy_*.py, test_leaking_builds.py, test_fetch.py.
"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from run_folders import make_run
from test_consents import planted_run, training
from test_coordinator_cli import here, name_of, source  # noqa: F401 - a fixture
from test_estimate import cost
from test_help_examples import PROGRAMS as APPS
from test_help_examples import commands
from test_score import OUTPUTS, USERS
from typer.main import get_command

from coordinator.cli import run_cli as coordinator_cli
from coordinator.consents import changing
from proper_model.data.users import write_oppu
from proper_model.errors import (
    BusyError,
    DataError,
    InterruptedRunError,
    PassphraseError,
    StorageError,
)
from proper_model.json_output.document import document as printed
from proper_model.json_output.schema import schema
from proper_model.storage.documents import parse_json
from proper_model.storage.durable import locked
from simulations import pipeline
from simulations.cli import run_cli as simulation_cli
from simulations.experiments.benchmark_schema import Name, read_benchmark
from simulations.privacy.results.kinds import KINDS, read_result
from simulations.privacy.results.told import told_of
from simulations.setup.documents import Benchmark, fields_of
from simulations.setup.options import RunOptions
from simulations.synthetic.people import make_synthetic
from tests.documents import PROGRAMS, SCHEMA, committed, document, error_document

Told = Callable[..., dict[str, Any]]
CANARY = "xylophone-canary-7731"


def test_the_committed_schema_is_that_of_the_types(script: Callable[[str], ModuleType]) -> None:
    made = script("docs/json_schema.py")
    assert json.loads(SCHEMA.read_text()) == schema(made.PROGRAMS)
    assert made.PROGRAMS == PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_has_a_document_and_the_option(program: str) -> None:
    found = dict(commands(get_command(APPS[program][0])))
    assert set(found) == set(PROGRAMS[program]) == set(committed()["programs"][program]["commands"])
    for words, command in found.items():
        assert any("--json" in option.opts for option in command.params), words


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs one command with `--json` and gives its document, or the error's."""

    def run(program: str, *words: str | Path, code: int = 0, of: int = 2) -> dict[str, Any]:
        capsys.readouterr()
        got = APPS[program][2]([*map(str, words), "--json"])
        shown = capsys.readouterr()
        assert got == code, shown.err
        if code:
            found = error_document(shown.out)
            assert found["error"]["code"] == code
            assert f"{found['error']['message']}\n" in shown.err
            assert found["error"]["next"] in shown.err
            return found
        return document(shown.out, " ".join(map(str, words[:of])), program)

    return run


def test_keys_roots_and_releases(
    here: Path,  # noqa: F811 - the fixture
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()

    def ask(line: str, code: int = 0) -> dict[str, Any]:
        found = told("proper-coordinator", *line.split(), code=code)
        seen.add(found["command"])
        return found

    made = ask("keys make-release release.pem")
    assert made["key_id"] == name_of(here / "release.pem.pub")
    assert (made["file"], made["public_file"]) == ("release.pem", "release.pem.pub")
    assert not made["encrypted"]
    holder = ask("keys make-holder ada.pem --passphrase-file words")
    assert holder["encrypted"]
    assert ask("keys show ada.pem.pub")["key_id"] == holder["key_id"]
    found = ask(
        "keys make-root out --threshold 2 --make 1 --keys-folder stick --root-key ada.pem.pub "
        "--release-key release.pem.pub --passphrase-file words"
    )
    root, (stick,) = found["root"], found["made"]
    assert (here / stick).is_file()
    assert root["roles"]["release"] == {"threshold": 1, "keys": [made["key_id"]]}
    assert (root["version"], root["roles"]["root"]["threshold"]) == (1, 2)
    assert ask("root show out") | {"command": ""} == {
        "schema": 1,
        "command": "",
        "root": root,
        "waiting": None,
    }
    published = ask(f"release publish {source(here)} out --key release.pem")
    assert published["release_version"] == 1
    assert (Path(published["folder"]) / "manifest.json").is_file()
    newest = ask("release sign-latest out --key release.pem")
    assert newest["bundle_id"] == published["bundle_id"]
    ask("keys make-release fresh.pem")
    by_ada = "--key ada.pem --passphrase-file words"
    waits = ask(f"root revoke out {made['key_id']} --replace fresh.pem.pub {by_ada}")
    assert (waits["done"], waits["missing_current"], waits["missing_next"]) == (False, 1, 1)
    assert ask("root show out")["waiting"] == waits["root"]
    signed = ask(f"root sign out --key {stick} --passphrase-file words")
    assert (signed["done"], signed["root"]) == (True, waits["root"])
    assert ask("root show out")["root"]["version"] == 2
    turned = ask(f"root rotate out --days 30 {by_ada} --key {stick}")
    assert (turned["done"], turned["root"]["version"]) == (True, 3)
    wrong = here / "wrong"
    wrong.write_text("another passphrase, which opens nothing\n")
    wrong.chmod(0o600)
    refused = ask("root sign out --key ada.pem --passphrase-file wrong", PassphraseError.exit_code)
    assert refused["error"]["kind"] == "PassphraseError"
    consents = {name for name in PROGRAMS["proper-coordinator"] if name.startswith("consent")}
    assert seen | consents == set(PROGRAMS["proper-coordinator"])


def test_consents(
    tmp_path: Path,
    told: Told,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, ids = tmp_path / "consents.json", tmp_path / "ids"
    ids.write_text("ada\nben\n")

    def ask(*words: str | Path, code: int = 0) -> dict[str, Any]:
        return told("proper-coordinator", "consent", *words, code=code)

    assert ask("record", file, "--people", ids)["recorded"] == 2
    assert ask("record", file, "--people", ids)["already"] == 2
    places = {name: str(place) for name, place in planted_run(tmp_path).items()}
    with changing(file) as change:
        made = training(["ada", "ben"], tmp_path / "run", cache=str(tmp_path / "cache"))
        change.after = change.after.with_training(made)
    ids.write_text("ada\n")
    gone = ask("withdraw", file, "--people", ids)
    assert (gone["withdrawn"], gone["earlier"]) == (1, [])
    assert gone["trainings"][0]["content"] == made.content
    assert gone["remains"]["phases"] == [places["a"]]
    assert gone["remains"]["texts"] == [places["texts"]]
    assert ask("withdraw", file, "--people", ids)["earlier"][0]["people"] == 1

    listed = ask("list", file)["consents"]
    assert [(one["id"], one["withdrawn"] is None, one["trained"]) for one in listed] == [
        ("ada", False, 1),
        ("ben", True, 1),
    ]
    assert coordinator_cli(["consent", "list", str(file), "--json"]) == 0
    assert "ada" not in capsys.readouterr().err  # which programs keep in logs

    assert ask("erase", file)["deleted"] == [places["a"], places["texts"]]
    places = {name: str(place) for name, place in planted_run_again(tmp_path).items()}
    with locked(Path(places["d"]).with_name(f".{Path(places['d']).name}.lock"), timeout_s=0):
        amid = ask("erase", file, code=BusyError.exit_code)
    assert amid["deleted"] == [places["a"]]
    stdin = io.TextIOWrapper(io.BytesIO(b"cem\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert ask("record", file, "--people", "-")["recorded"] == 1
    ids.write_text("cem\n")
    monkeypatch.setattr("coordinator.commands.consent.remains_of", unreadable)
    noted = ask("withdraw", file, "--people", ids, code=StorageError.exit_code)
    assert noted["withdrawn"] == 1  # though nobody knows what is left of cem


def unreadable(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def planted_run_again(folder: Path) -> dict[str, Path]:
    """Ada's phase once more, and another one of hers that comes after it."""
    from coordinator.phase_people import mark_of, write_people

    found = {}
    for name in "ad":
        found[name] = folder / "cache" / f"group-{name * 24}"
        found[name].mkdir()
        (found[name] / "done.safetensors").write_bytes(b"x")
        write_people(found[name], [mark_of("ada")])
    return found


@pytest.mark.parametrize(
    ("program", "words", "code", "kind"),
    [
        ("proper-coordinator", ["keys", "show", "missing.pem", "--json"], 11, "ConfigError"),
        ("proper-coordinator", ["keys", "--json", "show"], 2, "UsageError"),
        ("proper-coordinator", ["--json"], 2, "UsageError"),
        ("proper-coordinator", ["brew", "--json"], 2, "UsageError"),
        ("proper-coordinator", ["release", "publish", "--json"], 2, "UsageError"),
        ("proper-sim", ["run", "demo:opera", "--out", "o", "--json"], 11, "ConfigError"),
        ("proper-sim", ["exp", "--json", "table"], 2, "UsageError"),
        ("proper-sim", ["privacy", "table", "missing.json", "--json"], 19, "ReportError"),
        ("proper-sim", ["exp", "table1", "demo", "--json"], 2, "UsageError"),
        ("proper-sim", ["fetch", "LaMP_6", "--out", "o", "--json"], 14, "FetchError"),
    ],
)
def test_an_error_is_a_document_too(
    program: str,
    words: list[str],
    code: int,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert APPS[program][2](words) == code
    shown = capsys.readouterr()
    error = error_document(shown.out)["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    assert f"error: {error['message']}\n" in shown.err
    assert APPS[program][2]([word for word in words if word != "--json"]) != 0
    assert capsys.readouterr().out == ""
    before = words.index("--json") < len(words) - 1 or words == ["--json"]
    assert ("expected behind it" in error["message"]) == before


@pytest.mark.parametrize(
    ("raised", "code", "kind"),
    [(KeyboardInterrupt(), 130, "InterruptedRunError"), (KeyError("zqsecret"), 1, "InternalError")],
)
def test_so_are_ctrl_c_and_a_bug_of_the_coordinator(
    raised: BaseException,
    code: int,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr("coordinator.commands.keys.load_key", broken)
    assert coordinator_cli(["keys", "show", "x", "--json"]) == code
    shown = capsys.readouterr()
    found = error_document(shown.out)
    assert (found["command"], found["error"]["kind"]) == ("keys show", kind)
    assert "zqsecret" not in shown.out + shown.err
    assert coordinator_cli(["keys", "show", "x"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("interrupted" if code == 130 else "internal error") in shown.err


def test_data_are_described_and_their_faults_counted(tmp_path: Path, told: Told) -> None:
    data = tmp_path / "data"
    write_oppu(make_synthetic("synth_tag", preset="smoke").population, data)
    words = ("validate", data, "--task", "synth_tag")
    found = told("proper-sim", *words, of=1)
    assert (found["errors"], found["problems"]) == (0, [])
    users = json.loads((data / "user_others.json").read_text())
    assert found["pooled"]["users"] == len(users)
    assert found["pooled"]["items"] == sum(len(user["profile"]) for user in users)
    users[2]["query"][0]["gold"] = CANARY
    (data / "user_others.json").write_text(json.dumps(users))
    amiss = told("proper-sim", *words, code=DataError.exit_code)
    assert amiss["errors"] == 1
    assert "record 2, field query[0].gold" in amiss["problems"][0]["told"]
    assert CANARY not in json.dumps(amiss)
    assert told("proper-sim", "validate", "demo:rate", of=1)["makes_people"] == "demo:rate"


def test_a_run_from_its_plan_to_its_tables(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the training and the cost of it, which other tests have."""
    out, ask = tmp_path / "run", lambda *words: told("proper-sim", *words, of=1)

    def execute(options: RunOptions, progress: Any, **_: object) -> None:
        make_run(options.out, USERS, OUTPUTS)
        pipeline.finish(options.out, progress)

    monkeypatch.setattr(pipeline, "execute", execute)
    monkeypatch.setattr(pipeline, "run_prepared", lambda *_: None)
    monkeypatch.setattr("simulations.setup.costs.plan_costs", lambda *_: cost())
    monkeypatch.setattr("simulations.setup.prepare.prepare", lambda *_: None)
    planned = ask("run", "demo", "--out", out, "--plan")
    assert sum(one["slowest_s"] for one in planned["phases"]) == pytest.approx(planned["slowest_s"])
    assert planned["memory_bytes"]["low"] == cost().memory_bytes.low
    ready = ask("prepare", "demo", "--out", out)
    assert ready["next"] == f"proper-sim launch {out}"
    assert ask("launch", out)["next"] == f"proper-sim score {out}"
    run = ask("run", "demo", "--out", out)
    assert Path(run["results"]).is_file()
    assert Path(run["report"]).is_file()
    assert run["arms"]["stage1"]["n_queries"] == 6
    score = ask("score", out)
    assert {name: score[name] for name in ("arms", "contrasts")} == {
        name: run[name] for name in ("arms", "contrasts")
    }
    assert "anna" not in json.dumps(score)
    page = tmp_path / "page.html"
    assert ask("report", out, out, "--out", page)["sources"] == 2
    assert page.is_file()
    for more in ((), ("--markdown",), ("--phases",)):
        (one,) = ask("table", out / "results.json", *more)["results"]
        assert one["arms"] == run["arms"]
        assert one["timings_s"]["score"] > 0
    monkeypatch.setattr(pipeline, "execute", interrupted)
    stopped = told("proper-sim", "run", "demo", "--out", tmp_path / "new", code=130)
    assert stopped["error"]["next"].startswith("go on with the same command and --resume")


def interrupted(*_: object, **__: object) -> None:
    raise InterruptedRunError("interrupted", hint="")


def test_committed_results_in_tables_and_pages(
    repository: Path, tmp_path: Path, told: Told
) -> None:
    results = repository / "results"
    ask = lambda *words: told("proper-sim", *words)  # noqa: E731
    benchmarks = sorted((results / "structures").glob("*.json"))
    others = sorted((results / "experiments").glob("*.json"))
    found = ask("exp", "table", *benchmarks, *others)
    assert [one["source"] for one in found["benchmarks"]] == list(map(str, benchmarks))
    assert {one["experiment"] for one in found["experiments"]} == {"drift", "multitask"}
    page = tmp_path / "page.html"
    assert ask("exp", "page", benchmarks[0], "--out", page)["page"] == str(page)
    attacks = sorted((results / "privacy").glob("*.json"))
    table = ask("privacy", "table", *attacks)["results"]
    assert {one["experiment"] for one in table} == set(KINDS)
    report = ask("privacy", "report", *attacks)
    assert report["lines"] == [line for one in table for line in one["lines"]]
    assert report["page"] is None
    for line in report["lines"]:
        assert (line["instead"] is None) == (line["advantage"] is not None)


def test_what_attacks_and_benchmarks_leave(repository: Path) -> None:
    """The documents of commands that take long, from what they left when results were made."""
    results = repository / "results"
    files = {"result": "r.json", "table": "r.md", "page": "r.html"}
    for kind in KINDS:
        told = told_of(*read_result(results / f"privacy/{kind}.json"))
        line = printed(f"privacy {kind}", files | told)
        assert document(line, f"privacy {kind}", "proper-sim")["sentences"]
    files["figures"] = []
    made = [*(results / "structures").glob("*.json"), *(results / "tables").glob("*.json")]
    for path in made:
        benchmark = read_benchmark(path)
        words = f"exp {benchmark.experiment}"
        found = document(
            printed(words, files | fields_of(Benchmark, benchmark)), words, "proper-sim"
        )
        assert set(found["rows"]) == set(benchmark.rows)
    named = {f"exp {name}" for name in get_args(Name)}
    assert named < set(PROGRAMS["proper-sim"])


def test_what_is_no_number_is_null() -> None:
    """JSON has neither NaN nor infinity, which Python writes and other programs refuse."""
    line = printed(
        "x", {"a": float("nan"), "b": [{"c": (float("-inf"), 0.5)}], "d": True, "e": "é\x7f"}
    )
    assert line.isascii()
    assert line.isprintable()
    assert parse_json(line) == {  # takes no constants
        "schema": 1,
        "command": "x",
        "a": None,
        "b": [{"c": [None, 0.5]}],
        "d": True,
        "e": "é\x7f",
    }


def test_a_coordinator_whose_stdout_is_full_says_so_and_has_done_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "no space")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", Full())
    assert coordinator_cli(["keys", "make-release", "a.pem", "--json"]) == 20
    assert "standard output takes no more" in capsys.readouterr().err
    assert (tmp_path / "a.pem").is_file()


def test_a_full_stderr_takes_no_document_with_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a command says beside its document is lost, as after hours of a run whose log is full."""

    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "no space")

    path = repository / "results/structures/least_active.json"
    monkeypatch.setattr("sys.stderr", Full())
    assert simulation_cli(["exp", "table", str(path), "--json"]) == 0
    assert document(capsys.readouterr().out, "exp table", "proper-sim")["benchmarks"]


def test_a_full_disk_below_a_file_is_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("simulations.pipeline.report_sources", full)
    assert simulation_cli(["report", "x", "--json"]) == 20
    shown = capsys.readouterr()
    error = error_document(shown.out)["error"]
    assert (error["code"], error["kind"]) == (20, "StorageError")
    assert shown.err.count(error["message"]) == 1


@pytest.mark.parametrize("words", [["exp", "page"], ["report"], ["privacy", "report"]])
def test_a_page_never_takes_the_place_of_results(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    result.write_text("mine")
    for out in (result, tmp_path):
        assert simulation_cli([*words, str(result), "--out", str(out)]) == 11
        assert "--out: " in capsys.readouterr().err
    assert result.read_text() == "mine"


def test_simulations_without_json_print_no_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulation_cli(["run", "demo:opera", "--out", "o"]) == 11
    assert capsys.readouterr().out == ""


def test_a_command_to_type_names_a_folder_with_blanks_and_quotes_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ids = tmp_path / "it's here" / "consents.json", tmp_path / "ids"
    file.parent.mkdir()
    ids.write_text("ada\n")
    assert coordinator_cli(["consent", "record", str(file), "--people", str(ids)]) == 0
    planted_run(tmp_path)
    with changing(file) as change:
        made = training(["ada"], tmp_path / "run", cache=str(tmp_path / "cache"))
        change.after = change.after.with_training(made)
    capsys.readouterr()
    assert coordinator_cli(["consent", "withdraw", str(file), "--people", str(ids)]) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "consent erase" in one]
    assert shlex.split(line.partition("proper-coordinator consent")[2]) == ["erase", str(file)]
