"""`--plan` refuses what the run would refuse, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proper_model.errors import ConfigError
from proper_model.progress import silent
from simulations.setup.costs import plan_costs
from simulations.setup.estimate import Speed
from simulations.setup.options import RunOptions
from simulations.setup.prepare import prepare
from simulations.synthetic import tiny_base


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    measured = Speed(forward=1e5, training=3e4)
    monkeypatch.setattr("simulations.setup.costs.measure", lambda *_, **__: measured)
    return RunOptions(data="demo", out=tmp_path / "runs" / "out", users=3)


def test_a_plan_of_the_demo_trains_and_leaves_nothing(
    demo: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: pytest.fail("pretrains"))
    found = plan_costs(demo, silent)
    assert found.total_seconds.high > 0
    assert list(tmp_path.iterdir()) == []


def test_a_plan_looks_at_out_as_the_run_does(
    demo: RunOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: None)
    plan = prepare(*demo.runs(), silent)
    before = sorted(path for path in plan.out.rglob("*"))
    with pytest.raises(ConfigError, match="is not empty"):
        plan_costs(demo, silent)
    with pytest.raises(ConfigError, match="is not empty"):
        plan_costs(replace(demo, folds=3), silent)
    with pytest.raises(ConfigError, match="differs in: --seed"):
        plan_costs(replace(demo, seed=1, resume=True), silent)
    same = replace(demo, resume=True)
    assert plan_costs(same, silent).total_seconds.high > 0
    assert sorted(path for path in plan.out.rglob("*")) == before


def test_a_sketch_is_the_base_that_would_be_made_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_base, "_pretrain", lambda *_: None)
    texts = ["a shy poet writes verses tag: comedy", "a proud spy tag: action"]
    made = tiny_base.make_tiny_base(tmp_path / "made", texts, vocabulary=["film"], seed=3)
    sketch = tiny_base.sketch_tiny_base(tmp_path / "s", texts, vocabulary=["film"], seed=3)
    assert sketch.name == made.name
    described = {p.name for p in sketch.iterdir()}
    assert {p.name for p in made.iterdir()} == described | {"model.safetensors"}
    for name in described:
        assert (sketch / name).read_bytes() == (made / name).read_bytes(), name
