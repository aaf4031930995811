"""The pipeline benchmark's sums and comparisons, by hand; one run of a stand-in checkout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import pipeline
from benchmarks.command import run_command
from benchmarks.one_run import run_once
from benchmarks.pipeline import apart, inputs_of, means_of, phase_rows, sources_of
from benchmarks.schema_pipeline import Checkout, PipelineReport, Round
from proper_model.errors import (
    BaseModelError,
    ConfigError,
    DataError,
    SimulationError,
    StorageError,
    TaskError,
)
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
    spend = "import time\nwhile time.process_time() < 0.6: pass\ntime.sleep(4)"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spend!r}])"
    subprocess.run([sys.executable, "-c", orphan])
    time.sleep(3)
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


def test_the_table_holds_medians_and_every_phase_of_any_checkout() -> None:
    def took(wall: float, **phases: float) -> Round:
        rest = wall - sum(phases.values())
        return Round(
            wall_s=wall,
            cpu_s=wall / 2,
            phases_s=phases,
            node_phases_s={},
            untimed_s=rest,
            load_before=0.0,
        )

    old = Checkout(
        label="old",
        commit="1",
        rounds=[took(9.0, flower=4.0), took(30.0, flower=20.0), took(12.0, flower=5.0)],
        means={},
        apart=0.0,
    )
    # A phase that only a later round has is still a phase; the others spent nothing on it.
    rounds = [took(7.0, start=2.0), took(7.0, start=2.0, more=1.0), took(7.0, start=2.0, more=0.5)]
    new = Checkout(label="new", commit="2", rounds=rounds, means={}, apart=0.0)
    table = phase_rows([old, new])
    assert table.header == ("phase", "old", "new")
    assert table.rows == (
        ("flower", "5.0", "–"),
        ("start", "–", "2.0"),
        ("more", "–", "0.5"),
        ("untimed", "7.0", "4.5"),
        ("whole run", "12.0", "7.0"),
        ("CPU seconds", "6.0", "3.5"),
    )


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


def test_wrong_inputs_are_refused_before_a_run_starts(
    checkout: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(pipeline, "run_once", never)
    good = {"--task": "LaMP_3", "--base": str(tmp_path), "--source": f"a={checkout}"}
    good["--out"] = str(tmp_path / "out.json")
    for data, changed, error in (
        (tmp_path / "absent", {}, DataError),
        (tmp_path, {"--task": "LaMP_33"}, TaskError),
        (tmp_path, {"--task": "absent.toml"}, TaskError),
        (tmp_path, {"--base": "absent"}, BaseModelError),
        (tmp_path, {"--source": "a=absent"}, ConfigError),
        (tmp_path, {"--out": str(tmp_path)}, StorageError),
    ):
        words = [word for pair in {**good, **changed}.items() for word in pair]
        assert run_command(pipeline.app, [str(data), *words]) == error.exit_code, changed
        assert capsys.readouterr().err.startswith("proper: error: ")


def test_the_committed_measurement_is_of_clean_commits_and_says_how_far_they_are_apart(
    repository: Path,
) -> None:
    content = json.loads((repository / "results" / "bench" / "pipeline.json").read_text())
    report = PipelineReport.model_validate(content)
    assert len(report.checkouts) >= 2
    first = report.checkouts[0]
    for checkout in report.checkouts:
        assert not checkout.commit.endswith("-dirty")
        assert checkout.apart == apart(first.means, checkout.means)
        assert len(checkout.rounds) == len(first.rounds)
        for one in checkout.rounds:
            assert sum(one.phases_s.values()) + one.untimed_s == pytest.approx(one.wall_s)
