"""All attacks on one scale, against the files they come from, and the page of all."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulations.cli import run_cli
from simulations.privacy.results.all_attacks import first_sentence, strongest
from simulations.privacy.results.kinds import KINDS, read_result
from simulations.privacy.results.summary import (
    Advantage,
    Line,
    lines_of,
    summary_table,
    with_before,
)


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    return sorted((repository / "results/privacy").glob("*.json"))


def lines(path: Path) -> dict[tuple[str, str], Line]:
    return {(line.asked, line.thing): line for line in lines_of(read_result(path)[0])}


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def named(files: list[Path], name: str) -> Path:
    return next(path for path in files if path.stem == name)


def test_an_auc_of_a_half_is_nothing_and_the_strongest_attack_counts(files: list[Path]) -> None:
    path = named(files, "membership")
    best: dict[tuple[str, str], float] = {}
    for row in document(path)["attacks"]:
        if row["control"] == "none" and row["thing"] != "merged":
            key = row["level"], row["thing"]
            best[key] = max(best.get(key, 0.0), row["pooled"]["auc"])
    found = lines(path)
    assert found.keys() == best.keys()
    for key, line in found.items():
        assert line.advantage is not None and line.without is None
        assert line.advantage.value == pytest.approx(2 * best[key] - 1)
        assert line.advantage.low <= line.advantage.value <= line.advantage.high


def test_what_no_profile_asks_for_stands_as_what_it_would_tell(files: list[Path]) -> None:
    found = lines(named(files, "membership-prior"))
    assert {thing for _, thing in found} == {"common-start", "inferred"}
    for (_, thing), line in found.items():
        told = line.without if thing == "common-start" else line.advantage
        assert told is not None and told.low > 0
        row = summary_table([line]).rows[0]
        assert (row[5] == "not released") is (thing == "common-start")


def test_a_seed_kept_over_releases_stands_beside_one_of_each(files: list[Path]) -> None:
    path = named(files, "linkage")
    found = lines(path)
    assert not any("seed kept" in thing for scope, thing in found if scope != "same-release")
    rows = {
        (row["scope"], row["thing"], row["attack"]): row
        for row in document(path)["attacks"]
        if row["control"] == "none"
    }
    line = found["other-seed", "adapter-factors"]
    own = rows["other-seed", "adapter-factors", line.attack]
    kept = rows["other-seed", "adapter-factors, seed kept", "cosine"]
    assert line.advantage is not None and line.without is not None
    for advantage, row in ((line.advantage, own), (line.without, kept)):
        guessing = row["chance"]
        expected = (row["pooled"]["value"] - guessing) / (1 - guessing)
        assert advantage.value == pytest.approx(expected)
    assert line.without.value > line.advantage.high


def test_bits_count_from_guessing_to_the_most_there_is(files: list[Path]) -> None:
    path = named(files, "canaries")
    told = document(path)
    row = next(
        row
        for row in told["canaries"]
        if (row["thing"], row["insertions"], row["control"]) == ("adapter", 1, "none")
    )
    bits = row["pooled"]["against_public"]["value"]
    line = lines(path)["a secret (random) that stood there 1 time", "adapter"]
    assert line.advantage is not None
    expected = (bits - told["guessing"]) / (told["most"] - told["guessing"])
    assert line.advantage.value == pytest.approx(expected)
    full = lines(path)["own items", "full-history"]
    assert full.advantage is not None and full.advantage.value == 1


def test_privacy_is_compared_with_training_without_it(files: list[Path]) -> None:
    found = lines(named(files, "epsilon"))
    plain = found["person", "release, unclipped"]
    assert plain.without is None and plain.advantage is not None
    for key, line in found.items():
        if line is not plain:
            assert line.without == plain.advantage, key
            assert line.advantage is not None and line.advantage.high < plain.advantage.low


def test_a_line_of_before_stands_beside_its_own_and_no_other() -> None:
    low, high = Advantage(0.1, 0.0, 0.2), Advantage(0.8, 0.7, 0.9)
    line = Line("membership", "person", "embeddings", "density", low, "Said.")
    older = Line("membership", "person", "embeddings", "tracing", high, "Said before.")
    other = Line("membership", "fresh", "embeddings", "density", high, "Other.")
    (found,) = with_before([line], [other, older])
    assert found.without == high and found.advantage == low and found.sentence == "Said."
    assert with_before([line], [other]) == [line]
    assert with_before([older, line], [older]) == [found], "the older one is not told twice"
    assert with_before([older], [older]) == [older], "unless nothing newer is there"
    elsewhere = replace(line, task="another set of people")
    assert with_before([elsewhere], [older]) == [elsewhere]
    refused = Line("backdoor", "a secret", "start-bold", "exposure", None, "Refused.", high)
    rows = summary_table([found, refused]).rows
    assert rows[0][5:7] == ("0.10 [0.00, 0.20]", "0.80 [0.70, 0.90]")
    assert rows[1][5:7] == ("refused", "0.80 [0.70, 0.90]")


def test_the_page_opens_with_how_many_answers_are_clear_of_guessing() -> None:
    def line(thing: str, *found: float) -> Line:
        advantage = Advantage(*found) if found else None
        return Line("linkage", "person", thing, "cosine", advantage, "Said.")

    lines = [
        line("a", 0.9, 0.8, 1.0),
        line("b", 0.3, 0.1, 0.5),
        line("c", 0.1, 0.0, 0.2),
        line("d", -0.2, -0.3, -0.1),
        line("e"),
    ]
    assert first_sentence(lines) == (
        "Of 4 answers that attacks gave, 2 are clear of guessing, 1 of them more than half the way to "
        "certainty, and 2 cannot be told from guessing; 1 more are of things that devices refuse or nobody releases."
    )
    assert first_sentence(lines[:4]).endswith("cannot be told from guessing.")
    assert [one.thing for one in strongest(lines)] == ["a"]


def test_one_page_holds_every_attack_and_no_id_twice(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    assert run_cli(["privacy", "report", *map(str, files), "--out", str(page), "--markdown"]) == 0
    text, table = page.read_text(), capsys.readouterr().out
    kinds = {document(path)["experiment"] for path in files}
    assert kinds <= KINDS.keys()
    for kind in kinds:
        assert re.search(rf'<h2 id="file\d+">{kind}', text) and f"| {kind} |" in table
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert used and used <= set(ids)
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", text) and "<script" not in text


def test_the_committed_page_is_of_the_committed_files(
    files: list[Path], repository: Path, tmp_path: Path
) -> None:
    """As `make privacy-report` makes it."""
    page, before = tmp_path / "page.html", str(named(files, "membership"))
    words = [*map(str, files), "--before", before, "--out", str(page)]
    assert run_cli(["privacy", "report", *words]) == 0
    assert page.read_text() == (repository / "results/privacy/report.html").read_text()


def test_a_file_that_is_no_result_leaves_no_page(tmp_path: Path, files: list[Path]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"experiment": ["linkage"]}')
    page = tmp_path / "page.html"
    for other in (broken, tmp_path / "missing.json"):
        assert run_cli(["privacy", "report", str(files[0]), str(other), "--out", str(page)]) == 19
        assert run_cli(["privacy", "report", str(files[0]), "--before", str(other)]) == 19
    assert not page.exists()


def test_a_page_that_cannot_be_and_a_file_of_other_attacks_are_refused(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = str(named(files, "epsilon")), str(named(files, "canaries"))
    for page in (tmp_path, tmp_path / "page.txt"):
        assert run_cli(["privacy", "report", path, "--out", str(page)]) not in (0, 1)
    assert run_cli(["privacy", "report", path, "--before", other]) not in (0, 1)
    assert capsys.readouterr().out == ""
    assert run_cli(["privacy", "report", path, path, "--markdown"]) == 0
    assert capsys.readouterr().out.count("| release, unclipped |") == 1
