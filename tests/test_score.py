"""Scoring device folders with numbers that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folders import make_run, make_user

from proper_model.errors import MetricError, ReportError
from proper_model.progress import silent
from simulations.outcome import environment, timings
from simulations.outcome.details import read_details
from simulations.outcome.results import read_results
from simulations.pipeline import finish
from simulations.reporting.device_details import message_totals
from simulations.reporting.score import score_run

CANARY = "xylophone-canary-7731"
ANNA = make_user("anna", ["comedy", "action"], secret=CANARY)
BORIS = make_user("boris", ["fantasy", "comedy", "classic", "classic"], secret=CANARY)
USERS = (ANNA, BORIS)


def answers(anna: list[str], boris: list[str], loss: float) -> dict[str, list[tuple[str, float]]]:
    return {"anna": [(a, loss) for a in anna], "boris": [(b, loss) for b in boris]}


OUTPUTS = {
    # anna 1/2, boris 1/4: 2 of 6 queries, users' mean 3/8
    "stage1": answers(["comedy", "comedy"], ["comedy"] * 4, 4.0),
    # anna 2/2, boris 3/4: 5 of 6 queries, users' mean 7/8; one answer is no tag
    "stage3": answers(
        ["comedy", "action"], ["fantasy", "comedy", "It is a classic.", "classic"], 3.0
    ),
}


def test_both_levels_equal_hand_computed_numbers(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    results, details = score_run(tmp_path, resamples=200)
    first, third = results.arms["stage1"], results.arms["stage3"]
    assert (first.n_users, first.n_queries) == (2, 6)
    assert first.metrics["accuracy"].mean == pytest.approx(2 / 6)
    assert first.metrics["accuracy"].user_mean == pytest.approx(3 / 8)
    assert third.metrics["accuracy"].mean == pytest.approx(5 / 6)
    assert third.metrics["accuracy"].user_mean == pytest.approx(7 / 8)
    assert third.metrics["parse_failure_rate"].mean == pytest.approx(1 / 6)
    assert first.metrics["nll"].mean == pytest.approx(2.0)  # 4 nats over 2 tokens
    assert details.arms["stage3"].lenient["accuracy"].mean == pytest.approx(1.0)
    assert details.arms["stage3"].changed == pytest.approx(4 / 6)
    assert details.arms["stage1"].changed is None
    assert details.arms["stage3"].devices["accuracy"] == {"d00000": 1.0, "d00001": 0.75}


def test_contrasts_are_paired_differences_at_both_levels(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    results, details = score_run(tmp_path, resamples=200)
    found = {(c.metric, c.level): c for c in results.contrasts}
    assert {(c.a, c.b) for c in results.contrasts} == {("stage3", "stage1")}
    assert found["accuracy", "query"].delta == pytest.approx(3 / 6)
    # Both users gain exactly one half, so no resample of users can say anything else.
    user = found["accuracy", "user"]
    assert (user.delta, user.low, user.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found["nll", "user"].delta == pytest.approx(-0.5)
    assert found["nll", "user"].improvement is True
    assert len(details.significance) == len(results.contrasts)
    assert all(row.p_holm >= row.p for row in details.significance if row.p == row.p)


def test_files_are_written_and_deterministic_and_hold_no_user_text_or_id(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS, fits={"anna": {"e_distance": 0.5}, "boris": {"epochs": 2}})
    score_run(tmp_path, resamples=100)
    names = ("results.json", "details.json")
    first = [(tmp_path / name).read_text() for name in names]
    score_run(tmp_path, resamples=100)
    assert [(tmp_path / name).read_text() for name in names] == first
    for text in first:
        assert CANARY not in text
        assert "anna" not in text
        assert "film" not in text
    assert read_results(tmp_path).task == "LaMP_2M"
    details = read_details(tmp_path / "details.json")
    assert details is not None
    assert details.fits == {"stage3": {"d00000": {"e_distance": 0.5}, "d00001": {"epochs": 2}}}


def test_parameters_and_timings_are_taken_from_the_run(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)

    def note(path: Path, **seconds: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seconds))

    note(tmp_path / "timings.json", group=5.0, personalize=2.0)
    note(tmp_path / "phases.json", prepare=1.0)
    note(tmp_path / "nodes" / "0" / "timings.json", load=1.5, install=0.25)
    note(tmp_path / "nodes" / "1" / "timings.json", load=0.5)  # no node of this plan
    results, _ = score_run(tmp_path, resamples=50)
    assert results.timings_s == {"prepare": 1.0, "group": 5.0, "personalize": 2.0}
    assert results.node_timings_s == {"load": 1.5, "install": 0.25}
    assert results.parameters == {}  # no release in this folder, so nothing is claimed


def test_a_missing_device_is_an_error_with_the_way_on(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    (tmp_path / "devices" / "d00001" / "predictions" / "stage3.jsonl").unlink()
    with pytest.raises(ReportError, match="d00001") as caught:
        score_run(tmp_path)
    assert "--resume" in (caught.value.hint or "")
    assert not (tmp_path / "results.json").exists()


def test_a_damaged_row_names_file_and_line_but_not_its_content(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    path = tmp_path / "devices" / "d00000" / "predictions" / "stage1.jsonl"
    path.write_text(path.read_text() + '{"output": "' + CANARY + '"}\n')
    with pytest.raises(ReportError, match="line 3") as caught:
        score_run(tmp_path)
    assert CANARY not in caught.value.message


def test_a_query_predicted_twice_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    path = tmp_path / "devices" / "d00000" / "predictions" / "stage1.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(MetricError):
        score_run(tmp_path)


def test_folds_are_scored_as_one_set(tmp_path: Path) -> None:
    for fold, user in enumerate(USERS):
        only = {arm: {user.user_id: rows[user.user_id]} for arm, rows in OUTPUTS.items()}
        make_run(tmp_path / f"fold-{fold}", (user,), only, fold=fold, folds=2)
    results, details = score_run(tmp_path, resamples=100)
    assert results.arms["stage3"].n_users == 2
    assert results.arms["stage3"].metrics["accuracy"].mean == pytest.approx(5 / 6)
    assert results.split == "given, 2 folds"
    assert set(details.arms["stage3"].devices["accuracy"]) == {"f0-d00000", "f1-d00000"}


def test_unfinished_folds_are_not_scored(tmp_path: Path) -> None:
    only = {arm: {"anna": rows["anna"]} for arm, rows in OUTPUTS.items()}
    make_run(tmp_path / "fold-0", (ANNA,), only, fold=0, folds=2)
    with pytest.raises(ReportError, match="1 of 2 folds"):
        score_run(tmp_path)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run plan"):
        score_run(tmp_path)


def test_messages_are_counted_by_kind_and_direction(tmp_path: Path) -> None:
    ledger = tmp_path / "messages.jsonl"
    rows = [
        {"direction": "out", "kind": "query.have", "node": 0, "bytes": 10, "status": ""},
        {"direction": "out", "kind": "query.have", "node": 1, "bytes": 5, "status": ""},
        {"direction": "in", "kind": "query.have", "node": 0, "bytes": 3, "status": "ok"},
    ]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    totals = message_totals([ledger, tmp_path / "absent"])
    assert [(t.kind, t.direction, t.count, t.bytes) for t in totals] == [
        ("query.have", "out", 2, 15),
        ("query.have", "in", 1, 3),
    ]


def test_levels_of_synthetic_people_are_told_apart(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    level = {q.id: "pop" for q in ANNA.queries} | {q.id: "user" for q in BORIS.queries}
    (tmp_path / "truth.json").write_text(json.dumps({"level": level}))
    _, details = score_run(tmp_path, resamples=50)
    assert details.levels is not None
    assert details.levels.metric == "accuracy"
    assert details.levels.arms == {
        "stage1": {"pop": 0.5, "user": 0.25},
        "stage3": {"pop": 1.0, "user": 0.75},
    }
    (tmp_path / "truth.json").write_text("{}")
    with pytest.raises(ReportError, match=r"truth\.json"):
        score_run(tmp_path, resamples=50)


def test_flowers_share_is_the_start_and_what_no_step_took(tmp_path: Path, monkeypatch) -> None:
    def flower(part: str) -> float:
        return float(json.loads((tmp_path / "phases.json").read_text())[f"flower-{part}"])

    now = iter([100.0, 103.0, 120.0, 200.0, 204.0])
    monkeypatch.setattr(timings.time, "monotonic", lambda: next(now))
    (tmp_path / "timings.json").write_text('{"release": 50.0}')  # of an earlier start
    seen: list[tuple[str, int, int]] = []
    clock = timings.FlowerClock(tmp_path, lambda *row: seen.append(row))
    clock("population", 0, 2)
    assert flower("start") == 3.0, "on disk before anything can be killed"
    clock("population", 1, 2)
    assert seen == [("population", 0, 2), ("population", 1, 2)]
    (tmp_path / "timings.json").write_text('{"release": 62.0}')
    clock.finish()
    assert flower("end") == 20.0 - 3.0 - 12.0
    timings.FlowerClock(tmp_path, silent)("evaluate", 0, 1)
    assert flower("start") == 3.0 + 4.0, "another start adds"


def test_times_of_a_killed_and_resumed_run_are_added_not_subtracted(tmp_path: Path) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    steps = {"population": 10.0, "group": 20.0, "router": 5.0, "release": 1.0, "personalize": 2.0}
    (tmp_path / "timings.json").write_text(json.dumps(steps))
    (tmp_path / "phases.json").write_text(json.dumps({"prepare": 1.0, "flower-start": 4.0}))
    results, _ = score_run(tmp_path, resamples=50)
    assert results.timings_s == {**steps, "prepare": 1.0, "flower-start": 4.0}


def test_scoring_and_the_report_are_phases_too_and_not_added_when_done_again(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, USERS, OUTPUTS)
    (tmp_path / "phases.json").write_text(json.dumps({"prepare": 1.0, "score": 900.0}))
    finish(tmp_path, silent)
    found = read_results(tmp_path).timings_s
    assert set(found) == {"prepare", "score", "report"}
    assert found["prepare"] == 1.0
    assert 0 < found["score"] < 900.0
    assert found["report"] > 0


def test_results_name_the_machines_that_trained_not_the_one_that_scores(tmp_path: Path) -> None:
    for fold, user in enumerate(USERS):
        only = {arm: {user.user_id: rows[user.user_id]} for arm, rows in OUTPUTS.items()}
        make_run(tmp_path / f"fold-{fold}", (user,), only, fold=fold, folds=2)
    here, _ = score_run(tmp_path, resamples=50)
    assert here.hardware == environment.hardware()
    first = {**environment.hardware().model_dump(), "torch": "1.0", "cores": 3, "gpu": None}
    second = {**first, "torch": "2.0", "cores": 64, "gpu": "Big GPU"}
    (tmp_path / "fold-0" / "hardware.json").write_text(json.dumps([first]))
    (tmp_path / "fold-1" / "hardware.json").write_text(json.dumps([first, second]))
    found = score_run(tmp_path, resamples=50)[0].hardware
    assert (found.torch, found.gpu, found.cores) == ("1.0, 2.0", "Big GPU", 64)
    assert found.cpu == environment.hardware().cpu
    (tmp_path / "fold-1" / "hardware.json").write_text('[{"torch": 1}]')
    with pytest.raises(ReportError, match=r"hardware\.json"):
        score_run(tmp_path, resamples=50)
