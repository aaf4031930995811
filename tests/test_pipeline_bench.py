"""The pipeline benchmark's sums and comparisons, by hand; one run of a stand-in checkout."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import pipeline
from benchmarks.command import run_command
from benchmarks.pipeline import apart, inputs_of, means_of, run_once, sources_of
from benchmarks.results import read_report
from benchmarks.results.schema import PipelineReport
from proper_model.errors import ConfigError, SimulationError, StorageError
from proper_model.tasks import task

SHIPPED = Path(task.__file__).parent / "task_files"
CLI = r"""
import json, subprocess, sys, time
from pathlib import Path

def main():
    assert sys.argv[1:3] == ["run", "users"], sys.argv
    if "--fail" in sys.argv:
        sys.exit(3)
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    out.mkdir()
    assert "--cache" in sys.argv
    spend = "import time\nwhile time.process_time() < 0.6: pass\ntime.sleep(1.5)"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spend!r}])"
    subprocess.run([sys.executable, "-c", orphan])
    time.sleep(1)
    metrics = {"accuracy": {"mean": 0.5, "low": 0.0}, "rmse": {"mean": None}}
    content = {"timings_s": {"prepare": 0.01, "group": 0.02}, "arms": {"a": {"metrics": metrics}}}
    (out / "results.json").write_text(json.dumps(content))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "code" / "simulations").mkdir(parents=True)
    (tmp_path / "code" / "simulations" / "__init__.py").write_text("")
    (tmp_path / "code" / "simulations" / "cli.py").write_text(CLI)
    return tmp_path / "code"


def test_a_run_is_its_checkouts_own_phases_and_what_they_leave(checkout: Path) -> None:
    took, results = run_once(checkout, ["users"])
    assert took.phases_s == {"prepare": 0.01, "group": 0.02}
    assert took.node_phases_s == {}
    assert took.cpu_s > 0.5, "what an orphan took counts"
    assert took.untimed_s == pytest.approx(took.wall_s - 0.03)
    assert means_of(results) == {"a": {"accuracy": 0.5}}


def test_a_failed_run_is_no_measurement(checkout: Path) -> None:
    with pytest.raises(SimulationError, match="ended with 3"):
        run_once(checkout, ["users", "--fail"])


def test_how_far_two_runs_are_apart() -> None:
    a = {"stage1": {"mae": 2.0, "nll": 1.0}, "stage3": {"mae": 0.0}}
    assert apart(a, a) == 0.0
    assert apart(a, {**a, "stage1": {"mae": 2.0, "nll": 0.75}}) == 0.25
    assert apart(a, {**a, "stage1": {"mae": 2.0}}) == math.inf
    assert apart(a, {"stage1": a["stage1"]}) == math.inf


@pytest.mark.parametrize("text", ["folder", "=.", "new=/absent", "old=."])
def test_sources_are_labelled_checkouts(checkout: Path, text: str) -> None:
    assert sources_of([f"old={checkout}"]) == {"old": checkout}
    with pytest.raises(ConfigError, match="--source"):
        sources_of([f"old={checkout}", text])


def test_inputs_keep_their_meaning_in_another_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path()
    assert inputs_of(here, "LaMP_3", here)[1:3] == ["--task", "LaMP_3"]
    (tmp_path / "own.toml").write_text((shipped := SHIPPED / "LaMP_3.toml").read_text())
    assert shipped.is_file()
    assert inputs_of(here, "own.toml", here) == [
        *(str(tmp_path), "--task", str(tmp_path / "own.toml"), "--base", str(tmp_path)),
    ]


def test_what_cannot_work_is_refused_before_a_run_starts(
    checkout: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(pipeline, "run_once", never)
    good = {"--task": "LaMP_3", "--base": str(tmp_path), "--source": f"a={checkout}"}
    good["--out"] = str(tmp_path / "out.json")
    for changed, error in (
        ({"--source": "a=absent"}, ConfigError),
        ({"--out": str(tmp_path)}, StorageError),
    ):
        words = [word for pair in {**good, **changed}.items() for word in pair]
        assert run_command(pipeline.app, [str(tmp_path), *words]) == error.exit_code, changed
        assert capsys.readouterr().err.startswith("proper: error: ")


def test_the_committed_measurement_is_of_clean_commits_and_says_how_far_they_are_apart(
    repository: Path,
) -> None:
    report = read_report(repository / "results" / "bench" / "pipeline.json")
    assert isinstance(report, PipelineReport)
    assert len(report.checkouts) >= 2
    first = report.checkouts[0]
    for checkout in report.checkouts:
        assert not checkout.commit.endswith("-dirty")
        assert checkout.apart == apart(first.means, checkout.means)
        assert len(checkout.rounds) == len(first.rounds)
        for one in checkout.rounds:
            assert sum(one.phases_s.values()) + one.untimed_s == pytest.approx(one.wall_s)
