"""Experiments as commands: result files, tables, figure, meter, and what bad input says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from federation import settings as quick_settings

from client.terminal.tables import to_markdown
from proper_model.data.users import write_oppu
from proper_model.errors import ReportError
from proper_model.release.contents import Release
from proper_model.tasks.records import Population, User
from simulations.cli import run_cli
from simulations.experiments import drift
from simulations.experiments.common import Meter
from simulations.experiments.schema import Costs, Experiment, read_experiment
from simulations.experiments.show import difference_table, loss_figure, result_table
from simulations.outcome import environment
from simulations.outcome.results import write_document
from simulations.setup import options
from tests.documents import document
from tests.releases import small_base, small_population
from tests.tiny import tiny_base


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "240")


@pytest.fixture(scope="module")
def base() -> Path:
    return small_base()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    population = small_population().population
    write_oppu(Population("people", population.pooled[:5], population.test[:2]), folder)
    return folder


REAL = "{data} --task synth_tag --base {base}"


def hand_made() -> Experiment:
    numbers = ("mean", "low", "high", "user_mean", "user_low", "user_high")
    loss = dict(zip(numbers, (1.5, 1.0, 2.0, 1.6, 1.1, 2.1), strict=True))
    arm = {"n_users": 3, "n_queries": 9, "metrics": {"nll": loss}}
    costs = {"trained_tokens": 30, "judged_tokens": 4, "seconds": 2.0, "cpu_seconds": 1.0}
    contrast = {"metric": "nll", "level": "user", "delta": -0.5, "low": -0.7, "high": -0.2}
    return Experiment.model_validate(
        {
            "experiment": "drift",
            "tasks": ["films"],
            "templates": ["short"],
            "base": "tiny",
            "preset": "device",
            "profile": "tiny",
            "seed": 0,
            "split": "given",
            "users": 3,
            "hardware": environment.hardware().model_dump(),
            "commit": "c" * 40,
            "confidence": 0.95,
            "conditions": {
                "nothing": {"sets": {"queries": arm}},
                "update": {"sets": {"queries": arm}, "costs": costs},
            },
            "contrasts": [{"a": "update", "b": "nothing", "on": "queries", **contrast}],
            "facts": {"updates": 6, "share_of_updates_kept": 0.5},
            "notes": ["made by hand"],
        }
    )


def test_a_result_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "drift.json"
    write_document(hand_made(), path)
    assert read_experiment(path) == hand_made()
    write_document(read_experiment(path), again := tmp_path / "again.json")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"extra": 1}, "extra"),
        ({"experiment": "magic"}, "experiment"),
        ({"conditions": {}}, "conditions"),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "drift.json"
    write_document(hand_made(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ReportError, match=words):
        read_experiment(path)
    with pytest.raises(ReportError, match="no such file"):
        read_experiment(tmp_path / "none.json")


def test_a_contrast_must_name_scores_that_are_there() -> None:
    raw = hand_made().model_dump(by_alias=True)
    raw["contrasts"][0]["on"] = "dreams"
    with pytest.raises(ValueError, match="no such score"):
        Experiment.model_validate(raw)


def test_tables_and_figure_say_what_the_file_holds() -> None:
    result = hand_made()
    table = to_markdown(result_table(result))
    assert "| queries | nll | 1.600 [1.100, 2.100] | 1.600 [1.100, 2.100] |" in table
    assert "| cost a user | trained tokens | – | 10 |" in table
    assert "| update − nothing | queries | nll | -0.5000 | [-0.7000, -0.2000] | better |" in (
        to_markdown(difference_table(result))
    )
    figure = loss_figure(result)
    assert "queries, update:" in figure.alt
    assert ET.fromstring(figure.svg).tag.endswith("svg")


def test_the_meter_counts_tokens_by_direction_and_adds_up() -> None:
    base = tiny_base()
    meter, tokens = Meter(base), torch.zeros(2, 5, dtype=torch.long)
    with meter.over("work"):
        base(input_ids=tokens)
        with torch.no_grad():
            base(input_ids=tokens[:1, :3])
    base(input_ids=tokens)  # outside: not counted
    with meter.over("work"):
        base(input_ids=tokens)
    costs = meter.costs["work"]
    assert (costs.trained_tokens, costs.judged_tokens) == (20, 3)
    assert costs.seconds > 0
    zero = Costs(trained_tokens=0, judged_tokens=0, seconds=0, cpu_seconds=0)
    assert costs + zero == costs


def test_drift_as_a_command(
    data: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch,
    capsys,
) -> None:
    monkeypatch.setattr(options, "load_profile", lambda _: quick_settings())
    out = tmp_path / "out"
    line = [str(data), "--task", "synth_tag", "--base", str(base), "--max-items", "14"]
    line += ["--preset", "device", "--out", str(out)]
    assert run_cli(["exp", "drift", *line, "--json"]) == 0
    printed = capsys.readouterr()
    told = document(printed.out, "exp drift", "proper-sim")
    assert (told["result"], told["figure"]) == (str(out / "drift.json"), str(out / "drift.svg"))
    result = read_experiment(out / "drift.json")
    assert list(result.conditions) == ["stage2", "nothing", "update", "scratch"]
    assert result.split == "given, at most 14 items a user"
    assert result.facts["updates"] == 4
    assert "update − scratch" in printed.err
    assert told["facts"] == result.facts
    text = (out / "drift.json").read_text()
    assert str(tmp_path) not in text
    assert str(tmp_path) not in (out / "drift.svg").read_text()
    words = small_population().population.test[0].history[0].fields["description"]
    assert words not in text
    assert run_cli(["exp", "table", str(out / "drift.json"), "--markdown"]) == 0
    assert "| queries | accuracy |" in capsys.readouterr().out


def test_multitask_as_a_command(
    data: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch,
    repository: Path,
    capsys,
) -> None:
    monkeypatch.setattr(options, "load_profile", lambda _: quick_settings())
    task = (repository / "proper_model/tasks/task_files/synth_tag.toml").read_text()
    (tmp_path / "mine.toml").write_text(task.replace('name = "synth_tag"', 'name = "mine"'))
    line = [str(data), "--task", "synth_tag", "--base", str(base), "--max-items", "10"]
    line += ["--second-task", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]
    assert run_cli(["exp", "multitask", *line, "--preset", "device", "--json"]) == 0
    told = document(capsys.readouterr().out, "exp multitask", "proper-sim")
    assert told["tasks"] == ["synth_tag", "mine"]
    result = read_experiment(tmp_path / "out" / "multitask.json")
    assert list(result.conditions) == ["shared", "apart", "transferred", "mean"]
    assert result.tasks == ["synth_tag", "mine"]
    assert set(result.conditions["mean"].sets) == {
        f"{name}, stage {stage}" for name in ("synth_tag", "mine") for stage in (2, 3)
    }
    assert result.facts["items_mine"] == result.facts["items_synth_tag"] == 2 * 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (f"drift {REAL} --parts 0", 11, "--parts"),
        ("drift {data} --task synth_tag", 11, "--base is missing"),
        (f"drift {REAL} --max-items 9", 13, "no test user's history is long enough"),
        ("drift demo:rate", 11, "no people who change their minds"),
        ("multitask demo --second-task synth_rate", 11, "one task each"),
        (f"multitask {REAL} --second-task synth_tag", 11, "both tasks are synth_tag"),
        (f"multitask {REAL} --second-task LaMP_2M --second-data {{others}}", 13, "in both tasks"),
        (f"multitask {REAL}", 2, ""),
        ("table {data}/none.json", 19, "no such file"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    arguments: str,
    code: int,
    words: str,
    data: Path,
    base: Path,
    tmp_path: Path,
    monkeypatch,
    capsys,
) -> None:
    monkeypatch.setattr("simulations.synthetic.tiny_base.make_tiny_base", lambda *_, **__: base)
    monkeypatch.setattr(drift, "train_release", _never)
    monkeypatch.setattr("simulations.experiments.multitask.train_release", _never)
    others = tmp_path / "others"
    population = small_population().population
    renamed = tuple(User("x" + u.user_id, u.history, u.queries) for u in population.test)
    write_oppu(Population("others", renamed[:3], renamed[3:]), others)
    known = {"data": data, "base": base, "others": others}
    line = ["exp", *(word.format(**known) for word in arguments.split())]
    if not arguments.startswith("table"):
        line += ["--out", str(tmp_path / "out")]
    assert run_cli(line) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_page_shows_what_the_committed_files_hold(
    repository: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(repository)
    page = (repository / "docs/experiments.md").read_text()
    block = r"<!-- generated: proper-sim (exp table (\S+) --markdown) -->\n(.*?)<!-- /generated -->"
    shown = re.findall(block, page, re.DOTALL)
    files = {path for _, path, _ in shown}
    assert files == {str(path) for path in Path("results/experiments").glob("*")}
    for command, path, body in shown:
        assert run_cli(command.split()) == 0
        assert body.strip() == capsys.readouterr().out.strip()
        result = read_experiment(Path(path))
        assert re.fullmatch(r"[0-9a-f]{40}", result.commit), "made from a clean checkout"
        assert "/" not in result.base


def _never(*_: object, **__: object) -> Release:
    raise AssertionError("nothing may be trained")
