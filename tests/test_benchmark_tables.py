"""A benchmark by hand as tables, words and figures; the paper's numbers as its tables have them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from pydantic import ValidationError

from client.person.state import PersonalState
from proper_model.errors import CheckpointError, ReportError
from proper_model.evaluation.metrics import Prediction
from proper_model.storage.files import write_atomic
from proper_model.tasks import User
from simulations.experiments.arm_store import CellStore, Finished, ReleaseFacts
from simulations.experiments.benchmark_brief import brief_tables, cost_table
from simulations.experiments.benchmark_figures import density, draw
from simulations.experiments.benchmark_schema import (
    BenchmarkResult,
    Curve,
    LengthPoint,
    read_benchmark,
    read_result,
)
from simulations.experiments.benchmark_tables import (
    band_table,
    comparison_table,
    joined_table,
    markdown,
    method_table,
    standing,
)
from simulations.experiments.one_person import distances
from simulations.experiments.paper_numbers import (
    SHAPES,
    TABLE1,
    TABLE2,
    TABLE3,
    counterpart,
    paper_value,
)
from simulations.experiments.schema import Costs
from simulations.outcome import environment
from simulations.outcome.results import MetricSummary, write_document

NAMES = ("stage1", "oppu-mlp", "stage3", "item-mean", "gaussian")
ITEMS = (4, 4, 9, 9)
# Of four people, two with few items and two with many.
ERRORS = {
    "stage1": (1.0, 1.0, 1.0, 1.0),
    "oppu-mlp": (1.0, 1.0, 0.6, 0.6),
    "stage3": (0.8, 1.0, 0.7, 0.7),
    "item-mean": (1.0, 1.0, 1.0, 1.0),
    "gaussian": (0.8, 0.8, 0.5, 0.5),
}
COSTS = Costs(trained_tokens=800, judged_tokens=8, seconds=4.0, cpu_seconds=2.0)


def summary(values: tuple[float, ...]) -> dict[str, float]:
    mean = math.fsum(values) / len(values)
    ends = {"low": min(values), "high": max(values)}
    return {"mean": mean, "user_mean": mean, **ends, **{f"user_{k}": v for k, v in ends.items()}}


def point(a: str, b: str, items: int, delta: float) -> LengthPoint:
    ends = {"delta": delta, "low": delta - 0.1, "high": delta + 0.1}
    return LengthPoint(items=items, cut=True, people=4, a=a, b=b, metric="mae_expected", **ends)


def by_hand(**changes: Any) -> BenchmarkResult:
    content: dict[str, Any] = {
        "experiment": "table1",
        "task": "movie_ratings",
        "template": "short",
        "base": "tiny",
        "profile": "tiny",
        "split": "given",
        "seeds": [0, 1],
        "folds": 1,
        "users": 4,
        "queries": 8,
        "hardware": environment.hardware(),
        "commit": "c" * 40,
        "configuration": "f" * 64,
        "confidence": 0.95,
        "variants": {
            "default": {
                "preset": "default",
                "parameters": {"experts": 5000},
                "seconds": {"group": 90},
            }
        },
        "rows": {
            name: {
                "arm": name,
                "variant": "default",
                "metrics": {"mae_expected": summary(ERRORS[name]), "mae": summary(ERRORS[name])},
                "training": COSTS if name == "stage3" else None,
                "answering": COSTS,
            }
            for name in NAMES
        },
        "comparisons": [
            {
                "a": "stage3",
                "b": "oppu-mlp",
                "metric": "mae_expected",
                "level": "user",
                "delta": 0.1,
                "low": 0.02,
                "high": 0.2,
                "p": 0.01,
                "p_holm": 0.01,
                "people": 4,
                "helped": 0.25,
                "hurt": 0.5,
                "detectable": 0.3,
                "by_seed": [0.05, 0.15],
            }
        ],
        "people": {name: {"mae_expected": list(ERRORS[name])} for name in NAMES},
        "items": list(ITEMS),
        "lengths": [
            *(point("oppu-mlp", "stage1", n, -0.1 * n) for n in (1, 4)),
            *(point("stage3", "stage1", n, -0.2) for n in (1, 4)),
        ],
        "curves": [
            Curve(
                variant="default",
                phase="group",
                held_back=[0.75, 0.73, 0.74],
                standard_error=[0.01, 0.02, 0.01],
                kept=1,
            )
        ],
        "notes": ["by hand"],
    }
    return BenchmarkResult.model_validate(content | changes)


def test_a_file_comes_back_as_it_was_and_faults_are_named(tmp_path: Path) -> None:
    write_document(by_hand(), tmp_path / "x.json")
    write_document(read_result(tmp_path / "x.json"), tmp_path / "y.json")
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()
    assert read_benchmark(tmp_path / "x.json").curves == by_hand().curves
    (tmp_path / "x.json").write_text(json.dumps({"experiment": "table1"}))
    with pytest.raises(ReportError, match="not a benchmark of schema 1"):
        read_result(tmp_path / "x.json")
    with pytest.raises(ReportError, match="no such file"):
        read_result(tmp_path / "none.json")
    rows = by_hand().model_dump()["rows"]
    for wrong in ({"rows": {"stage1": rows["stage1"]}}, {"variants": {}}, {"experiment": "table9"}):
        with pytest.raises(ValidationError):
            by_hand(**wrong)


def test_differences_of_single_seeds_stand_beside_their_mean() -> None:
    table = comparison_table(by_hand())
    assert (table.header[-1], table.rows[0][-1]) == ("each seed", "+0.0500, +0.1500")
    assert comparison_table(by_hand(seeds=[0])).header[-1] == "detectable"


def test_methods_stand_beside_the_paper() -> None:
    table = method_table(by_hand())
    assert table.header == (
        *("method", "mae", "paper, LaMP_3, mae", "mae_expected"),
        *("seconds a person", "trained tokens a person"),
    )
    rows = {row[0]: row for row in table.rows}
    assert rows["oppu-mlp"][1:4] == ("0.800 [0.600, 1.000]", "0.223", "0.800 [0.600, 1.000]")
    assert rows["gaussian"][2] == "–"
    # Learning and answering, by two seeds of four people.
    assert rows["stage3"][-2:] == ("1.00", "200")
    assert rows["stage1"][-2:] == ("0.50", "100")
    assert "movie_ratings is no LaMP task" in markdown(by_hand())


def test_tables_of_several_sets_stand_side_by_side() -> None:
    other = by_hand(task="unheard_of")
    rows = joined_table([by_hand(), other]).rows
    assert [row[:2] for row in rows] == [
        ("movie_ratings, 4 people", "mae"),
        ("paper, LaMP_3", "mae"),
        ("movie_ratings, 4 people", "mae_expected"),
        ("unheard_of, 4 people", "mae"),
        ("unheard_of, 4 people", "mae_expected"),
    ]
    assert rows[1][2:5] == ("0.250", "0.223", "0.178")


def test_the_brief_tables_hold_means_differences_and_lengths_of_every_set() -> None:
    cut = [
        LengthPoint(
            items=n,
            cut=True,
            people=4,
            a="stage3",
            b="stage1",
            metric="nll",
            delta=d,
            low=low,
            high=h,
        )
        for n, d, low, h in ((1, -0.1, -0.3, 0.1), (4, -0.2, -0.3, -0.1))
    ]
    rows = {name: row for name, row in by_hand().rows.items() if name in NAMES[:3]}
    other = by_hand(task="news_categories", rows=rows, lengths=cut, seeds=[0])
    means, differences, lengths = brief_tables([by_hand(), other])
    assert means.title == "Means over people: mae_expected"
    assert means.header[:2] == ("method", "movie_ratings, mae_expected ↓")
    found = {row[0]: row[1:] for row in means.rows}
    assert found["oppu-mlp"] == ("0.800", "0.800")
    assert found["gaussian"] == ("0.650", "–")
    assert differences.rows[0] == (
        *("movie_ratings (4 people, 2 seeds)", "mae_expected ↓"),
        *("–", "–", "–", "+0.100 −"),  # an error that is higher, clear of zero
    )
    assert lengths.header[2:] == ("n = 1", "n = 4")
    assert lengths.rows == (
        ("news_categories (4 people)", "stage3 − stage1", "-0.100", "-0.200 +"),
    )


def test_sets_over_several_bases_name_them() -> None:
    means, differences = brief_tables([by_hand(), by_hand(base="another")])[:2]
    assert means.header[1:] == tuple(
        f"movie_ratings ({base}), mae_expected ↓" for base in (by_hand().base, "another")
    )
    own = f"movie_ratings (4 people, 2 seeds, {by_hand().base})"
    assert [row[0] for row in differences.rows] == [own, own.replace(by_hand().base, "another")]


def test_sets_of_another_kind_have_means_of_their_own() -> None:
    numbers = MetricSummary(**summary((0.5, 0.7, 0.5, 0.7)))
    rows = {
        "stage1": by_hand().rows["stage1"].model_copy(update={"metrics": {"accuracy": numbers}})
    }
    other = by_hand(task="news_categories", rows=rows, comparisons=[], people={}, lengths=[])
    first, second = brief_tables([by_hand(), other, by_hand(task="x")])[:2]
    assert first.header[1:] == ("movie_ratings, mae_expected ↓", "x, mae_expected ↓")
    assert (second.title, second.rows) == ("Means over people: accuracy", (("stage1", "0.600"),))


def test_costs_are_of_those_who_learned_by_person_and_seed() -> None:
    rows = by_hand().rows
    rows["stage3"].metrics["nll"] = MetricSummary(**summary((0.5, 0.7, 0.5, 0.7)))
    result = by_hand(rows=rows)
    (row,) = cost_table([result]).rows  # four people, two seeds
    assert row == ("movie_ratings, ffffffff", "stage3", "100", "1", "0.25", "0.600")


def test_what_is_lost_is_said_first() -> None:
    found = standing(by_hand())
    assert found.tally.startswith("Of 1 comparisons of stage 2 or 3 with something else in mae_exp")
    assert found.tally.endswith("0 are won, 1 are lost and 0 cannot be told apart.")
    (said,) = found.lost
    assert said.startswith("stage3 is worse than oppu-mlp in mae_expected: +0.1000")
    assert "- stage3 is worse than oppu-mlp" in markdown(by_hand())
    won = by_hand().comparisons[0].model_copy(update={"delta": -0.1, "low": -0.2, "high": -0.02})
    assert standing(by_hand(comparisons=[won])).lines[1:] == ()
    open_ = won.model_copy(update={"high": 0.1})
    assert len(standing(by_hand(comparisons=[open_])).undecided) == 1


def test_the_way_from_one_floor_to_the_other_is_given_by_length() -> None:
    """Few items: means .9 of 1.0 to .8; many: .7 of 1.0 to .5; everybody: .8 of 1.0 to .65."""
    table = band_table(by_hand())
    assert table is not None
    assert table.header == ("method", "4 items", "9 items", "everybody")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["stage3"] == ("0.900 (50%)", "0.700 (60%)", "0.800 (57%)")
    assert rows["oppu-mlp"][0] == "1.000 (0%)"
    assert band_table(by_hand(items=[4, 4, 4, 4])) is None
    fewer = {name: values for name, values in by_hand().people.items() if name != "gaussian"}
    plain = band_table(by_hand(people=fewer))
    assert plain is not None
    assert {row[0]: row[1] for row in plain.rows}["stage3"] == "0.900"


def test_figures_say_what_they_show() -> None:
    figures = {figure.key: figure for figure in draw(by_hand(), "k")}
    gain = figures["k-gain0"].alt
    assert "25% of 4 people are helped, 50% are hurt" in gain
    crossing = figures["k-lengths-mae_expected-True"]
    assert "oppu-mlp minus stage1: -0.100 with 1, -0.400 with 4" in crossing.alt
    assert "stage3 minus stage1: -0.200 with 1, -0.200 with 4" in crossing.alt
    assert "0.7500, 0.7300, 0.7400; 1 kept" in figures["k-curve-group"].alt
    for figure in figures.values():
        assert ET.fromstring(figure.svg).tag.endswith("svg")
        assert figure.alt.startswith(figure.title)


def test_a_density_integrates_to_one() -> None:
    at = np.linspace(-3, 4, 7001)
    for values in (np.array([0.2, 0.21, 0.8]), np.full(5, 0.5)):
        assert np.trapezoid(density(values, at), at) == pytest.approx(1.0, abs=1e-3)


def test_distances_are_cosines_to_the_centre_of_own_texts() -> None:
    points = np.array([[2.0, 0.0], [0.5, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = distances(points, ["training", "training", "stage1", "stage3"])
    assert found == pytest.approx({"training": 0.0, "stage1": 1.0, "stage3": 2.0})
    assert distances(points[:1], ["test"]) == {}


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    """What the discrepancies say can be read off them, and mean gains come out as recomputed."""
    assert TABLE1["LaMP_7", "rouge1"]["S2"] == 0.533 != TABLE3["LaMP_7", "rouge1"]["stage2 (full)"]
    routers = (TABLE3["LaMP_7", metric]["regular router"] for metric in ("rougeL", "rouge1"))
    assert next(routers) > next(routers)
    falls = [TABLE1["LaMP_5", "rouge1"][stage] for stage in ("S1", "S2", "S3")]
    assert falls == sorted(falls, reverse=True)
    for better, worse, gain in (("S2", "S1", 4.99), ("S3", "S2", 5.75)):
        gains = [
            (1 if metric not in ("mae", "rmse") else -1) * (row[better] / row[worse] - 1) * 100
            for (_, metric), row in TABLE1.items()
        ]
        assert math.fsum(gains) / len(gains) == pytest.approx(gain, abs=0.005)
    assert {task for task, _ in TABLE2} == {"LaMP_3", "LaMP_5"}


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        (("table1", "LaMP_2M", "accuracy", "stage3", "default"), 0.747),
        (("table1", "news_categories", "accuracy", "stage2", "device"), 0.701),
        (("table2", "movie_ratings", "mae", "oppu-mlp", "default"), 0.327),
        (("table3", "LaMP_2M", "f1_macro", "stage2", "full"), 0.611),
        (("table3", "LaMP_2M", "f1_macro", "stage3", "end to end"), 0.644),
        (("table1", "movie_ratings", "mae", "gaussian", "default"), None),
        (("table1", "unheard_of", "mae", "stage3", "default"), None),
    ],
)
def test_the_papers_number_beside_a_row(asked: tuple[str, ...], value: float | None) -> None:
    assert paper_value(*asked) == value


def test_only_the_papers_tasks_are_the_papers() -> None:
    found = counterpart("LaMP_3")
    assert found is not None
    assert found.same
    shapes = [counterpart(task) for task in SHAPES]
    assert all(shape is not None and not shape.same for shape in shapes)


def test_a_finished_arm_comes_back_and_its_leftovers_go(tmp_path: Path) -> None:
    store = CellStore(tmp_path / "cell")
    done = Finished([Prediction("u", "q", "\ud83d\n3", 1.5, 2, expected=2.5)], COSTS, COSTS, "c")
    for leftover in ("stage3.1", "stage1.1"):
        write_atomic(store.scratch(leftover), b"x")
    assert store.arm("stage3") is None
    store.finish("stage3", done)
    assert store.arm("stage3") == done
    assert [path.name for path in (store.folder / "scratch").iterdir()] == ["stage1.1"]
    store.leave_out("gaussian", "nobody shares an item")
    assert store.left_out("gaussian") == "nobody shares an item"
    path = store.folder / "arms" / "stage3.json"
    whole = path.read_bytes()
    for damaged in (b'{"predictions": [{}]}', whole.replace(b"1.5", b'"1.5"'), whole[:-9]):
        write_atomic(path, damaged)
        with pytest.raises(CheckpointError, match=r"stage3\.json"):
            store.arm("stage3")


def test_damaged_states_are_named_too(tmp_path: Path) -> None:
    store, user = CellStore(tmp_path / "cell"), User("u", (), ())
    store.keep_states("stage3", [user], {"u": PersonalState("b" * 64, 0, seed=1)}, COSTS)
    assert store.states("stage3", [user]) is not None
    assert store.training("stage3") == COSTS
    for path in (store.folder / "states/stage3/00000", store.folder / "states/stage3.json"):
        write_atomic(path, path.read_bytes()[:20] if path.suffix == "" else b'{"tokens": 1}')
    store.keep_release(ReleaseFacts({}, {"experts": 3}, {"group": 1.5}))
    assert store.release() == ReleaseFacts({}, {"experts": 3}, {"group": 1.5})
    for damaged in (b'{"notes": 3, "parameters": {}}', b'{"notes": {}}'):
        write_atomic(store.folder / "release.json", damaged)
        with pytest.raises(CheckpointError, match=r"release\.json"):
            store.release()
    with pytest.raises(CheckpointError, match=r"stage3/00000"):
        store.states("stage3", [user])
    with pytest.raises(CheckpointError, match=r"stage3\.json"):
        store.training("stage3")
