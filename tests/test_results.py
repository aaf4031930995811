"""The schema of results.json: exact keys, round trip, refusal of anything else."""

from __future__ import annotations

import importlib.metadata
import json
import math
from pathlib import Path

import pytest
from bench_files import HARDWARE

from proper_model.errors import ReportError
from proper_model.federation import machine
from simulations.outcome import environment
from simulations.outcome.results import Contrast, Results, read_results, write_document
from simulations.reporting.tables import phase_table

SUMMARY = {"mean": 0.5, "low": 0.25, "high": 0.75}
SUMMARY |= {f"user_{name}": value for name, value in SUMMARY.items()}


def example() -> dict[str, object]:
    return {
        "schema": 1,
        "task": "T",
        "template": "short",
        "base": "mini",
        "preset": "default",
        "profile": "tiny",
        "seed": 0,
        "split": "given",
        "hardware": HARDWARE,
        "commit": "abc",
        "arms": {
            "stage1": {"n_users": 2, "n_queries": 4, "metrics": {"accuracy": dict(SUMMARY)}},
            "stage3": {"n_users": 2, "n_queries": 4, "metrics": {"accuracy": dict(SUMMARY)}},
        },
        "contrasts": [
            {"a": "stage3", "b": "stage1", "metric": "accuracy", "level": "user"}
            | {"delta": 0.25, "low": 0.1, "high": 0.4}
        ],
        "confidence": 0.95,
        "parameters": {"user_lora": 12},
        "timings_s": {"stage1": 1.5},
        "node_timings_s": {"load": 0.5},
    }


def test_a_file_keeps_exactly_the_published_keys_and_values(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_document(Results.model_validate(example()), path)
    assert json.loads(path.read_text()) == example()
    write_document(read_results(path), again := tmp_path / "again.json")
    assert again.read_bytes() == path.read_bytes()
    assert read_results(tmp_path) == read_results(path)  # a run folder stands for its results


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"extra": 1}, "extra"),
        ({"schema": 2}, "schema"),
        ({"arms": {}}, "arms"),
        ({"confidence": 1.0}, "confidence"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, object], place: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**example(), **change}))
    with pytest.raises(ReportError) as caught:
        read_results(path)
    assert place in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint is not None


def test_unknown_metric_and_dangling_contrast_are_refused() -> None:
    bad = example()
    bad["arms"]["stage1"]["metrics"]["speed"] = dict(SUMMARY)  # type: ignore[index]
    with pytest.raises(ValueError, match="speed"):
        Results.model_validate(bad)
    bad = example()
    bad["contrasts"][0]["b"] = "oppu-mlp"  # type: ignore[index]
    with pytest.raises(ValueError, match="oppu-mlp"):
        Results.model_validate(bad)


def test_a_poisoned_mean_survives_as_null(tmp_path: Path) -> None:
    poisoned = example()
    poisoned["arms"]["stage1"]["metrics"] = {"mae": {**SUMMARY, "mean": math.nan}}  # type: ignore[index]
    path = tmp_path / "results.json"
    write_document(Results.model_validate(poisoned), path)
    assert '"mean": null' in path.read_text()
    assert math.isnan(read_results(path).arms["stage1"].metrics["mae"].mean)


def test_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ReportError) as caught:
        read_results(tmp_path / "absent.json")
    assert "proper-sim score" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("accuracy", 0.1, 0.2, True),
        ("accuracy", -0.2, -0.1, False),
        ("nll", -0.2, -0.1, True),
        ("nll", 0.1, 0.2, False),
        ("accuracy", -0.1, 0.2, None),
        ("accuracy", 0.0, 0.0, None),
    ],
)
def test_improvement_knows_which_direction_is_better(
    metric: str, low: float, high: float, verdict: bool | None
) -> None:
    contrast = Contrast(
        a="stage3", b="stage1", metric=metric, level="query", delta=0.0, low=low, high=high
    )
    assert contrast.improvement is verdict


def test_environment_states_code_and_machine(tmp_path: Path) -> None:
    facts = environment.hardware()
    assert facts.cores >= 1
    assert facts.ram_bytes > 2**20
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Tiny CPU 1\n")
    assert machine.cpu_model(cpuinfo) == "Tiny CPU 1"


@pytest.mark.parametrize(
    ("owners", "said"), [({"simulations": ["proper"]}, "version 1.2"), ({}, "unknown")]
)
def test_without_a_checkout_the_installed_version_is_the_code(
    tmp_path: Path, monkeypatch, owners: dict[str, list[str]], said: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    monkeypatch.setattr(importlib.metadata, "version", {"proper": "1.2"}.__getitem__)
    assert environment.commit(tmp_path) == said


def test_commit_marks_changed_sources(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True
        )

    git("init", "-q")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "-q", "-m", "one")
    clean = environment.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a.py").write_text("a = 2\n")
    assert environment.commit(tmp_path) == clean + "-dirty"


def test_seconds_by_phase_are_a_column_a_run_with_those_of_nodes_apart() -> None:
    first = Results.model_validate(example()).model_copy(
        update={"timings_s": {"prepare": 1.0, "group": 2.25}, "node_timings_s": {"load": 0.5}}
    )
    second = Results.model_validate(example()).model_copy(
        update={"timings_s": {"group": 4.0}, "node_timings_s": {}}
    )
    table = phase_table([first, second], ["a", "b"])
    assert table.header == ("phase", "a", "b")
    assert table.rows == (
        ("prepare", "1.0", "–"),
        ("stage 2, groups", "2.2", "4.0"),
        ("all phases", "3.2", "4.0"),
        ("nodes, load", "0.5", "–"),
    )
