"""Events for TensorBoard: the numbers of the run's own files, read back by TensorBoard, and nobody's text."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import make_run, make_user
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coordinator.step_curves import CURVES, curve_writer
from proper_model.errors import ConfigError, StorageError
from proper_model.federation.run_plan import RunPlan
from proper_model.progress import silent
from proper_model.settings import to_mapping
from simulations.outcome.details import DETAILS_FILE, PhaseCurve, read_details
from simulations.outcome.results import Results, read_results, write_document
from simulations.outcome.tensorboard_events import write_events
from simulations.pipeline import execute
from simulations.reporting.score import score_run
from simulations.setup.options import RunOptions

SECRET = "quagmirevelvet"
STEPS = ((1, 2.5, 1e-3), (2, 1.25, 5e-4), (3, 1.125, 0.0))


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def curve(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def text_of(found: EventAccumulator) -> str:
    (event,) = found.Tensors("settings/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


@pytest.fixture
def run(tmp_path: Path) -> RunPlan:
    """A scored run of two people with a secret in every text, whose stage 1 has a curve."""
    out = tmp_path / "out"
    users = [make_user(f"{SECRET}-{name}", ["comedy", "action"], secret=SECRET) for name in "ab"]
    outputs = {
        arm: {user.user_id: [(right, 2.0), ("action", 3.0)] for user in users}
        for arm, right in (("stage1", "drama"), ("stage3", "comedy"))
    }
    plan = make_run(out, users, outputs)
    results, details = score_run(out, resamples=20)
    looks = PhaseCurve(
        phase="population", held_back=[2.0, 1.5], standard_error=[0.0, 0.1], people=2, kept=1
    )
    write_document(details.model_copy(update={"curves": [looks]}), out / DETAILS_FILE)
    (plan.server_folder / CURVES).mkdir(parents=True)
    watch = curve_writer(plan.server_folder / CURVES / "population.jsonl")
    for step in STEPS:
        watch(*step)
    assert isinstance(results, Results)
    return plan


def test_events_hold_the_numbers_of_the_runs_files(run: RunPlan, tmp_path: Path) -> None:
    write_events(run.out, tmp_path / "events")
    found, results = events(tmp_path / "events"), read_results(run.out)
    expected = {
        f"score/{arm}/{metric}": [(0, pytest.approx(summary.mean))]
        for arm, result in results.arms.items()
        for metric, summary in result.metrics.items()
    }
    expected["train/population/loss"] = [(step, loss) for step, loss, _ in STEPS]
    expected["train/population/learning_rate"] = [
        (step, pytest.approx(rate)) for step, _, rate in STEPS
    ]
    details = read_details(run.out / DETAILS_FILE)
    assert details is not None
    expected["held_back/population/loss"] = list(enumerate(details.curves[0].held_back))
    assert {tag: curve(found, tag) for tag in found.Tags()["scalars"]} == expected
    assert results.arms["stage3"].metrics["accuracy"].mean == 1.0  # there is something to hold
    settings = json.loads(text_of(found))
    assert settings["preset"] == results.preset
    assert settings["split"] == results.split
    assert settings["settings"]["population"]["epochs"] == run.stage_settings.population.epochs


def test_events_hold_no_text_and_no_person(run: RunPlan, tmp_path: Path) -> None:
    write_events(run.out, tmp_path / "events")
    (file,) = (tmp_path / "events").iterdir()
    content = file.read_bytes()
    assert SECRET.encode() in (run.devices[0].folder / "user.json").read_bytes()
    assert SECRET.encode() not in content
    tags = "\n".join(events(tmp_path / "events").Tags()["scalars"])
    for entry in run.devices:
        assert entry.device_id.encode() not in content
        assert entry.device_id not in tags
    assert (tmp_path / "events").stat().st_mode & 0o777 == 0o700


def test_no_point_is_the_loss_of_one_sample(run: RunPlan, tmp_path: Path) -> None:
    """Steps of one sample, as the paper has them: by hand, the means of the first and second sixteen."""
    settings = run.stage_settings
    small = replace(settings, population=replace(settings.population, batch_size=1))
    run.model_copy(update={"settings": to_mapping(small)}).save()
    path = run.server_folder / CURVES / "population.jsonl"
    path.unlink()
    watch = curve_writer(path)
    for step in range(1, 41):
        watch(step, float(step), 0.5)
    write_events(run.out, tmp_path / "events")
    found = events(tmp_path / "events")
    assert curve(found, "train/population/loss") == [(16, 8.5), (32, 24.5)]
    assert len(curve(found, "train/population/learning_rate")) == 40


def test_a_file_in_the_way_of_events_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("")
    with pytest.raises(StorageError, match="events"):
        execute(
            RunOptions(data="demo", out=tmp_path / "out"), silent, tensorboard=tmp_path / "events"
        )
    assert not (tmp_path / "out").exists()


def test_where_nobody_looked_at_losses_there_are_rates_alone(run: RunPlan, tmp_path: Path) -> None:
    path = run.server_folder / CURVES / "population.jsonl"
    path.unlink()
    curve_writer(path)(1, None, 0.5)  # as under differential privacy
    write_events(run.out, tmp_path / "events")
    found = events(tmp_path / "events")
    assert curve(found, "train/population/learning_rate") == [(1, 0.5)]
    assert "train/population/loss" not in found.Tags()["scalars"]


def test_a_resumed_run_hides_what_was_written_before(run: RunPlan, tmp_path: Path) -> None:
    for _ in range(2):
        write_events(run.out, tmp_path / "events")
    found = events(tmp_path / "events")
    assert curve(found, "train/population/loss") == [(step, loss) for step, loss, _ in STEPS]


def test_without_tensorboard_the_extra_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = RunOptions(data="demo", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="the extra 'tensorboard' of PROPER") as raised:
        execute(options, silent, tensorboard=tmp_path / "events")
    assert "pip install '.[tensorboard]'" in str(raised.value.hint)
    assert list(tmp_path.iterdir()) == []
