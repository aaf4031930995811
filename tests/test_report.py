"""The report: well-formed, self-contained, described in words, and free of user text."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_results import example

from client.terminal.tables import to_markdown
from proper_model.errors import ReportError
from simulations.outcome.details import (
    ArmDetails,
    Details,
    MessageTotal,
    PhaseCurve,
    Routing,
    Significance,
)
from simulations.outcome.results import MetricSummary, Results, write_document
from simulations.reporting.report import Example, Step, device_differences, write_report
from simulations.reporting.tables import comparison_table, contrast_table, run_table

CANARY = "xylophone-canary-7731"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Balanced tags, unique ids, and what is referenced from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.figures = 0
        self.titles: list[str] = []  # ids that figures and pictures point at
        self.described: list[str] = []  # what a figure says beside its caption and its drawing

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)
        self._note(tag, dict(attrs))

    def handle_data(self, data: str) -> None:
        inside = {"figure"} <= {*self.stack} and not {"figcaption", "svg", "summary"} & {
            *self.stack
        }
        if inside and data.strip():
            self.described[-1] += data.strip() + " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def _note(self, tag: str, attrs: dict[str, str | None]) -> None:
        if attrs.get("id"):
            self.ids.append(attrs["id"] or "")
        if tag == "figure":
            self.figures += 1
            self.described.append("")
        if tag == "figure" or attrs.get("role") == "img":
            named = [attrs.get("aria-labelledby"), attrs.get("aria-describedby")]
            assert named[0], f"<{tag}> has no name"
            self.titles += [name for name in named if name]
        if tag == "script":
            self.outside.append("script")
        for name in ("src", "href", "xlink:href"):
            target = attrs.get(name)
            if target and not target.startswith(("#", "data:image/")):
                self.outside.append(target)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.stack == []
    assert set(checker.titles) <= set(checker.ids)
    assert all(len(words.split()) >= 2 for words in checker.described), checker.described
    return checker


def details() -> Details:
    summary = MetricSummary(mean=0.5, low=0.4, high=0.6, user_mean=0.5, user_low=0.4, user_high=0.6)

    def arm(nll: float) -> ArmDetails:
        return ArmDetails(
            lenient={"accuracy": summary},
            devices={"nll": {"d00000": nll, "d00001": nll + 0.1}, "accuracy": {"d00000": 1.0}},
            changed=0.25,
        )

    def fit(distance: float, before: float, after: float) -> dict[str, float]:
        names = ("embedding_distance", "embedding_loss_before", "lora_loss_after")
        return dict(zip(names, (distance, before, after), strict=True))

    losses = {"stage1": 2.0, "stage2-mean": 1.9, "stage2": 1.5, "oppu-mlp": 1.4, "stage3": 1.2}
    results = Results.model_validate(example())
    return Details(
        reference="stage1",
        arms={name: arm(nll) for name, nll in losses.items()},
        fits={"stage3": {"d00000": fit(0.8, 2.0, 1.5), "d00001": fit(0.2, 1.8, 1.9)}},
        significance=[
            Significance(contrast=results.contrasts[0], p=0.001, p_holm=0.01),
            Significance(contrast=results.contrasts[0], p=0.04, p_holm=0.08),
        ],
        messages=[MessageTotal(kind="personalize", direction="request", count=2, bytes=2048)],
        routing=Routing(devices=["d00000", "d00001"], experts=2, weights=[[0.7, 0.3], [0.1, 0.9]]),
        curves=[
            PhaseCurve(
                phase="group",
                held_back=[0.75, 0.71, 0.72],
                standard_error=[0.0, 0.004, 0.006],
                people=20,
                kept=1,
            )
        ],
    )


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    write_document(Results.model_validate(example()), tmp_path / "results.json")
    write_document(details(), tmp_path / "details.json")
    return tmp_path


def test_a_run_becomes_one_self_contained_described_page(run_folder: Path) -> None:
    target = run_folder / "report.html"
    write_report([run_folder], target)
    page = target.read_text()
    checker = check(page)
    assert checker.outside == []
    assert len(checker.ids) == len(set(checker.ids))
    # The first one, means and differences of arms, each person in three pairs of arms, routing, curve, held
    # back, distance, times of phases and of nodes, messages.
    assert checker.figures == 13
    for drawing in re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL):
        assert ET.fromstring(drawing).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert "#010203" not in page
    assert "2 people in 2 different patterns" in page
    assert "holds 0.80 of the weight in the mean" in page
    assert "<caption>1 of 2 differences</caption>" in page
    assert "<td>0.0100</td>" in page
    assert "0.0800" not in page
    learned = "0.7500 before, 0.7100 at look 1, which was kept"
    assert f"{learned} (standard error of the difference 0.0040, 20 people)" in page
    assert "It fell for 1 of 2 people, from 1.900 to 1.700" in page


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    write_report([run_folder], run_folder / "a.html")
    write_report([run_folder], run_folder / "b.html")
    assert (run_folder / "a.html").read_bytes() == (run_folder / "b.html").read_bytes()


def test_results_alone_are_enough(run_folder: Path) -> None:
    (run_folder / "details.json").unlink()
    write_report([run_folder / "results.json"], run_folder / "report.html")
    checker = check((run_folder / "report.html").read_text())
    # the first one, means and differences of arms, timings of phases and nodes
    assert checker.figures == 5


def test_several_runs_share_a_page_with_a_comparison(run_folder: Path) -> None:
    other = run_folder / "other.json"
    other.write_text(json.dumps({**example(), "seed": 1}))
    write_report([run_folder / "results.json", other], run_folder / "all.html")
    page = (run_folder / "all.html").read_text()
    checker = check(page)
    assert len(checker.ids) == len(set(checker.ids))
    assert "All runs" in page
    assert "seed 1" in page


def test_example_text_is_shown_only_when_given_and_never_as_markup(run_folder: Path) -> None:
    shown = Example(
        prompt=f"<script>alert(1)</script> {CANARY}",
        gold="comedy",
        steps=(
            Step("population", "stage1", "action", False),
            Step("user", "stage3", "comedy", True),
        ),
    )
    target = run_folder / "report.html"
    write_report([run_folder], target)
    assert CANARY not in target.read_text()
    write_report([run_folder], target, examples=[shown])
    page = target.read_text()
    assert CANARY in page
    assert check(page).outside == []


def test_a_source_that_is_no_results_file_is_refused_by_name(tmp_path: Path) -> None:
    bad = tmp_path / "x.json"
    bad.write_text("[1, 2]")
    with pytest.raises(ReportError, match=r"x\.json"):
        write_report([bad], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_device_differences_use_only_devices_both_arms_have() -> None:
    gaps = device_differences(details(), "stage3", "stage1", "nll")
    assert gaps == pytest.approx({"d00000": -0.8, "d00001": -0.8})
    assert device_differences(details(), "stage3", "absent", "nll") == {}


def test_tables_state_users_intervals_and_verdicts() -> None:
    results = Results.model_validate(example())
    table = run_table(results)
    assert table.header == ("arm", "users", "queries", "accuracy")
    assert table.rows[0] == ("stage1", "2", "4", "0.500 [0.250, 0.750]")
    contrast = contrast_table(results).rows[0]
    assert contrast[0] == "stage3 − stage1"
    assert contrast[-1] == "better"


def test_brief_differences_keep_one_level_and_no_parse_failures() -> None:
    content = example()
    row = content["contrasts"][0]
    content["contrasts"] = [
        {**row, "level": "query"},
        row,
        {**row, "metric": "parse_failure_rate"},
        {**row, "metric": "f1_macro", "level": "query"},
    ]
    results = Results.model_validate(content)
    assert len(contrast_table(results).rows) == 4
    brief = contrast_table(results, brief=True).rows
    assert [r[1:3] for r in brief] == [("accuracy", "user"), ("f1_macro", "query")]


def test_comparison_averages_seeds_and_keeps_arm_order() -> None:
    first = example()
    second = json.loads(json.dumps(first))
    second["seed"] = 1
    second["arms"]["stage3"]["metrics"]["accuracy"]["mean"] = 0.75
    other = {**json.loads(json.dumps(first)), "preset": "device"}
    table = comparison_table([Results.model_validate(r) for r in (first, second, other)])
    assert table.header == ("task", "metric", "preset", "seeds", "stage1", "stage3")
    by_preset = {row[2]: row for row in table.rows}
    assert by_preset["default/tiny, mini"][3:] == ("2", "0.500", "0.625")
    assert by_preset["device/tiny, mini"][3:] == ("1", "0.500", "0.500")
    lines = to_markdown(table).splitlines()
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: |"
    assert len(lines) == 4
