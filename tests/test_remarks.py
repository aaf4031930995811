"""What stages left unlearned is said, in the report and in words that name the curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from federation import make_federation
from test_report import details as some_details
from test_results import example

from proper_model.federation.run_plan import RunPlan
from simulations.outcome.results import Results
from simulations.reporting.device_details import remarks
from simulations.reporting.report import render, section


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return make_federation(tmp_path / "out", devices=1, base=False)


def release(plan: RunPlan, **notes: dict[str, object]) -> None:
    folder = plan.server_folder / "release" / "0001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared.safetensors").write_bytes(b"")
    (folder / "recipe.json").write_text(json.dumps({"notes": notes}))


def test_only_phases_that_stayed_where_they_were_are_named(plan: RunPlan) -> None:
    assert remarks([plan]) == []  # no release
    curve = {"held_back": [1.5, 1.75]}
    release(plan, population={"moved": 1.0, **curve}, group={"moved": 1.0}, router={})
    assert remarks([plan]) == []
    alone = plan.model_copy(update={"population_only": True})
    release(alone, population={"moved": 1.0, **curve}, group={}, router={})
    (said,) = remarks([alone])
    assert "population only" in said
    release(plan, population={"moved": 0.0, **curve}, router={"moved": 0.0, **curve})
    first, second = remarks([plan, plan])  # folds that say the same say it once
    assert first.startswith("stage 1 learned nothing")
    assert second.startswith("the LoRA-aware router learned nothing")
    assert first.endswith("held-back loss 1.5000 before training, then 1.7500")


def test_what_the_people_of_a_release_were_promised_is_told(plan: RunPlan) -> None:
    release(plan, privacy={"epsilon": 7.98, "delta": 1e-4}, population={"moved": 1.0})
    (said,) = remarks([plan])
    assert said.endswith("epsilon 7.98, delta 0.0001")


def test_a_preset_that_promises_a_calibration_which_the_profile_leaves_out(plan: RunPlan) -> None:
    none = {**plan.settings["calibration"], "people": 0}
    settings = {**plan.settings, "calibration": none}
    asked = {**plan.model_dump(), "preset": "calibrated", "settings": settings}
    promised = RunPlan.model_validate(asked)
    release(promised)
    (said,) = remarks([promised])
    assert said.startswith("preset calibrated under profile ")
    assert "sets nobody apart to calibrate" in said
    alone = RunPlan.model_validate({**asked, "population_only": True})
    assert "sets nobody apart" not in "".join(remarks([alone]))


def test_a_calibration_that_had_too_few_people_is_told(plan: RunPlan) -> None:
    calibration = {**plan.settings["calibration"], "people": 12}
    asked = RunPlan.model_validate(
        {**plan.model_dump(), "settings": {**plan.settings, "calibration": calibration}}
    )
    release(asked)
    (said,) = remarks([asked])
    assert said.startswith("the release is not calibrated: of 12 people to calibrate with, 0 could")
    release(asked, calibration={"people": 5, "starts": []})
    (said,) = remarks([asked])
    assert "5 could be kept out" in said
    assert "needs 10 who have it" in said
    release(asked, calibration={"people": 11, "starts": [], "stage3": [{"items": 1}]})
    (said,) = remarks([asked])
    assert said.startswith("11 people calibrated the release instead of 12")
    release(asked, calibration={"people": 12, "starts": [], "stage3": [{"items": 1}]})
    assert remarks([asked]) == []


def test_the_report_shows_them(plan: RunPlan) -> None:
    release(plan, population={"moved": 0.0})
    said = remarks([plan])
    told = some_details().model_copy(update={"remarks": said})
    page = render([section(Results.model_validate(example()), told, None, anchor="run0")])
    assert f"<strong>Note:</strong> {said[0]}." in page
    assert "<strong>Note:</strong>" not in render(
        [section(Results.model_validate(example()), some_details(), None, anchor="run0")]
    )
