"""`proper-sim exp table1` and its like: what they leave, that they go on, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from benchmarked import CANARY, World, be_quick
from chromium import Page
from test_report import check

from proper_model.errors import ConfigError, DataError
from proper_model.evaluation.metrics import Prediction
from proper_model.settings import load_profile
from proper_model.storage.durable import locked
from simulations.baselines import registry
from simulations.baselines.arm import Benchmark
from simulations.cli import run_cli
from simulations.experiments import (
    arm_runs,
    benchmark_commands,
    benchmark_page,
    benchmark_plan,
    configuration,
)
from simulations.experiments.ablations import ABLATIONS, fitting
from simulations.experiments.benchmark_figures import routing_density
from simulations.experiments.benchmark_plan import Asked, Plan
from simulations.experiments.benchmark_schema import BenchmarkResult, read_benchmark
from simulations.experiments.benchmark_summary import _standing_notes
from simulations.reporting.figures import Figure
from simulations.setup import options
from simulations.setup.options import RunOptions
from tests.documents import document

RIVAL = "always-three"
TABLE1 = "table1 --seeds 0,1 --lengths 1,3 --presets default,device --users 3"


class AlwaysThree:
    """A method that needs nothing: it also says what it was given."""

    name = RIVAL
    given: ClassVar[list[Benchmark]] = []

    def predict(self, given: Benchmark) -> list[Prediction]:
        self.given.append(given)
        return [
            Prediction(user.user_id, query.id, "3", 1.5, 2, expected=3.0)
            for user in given.users
            for query in user.queries
        ]


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch)
        patch.setattr(registry, "ARMS", {RIVAL: AlwaysThree, "not-for-these": NotForThese})
        patch.setattr(registry, "_LIMITS", {})
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "240")
        yield patch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, patched) -> World:
    """People and a base; table 1 was stopped in the middle and went on."""
    world = World(tmp_path_factory.mktemp("benchmark"))
    stop_after(patched, world, arms=4)
    assert run_cli(world.line(TABLE1, "table1")) == 0
    (world.folder / "drawn.html").write_bytes((world.folder / "table1/table1.html").read_bytes())
    return world


def stop_after(patch, world: World, *, arms: int) -> None:
    """Start table 1 and lose power in the arm after so many."""
    real = arm_runs.predict
    answered: list[str] = []

    def dies(release, users, arm, states, **more):
        if len(answered) == arms:
            raise KeyboardInterrupt
        answered.append(arm)
        return real(release, users, arm, states, **more)

    with patch.context() as now:
        now.setattr(arm_runs, "predict", dies)
        assert run_cli(world.line(TABLE1, "table1")) == 130
    assert len(list((world.folder / "table1").rglob("arms/*.json"))) == arms


class NotForThese:
    """A method that finds out from the data that it is not defined."""

    name = "not-for-these"

    def predict(self, given: Benchmark) -> list[Prediction]:
        raise DataError("nobody shares an item", hint="leave it out")


@pytest.fixture(autouse=True)
def undrawn(world, monkeypatch) -> None:
    """Figures are drawn once, for the world: they take most of the time."""
    monkeypatch.setattr(benchmark_page, "draw", lambda *_: [])


@pytest.fixture
def result(world: World) -> BenchmarkResult:
    return read_benchmark(world.folder / "table1" / "table1.json")


def test_a_table_holds_every_arm_of_every_structure_once(result: BenchmarkResult) -> None:
    assert list(result.rows) == [
        *("stage1", "stage2-mean (default)", "stage2 (default)", "oppu-mlp", "stage3 (default)"),
        *("stage3-shuffled (default)", RIVAL),
        *("stage2-mean (device)", "stage2 (device)", "stage3 (device)"),
        "stage3-shuffled (device)",
    ]
    assert (result.users, result.queries, result.seeds) == (3, 6, [0, 1])
    assert all(len(values["nll"]) == 3 for values in result.people.values())
    assert "left out: not-for-these, since nobody shares an item" in result.notes
    assert result.rows[RIVAL].metrics["nll"].user_mean == pytest.approx(0.75)
    pairs = {(row.a, row.b) for row in result.comparisons}
    assert {("stage3 (device)", "oppu-mlp"), ("stage3 (device)", RIVAL)} <= pairs
    assert {point.items for point in result.lengths if point.cut} == {1, 3}
    assert {curve.phase for curve in result.curves} == {"population", "group", "router"}
    assert result.variants["default"].parameters["lora_routers"] > 0
    assert result.variants["device"].parameters["lora_routers"] == 0
    trained = result.rows["stage3 (default)"].training
    assert trained is not None
    assert trained.trained_tokens > 0


def test_a_rival_is_given_people_and_stages_and_is_run_once_a_seed(world: World) -> None:
    seeds = [given.seed for given in AlwaysThree.given]
    assert seeds == [0, 1]
    given = AlwaysThree.given[0]
    assert (len(given.pooled), len(given.users)) == (6, 3)
    assert given.release.structure.name == "default"
    assert given.folder.name == RIVAL


def test_what_is_finished_is_not_computed_again(world: World, monkeypatch, capsys) -> None:
    """Everything is there: a second start trains nothing, asks nobody, and leaves the same bytes."""
    before = (world.folder / "table1" / "table1.json").read_bytes()
    for name in ("predict", "adapt_users", "train_release"):
        monkeypatch.setattr(arm_runs, name, _never)
    AlwaysThree.given.clear()
    assert run_cli(world.line(TABLE1, "table1")) == 0
    assert AlwaysThree.given == []
    assert (world.folder / "table1" / "table1.json").read_bytes() == before
    capsys.readouterr()


def test_one_arm_is_computed_again_alone(world: World, monkeypatch) -> None:
    out = world.folder / "table1"
    before = (out / "table1.json").read_bytes()
    lost = out / "cells/default-seed1-fold0/arms/stage3.json"
    predictions = json.loads(lost.read_bytes())["predictions"]
    lost.unlink()
    asked: list[str] = []
    real = arm_runs.predict

    def counted(release, users, arm, states, **more):
        asked.append(arm)
        return real(release, users, arm, states, **more)

    monkeypatch.setattr(arm_runs, "predict", counted)
    monkeypatch.setattr(arm_runs, "adapt_users", _never)  # the states are there
    assert run_cli(world.line(TABLE1, "table1")) == 0
    assert asked == ["stage3"]
    assert json.loads(lost.read_bytes())["predictions"] == predictions
    assert _numbers(out / "table1.json") == _numbers(before)


def _numbers(source: Path | bytes) -> object:
    """A result without times."""
    content = json.loads(source if isinstance(source, bytes) else source.read_bytes())
    for row in content["rows"].values():
        row["answering"] = None
    for variant in content["variants"].values():
        variant["seconds"] = None
    return content


def test_the_configuration_is_fixed_first_and_quoted(world: World, result: BenchmarkResult) -> None:
    stored = json.loads((world.folder / "table1" / "configuration.json").read_bytes())
    assert stored["sha256"] == result.configuration
    assert configuration.digest(stored["configuration"]) == result.configuration
    assert stored["configuration"]["variants"]["device"]["structure"]["router_text"] == "none"


@pytest.mark.parametrize(
    ("command", "out", "code", "words"),
    [
        ("table1 --seeds 0,2 --rivals none", "table1", 11, "it differs in: seeds"),
        ("table1 --rivals none --max-items 2", "table1", 11, "data"),
        ("table1 --rivals none", "cache", 11, "is not empty and holds no benchmark"),
        ("table1 --seeds x", "new", 11, "--seeds is 'x'"),
        ("table1 --seeds 0,0", "new", 11, "and each once"),
        ("table1 --lengths 0", "new", 11, "--lengths must be at least 1"),
        ("table1 --presets default,magic", "new", 11, "unknown preset 'magic'"),
        ("table1 --rivals magic", "new", 11, "unknown methods: magic"),
        ("fig6-experts --experts 0,2", "new", 11, "--experts"),
        ("table2 --split inactive:1 --folds 2", "new", 11, "--folds rotates"),
    ],
)
def test_what_is_refused_before_anything_is_trained(
    command: str, out: str, code: int, words: str, world: World, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(arm_runs, "train_release", _never)
    monkeypatch.setattr(arm_runs, "predict", _never)
    assert run_cli(world.line(command, out)) == code
    assert words in capsys.readouterr().err
    assert not (world.folder / "new").exists()


def test_one_process_at_a_time(world: World, capsys) -> None:
    with locked(world.folder / "table1" / ".lock", timeout_s=0):
        assert run_cli(world.line(TABLE1, "table1")) == 48
    assert "another process runs this benchmark" in capsys.readouterr().err


def test_a_damaged_part_is_named(world: World, monkeypatch, capsys) -> None:
    path = world.folder / "table1/cells/default-seed0-fold0/arms/stage1.json"
    before = path.read_bytes()
    path.write_bytes(before[:100])
    try:
        assert run_cli(world.line(TABLE1, "table1")) == 17
        assert "delete that file" in capsys.readouterr().err
    finally:
        path.write_bytes(before)


def test_files_hold_no_text_of_real_people_unless_asked(world: World, capsys) -> None:
    out = world.folder / "table1"
    for name in ("table1.json", "table1.md", "table1.html", "configuration.json"):
        text = (out / name).read_text()
        assert CANARY not in text
        assert str(world.folder) not in text
    assert run_cli(world.line(TABLE1, "table1", "--show-examples")) == 0
    assert CANARY in (out / "table1.html").read_text()
    assert CANARY not in (out / "table1.json").read_text()
    assert run_cli(world.line(TABLE1, "table1")) == 0
    assert CANARY not in capsys.readouterr().out


def test_folds_ask_everybody_once(world: World) -> None:
    line = world.line("table2 --folds 2 --pooled-users 4", "folds")
    assert run_cli(line) == 0
    result = read_benchmark(world.folder / "folds" / "table2.json")
    assert (result.folds, result.users) == (2, 13)
    assert list(result.rows) == ["stage1", "stage2", "oppu-mlp", "stage3"]
    assert len(result.items) == len(result.people["stage3"]["nll"]) == 13


def test_routing_and_texts_are_read(world: World, monkeypatch, capsys) -> None:
    def one(result: BenchmarkResult, key: str) -> list[Figure | None]:
        return [routing_density(result.routing[0], key=f"{key}-routing0")]

    monkeypatch.setattr(benchmark_page, "draw", one)
    assert run_cli([*world.line("fig45", "fig45"), "--json"]) == 0
    told = document(capsys.readouterr().out, "exp fig45", "proper-sim")
    assert told["result"] == str(world.folder / "fig45" / "fig45.json")
    (figure,) = told["figures"]
    assert Path(figure).name == "routing0.svg"
    assert all(Path(told[name]).is_file() for name in ("result", "table", "page"))
    assert Path(figure).is_file()
    monkeypatch.setattr(benchmark_page, "draw", lambda *_: [])
    result = read_benchmark(world.folder / "fig45" / "fig45.json")
    full, without = result.routing
    assert (len(full.weights), len(full.points), len(full.clusters)) == (7, 7, 7)
    assert {round(sum(row), 4) for row in (*full.weights, *without.weights)} == {1.0}
    assert without.points == []
    capsys.readouterr()
    assert run_cli([*world.line("fig3", "fig3"), "--json"]) == 0
    assert document(capsys.readouterr().out, "exp fig3", "proper-sim")["users"] > 0
    texts = read_benchmark(world.folder / "fig3" / "fig3.json").texts
    assert texts is not None
    assert [texts.kinds.count(kind) for kind in ("training", "test", "stage3")] == [6, 2, 2]
    assert texts.distances["training"] < 1


def test_tables_join_beside_the_paper(world: World, capsys) -> None:
    paths = [str(world.folder / "table1/table1.json")] * 2
    assert run_cli(["exp", "table", *paths, "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| paper, LaMP_3 | mae | 0.250 |" in printed
    assert "in the paper, stage 2 on LaMP-7 is .533" in printed
    page = world.folder / "joined.html"
    assert run_cli(["exp", "page", *paths, "--out", str(page)]) == 0
    checker = check(page.read_text())
    beside = sorted(world.folder.glob("joined-*.html"))
    assert len(beside) == 2
    assert set(checker.outside) == {path.name for path in beside}
    assert len(checker.ids) == len(set(checker.ids))
    assert "All sets" in page.read_text()
    assert "2 more" in capsys.readouterr().err


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_its_screen_and_asks_nobody(world: World, browser, width: int) -> None:
    page = Page(browser)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.go((world.folder / "drawn.html").as_uri())
    page.wait("document.readyState === 'complete' && document.querySelector('main')")
    # Tables and figures scroll in their own boxes; the page itself never does, sideways.
    assert page.run("document.documentElement.scrollWidth") == width
    boxes = page.each(
        ".scroll", "e => [e.getBoundingClientRect().right, e.scrollWidth, e.tabIndex]"
    )
    assert all(right <= width and tab == 0 for right, _, tab in boxes)
    assert width > 360 or any(inside > width for _, inside, _ in boxes)
    smallest = page.run(
        "Math.min(...[...document.querySelectorAll('figure text')].map("
        "e => e.getBoundingClientRect().height))"
    )
    assert smallest >= 8
    text = page.run("document.body.innerText")
    for words in ("Where PROPER does not win", "Gain of every person", "by length of the history"):
        assert words in text
    asked = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}
    assert page.events("Runtime.exceptionThrown") == []
    assert [e for e in page.events("Log.entryAdded") if e["entry"]["level"] == "error"] == []
    page.close()


def plan_of(command: str, **asked: Sequence) -> benchmark_plan.Plan:
    options = RunOptions("people", Path("out"), task="LaMP_3", base="base")
    return getattr(benchmark_plan, command)(options, dataclasses.replace(Asked(), **asked))


def test_table_3_takes_away_one_part_at_a_time(patched) -> None:
    plan = plan_of("table3")
    names = [variant.name for variant in plan.variants]
    assert names[:4] == ["full", "regular router", "no constraint loss", "no LoRA-aware router"]
    assert ("stage2 (full)", "stage2 (regular router)") in plan.pairs
    assert ("stage3 (full)", "stage3-shuffled (full)") in plan.pairs
    assert any(re.match("left out: summed logits, since preset default", n) for n in plan.notes)
    rows = {plan.row(arm, variant) for variant in plan.variants for arm in variant.arms}
    assert {name for pair in plan.pairs for name in pair} <= rows
    seen, usual = (_standing_notes(one, 100)[0] for one in (plan, plan_of("table2")))
    assert "seen, except that stage 2 of 'stage 2 with everybody' has seen their histories;" in seen
    assert usual.startswith("people are those whom no pooled stage has seen; where")
    full = plan.variants[0]
    for variant in plan.variants[1:]:
        assert (variant.structure, variant.settings, variant.options) != (
            *(full.structure, full.settings),
            full.options,
        )


@pytest.mark.parametrize("preset", ["paper", "default", "device"])
def test_every_ablation_fits_or_says_why_not(preset: str, patched) -> None:
    full = plan_of("table3", presets=(preset,)).variants[0]
    kept, left_out = fitting(full.structure, full.settings)
    assert {*kept, *left_out} == set(ABLATIONS)
    assert "shuffled identities" in kept
    assert all(left_out.values())
    assert ("regular router" in left_out) == (preset == "device")


def test_experts_are_compared_with_the_middle_number(patched) -> None:
    plan = plan_of("experts")
    assert [variant.structure.experts for variant in plan.variants] == [2, 5, 8]
    assert ("stage3 (5 experts)", "stage3 (8 experts)") in plan.pairs
    assert plan_of("efficiency").variants[0].options.cache == Path("out/cache")
    with pytest.raises(ConfigError, match="takes one preset"):
        plan_of("table2", presets=("default", "device"))


REAL = "films --task LaMP_3 --base base --out out"


@pytest.mark.parametrize(
    ("line", "presets", "split"),
    [
        (f"table1 {REAL}", ["calibrated"], "given"),
        (f"table1 {REAL} --presets device,paper", ["device", "paper"], "given"),
        (f"table1 {REAL} --profile small-gpu", ["default"], "given"),
        ("table1 demo --out out", ["default"], "given"),
        ("table2 demo --out out", ["default"], "inactive:100"),
        ("table2 demo --out out --split given", ["default"], "given"),
        ("table2 demo --out out --folds 2", ["default"], "given"),
        (f"table2 {REAL} --preset device --split random:9", ["device"], "random:9"),
    ],
)
def test_a_command_takes_the_profiles_usual_preset_and_its_own_split(
    line: str, presets: list[str], split: str, patched, monkeypatch
) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(options, "load_profile", load_profile)  # those that are shipped
    monkeypatch.setattr(benchmark_commands, "_run", lambda plan, **_: plans.append(plan))
    assert run_cli(["exp", *line.split()]) == 0
    (plan,) = plans
    assert [variant.structure.name for variant in plan.variants] == presets
    assert {variant.options.split for variant in plan.variants} == {split}


@pytest.mark.parametrize(
    ("file", "only", "code"),
    [
        ("structures/experts.json", "means", 0),
        ("structures/experts.json", "claims", 19),  # its rows are of other names
        ("experiments/drift-movie_ratings-device-0.json", "means", 11),
        ("demo.json", "means", 19),
    ],
)
def test_a_part_that_is_not_there_is_an_error(
    file: str, only: str, code: int, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["exp", "table", str(repository / "results" / file), "--only", only]) == code
    assert ("hint" in capsys.readouterr().err) == (code != 0)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("nothing may be computed")
