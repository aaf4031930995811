"""The benchmarks' tables, page and curve show the numbers of their files, and refuse other files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_files import (
    COMMIT,
    contender,
    device_file,
    engine_file,
    memory_file,
    memory_peak,
    pipeline_file,
    setting,
)
from test_report import check

from benchmarks import report, table
from benchmarks.command import run_command
from benchmarks.contenders.specs import Spec
from benchmarks.report import draw_growth, write_page
from benchmarks.results import machine_notes, read_report, read_sources, shown, write_report
from benchmarks.results.schema import MemoryReport, Setting, Source
from benchmarks.results.tables import (
    BACKEND,
    growth_table,
    memory_table,
    setting_name,
    setting_notes,
    setting_table,
)
from proper_model.errors import ReportError
from proper_model.kernels.ops import Backend

COMMITTED = sorted((Path(__file__).parent.parent / "results" / "bench").rglob("*.json"))
MADE = {
    "engine": engine_file,
    "memory": memory_file,
    "device": device_file,
    "pipeline": pipeline_file,
}


def saved(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def sources(folder: Path, *documents: dict[str, Any]) -> list[Source]:
    return read_sources(saved(folder, f"{n}.json", each) for n, each in enumerate(documents))


def made(**changed: Any) -> Setting:
    return Setting.model_validate_json(json.dumps(setting(**changed)))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_file_can_be_shown(path: Path) -> None:
    found = read_sources([path])
    assert all(one.rows for one, _ in shown(found))
    assert len(machine_notes(found)) == 1


def test_a_settings_table_by_hand() -> None:
    """64 samples: rates by wall seconds. Ratios round by round: 8, 2, 1 are 2 in the middle, where
    a quotient of the medians would be 4. Each against the engine of as many samples in a step.
    """
    found = setting_table(made())
    assert found.title == "hidden 256 (small), 32 users, 2 samples of 96 tokens (fixed)"
    assert found.header == (
        *("contender", "users", "samples/s"),
        *("× ours at equal steps", "peak, MiB"),
    )
    rows = {row[0]: row[1:] for row in found.rows}
    assert [row[0] for row in found.rows] == [
        *("ours-moe:batch=4", "limit", "ours-moe:dtype=bfloat16", "ours-moe"),
        *("stacked-loop:batch=4,compile=true", "stacked-loop:compile=true", "vmap-moe"),
    ]
    assert rows["stacked-loop:compile=true"] == ("4", "4.0", "2.00 (1.00–8.00)", "50")
    # 4, 4 and 1 seconds beside an eighth.
    assert rows["stacked-loop:batch=4,compile=true"][2] == "32.00 (8.00–32.00)"
    assert rows["limit"][:3] == ("32", "64.0", "0.25 (0.12–0.50)")
    assert rows["ours-moe"] == ("32", "16.0", "1.00 (1.00–1.00)", "100")
    assert rows["ours-moe:dtype=bfloat16"][2] == "1.00 (1.00–1.00)"
    assert rows["vmap-moe"] == ("–", "failed (RuntimeError)", "–", "–")
    assert rows["ours-moe:batch=4"][1] == "256"


def test_nobody_is_compared_with_an_engine_of_other_steps_or_dtype() -> None:
    alone = [contender("ours-moe", [1.0]), contender("stacked-loop", [9.0], batch=4, compile=True)]
    alone.append(contender("stacked-loop", [9.0], compile=True, dtype="bfloat16"))
    rows = {row[0]: row[3] for row in setting_table(made(contenders=alone)).rows}
    assert [rows[c["label"]] for c in alone] == ["1.00 (1.00–1.00)", "–", "–"]
    assert setting_notes(made(contenders=alone)) == []


def test_notes_name_causes_and_the_headline() -> None:
    assert setting_notes(made()) == [
        "vmap-moe: failed, RuntimeError: no memory",
        "ours-moe against stacked-loop:compile=true: 2.00 (1.00–8.00) times the rate at equal "
        "steps; must reach 1.6",
        "ours-moe against stacked-loop:batch=4,compile=true: 32.00 (8.00–32.00) times the rate at "
        "equal steps; must reach 1.6",
    ]


LOOP = contender("stacked-loop", [1.0], compile=True)


@pytest.mark.parametrize(
    ("changed", "targets"),
    [
        ({"size": "overhead", "tokens": 32}, 2 * ["must reach 2.5"]),
        ({"lengths": "real", "tokens": 7}, 2 * ["must reach 1.6"]),
        ({"users": 8}, []),
        ({"tokens": 32}, []),
        ({"size": "mini"}, []),
        ({"contenders": [contender("ours-moe", [1.0])]}, []),
        ({"contenders": [LOOP, contender("ours-moe", None)]}, []),
        ({"contenders": [contender("stacked-loop", [1.0]), contender("ours-moe", [1.0])]}, []),
    ],
)
def test_only_settings_of_the_targets_have_them(changed, targets) -> None:
    said = [line for line in setting_notes(made(**changed)) if "must reach" in line]
    assert [line.partition("; ")[2] for line in said] == targets


def test_the_engines_form_is_the_one_that_a_cpu_uses() -> None:
    assert BACKEND == Spec.backend == Backend.best_on(torch.device("cpu")).value
    quicker = contender("ours-moe", [0.1], backend="grouped")
    alone = setting_table(made(contenders=[quicker]))
    assert [row[3] for row in alone.rows] == ["–"]


def test_real_lengths_are_not_named_by_an_unused_number() -> None:
    said = setting_name(made(lengths="real", size="mini"))
    assert said == "mini, 32 users, at most 2 samples of real lengths"


def grown(size: str, users: int, ratio: float) -> dict[str, Any]:
    raced = [contender("stacked-loop", [ratio], compile=True), contender("ours-moe", [1.0])]
    return setting(size=size, users=users, samples=1, contenders=raced)


def test_growth_is_the_ratio_by_users(tmp_path: Path) -> None:
    small = engine_file(*(grown("small", users, users / 4) for users in (1, 64, 8)))
    tiny = engine_file(grown("overhead", 1, 0.5), grown("overhead", 2, 3.0))
    alone = engine_file(grown("7b", 4, 9.0))
    one, two = shown(sources(tmp_path, tiny, alone, small))
    assert one[0].title.startswith("hidden 4096 (7b), 4 users")
    assert two[0].header == (
        "users together",
        "hidden 64 (overhead), 96 tokens, 1 a user: stacked-loop:compile=true",
        "hidden 256 (small), 96 tokens, 1 a user: stacked-loop:compile=true",
    )
    assert two[1] == ["one user alone must reach 1.0 against stacked-loop:compile=true"]
    assert two[0].rows == (
        ("1", "0.50 (0.50–0.50)", "0.25 (0.25–0.25)"),
        ("2", "3.00 (3.00–3.00)", "–"),
        ("8", "–", "2.00 (2.00–2.00)"),
        ("64", "–", "16.00 (16.00–16.00)"),
    )
    assert growth_table([[made(contenders=[contender("ours-moe", [1.0])])]]) is None


def test_memory_by_hand() -> None:
    long = memory_file(memory_peak(30 * 2**20, 40 * 2**20), sample_tokens=512)
    reports = [MemoryReport.model_validate(each) for each in (memory_file(), long)]
    assert [peak.deviation for peak in reports[1].peaks] == [-0.25]
    found = memory_table(reports)
    assert found.header[-4:] == ("activations", "2 users", "8 users", "64 users")
    assert found.rows == (
        ("small", "float32", "96", "1,024", "kept", "0 (–)", "100 (+10.0%)", "–"),
        ("small", "float32", "96", "1,024", "recomputed", "–", "–", "200 (-20.0%)"),
        ("small", "float32", "512", "1,024", "kept", "–", "40 (-25.0%)", "–"),
    )


def test_the_devices_tables_by_hand(tmp_path: Path) -> None:
    (adapted, _, predicted) = shown(sources(tmp_path, device_file()))
    assert adapted[0].rows == (("full", "no", "61", "2"),)
    assert adapted[1] == ["threads: 1, rounds: 3"]
    assert predicted[0].rows == (("1B", "float32", "4bit", "1.00", "1.50", "0.50", "0.25"),)


def test_phases_are_medians_of_every_phase_of_any_checkout(tmp_path: Path) -> None:
    ((found, notes),) = shown(sources(tmp_path, pipeline_file()))
    assert found.header == ("phase", "old", "new")
    assert found.rows == (
        ("flower", "5.0", "–"),
        ("start", "–", "2.0"),
        ("more", "–", "0.5"),
        ("untimed", "7.0", "4.5"),
        ("whole run", "12.0", "7.0"),
        ("CPU seconds", "6.0", "3.5"),
    )
    assert notes == [
        "proper-sim run films --users 8; rounds: 3; old is 111111111111, its means at most 0.0% "
        "from the first's, new is 222222222222, its means at most 25.0% from the first's"
    ]


def test_machines_are_named_once_with_all_code(tmp_path: Path) -> None:
    found = sources(tmp_path, engine_file(), memory_file(), pipeline_file())
    assert machine_notes(found) == [
        "Measured on Abacus <mark 2>, 3 cores, 1.5 GiB; Sys 1, Python 3.11, torch 2.9; "
        "code 0123456789ab, 111111111111, 222222222222."
    ]


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Every kind of benchmark, and one with a growth curve."""
    kinds = {**MADE, "growth": lambda: engine_file(setting(users=8), setting())}
    paths = [saved(tmp_path, f"{name}.json", make()) for name, make in kinds.items()]
    write_page(paths, tmp_path / "new" / "report.html")
    write_page(paths, tmp_path / "again.html")
    text = (tmp_path / "new" / "report.html").read_text()
    assert (tmp_path / "again.html").read_text() == text
    return text


def test_the_page_stands_alone_and_shows_what_is_stored(page: str) -> None:
    checker = check(page)
    assert checker.outside == []
    assert len(checker.ids) == len(set(checker.ids))
    assert not [word for word in ("url(http", "@import", "<script") if word in page]
    assert (checker.figures, all(checker.described)) == (1, True)
    for what in (
        "32.00 (8.00–32.00)",  # a setting's table
        "failed (RuntimeError)",
        "ours-moe: 16 with 8 users, 16 with 32 users",  # the figure in words
        "100 (+10.0%)",  # memory
        "<caption>proper adapt, 100 items of news, preset device</caption>",
        "<caption>Seconds by phase</caption>",
        "Abacus &lt;mark 2&gt;, 3 cores, 1.5 GiB",  # and where from
        COMMIT[:12],
        "torch 2.9, peft 0.19",
        "<dt>seed</dt><dd>17</dd>",
        "3 after 1 to warm up, contenders in turn",
    ):
        assert what in page, what


def planted(*place: str | int, value: object = None) -> str:
    """An engine's file with one field changed."""
    document = copy.deepcopy(engine_file())
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(document)


FIRST = ("settings", 0, "contenders", 0)
MEASURED = (*FIRST, "measured")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "none of those with tables"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1, "task": "x"}', "none of those with tables"),
        ('{"benchmark": 3}', "none of those with tables"),
        ('{"benchmark": "other"}', "none of those with tables"),
        ('{"benchmark": "first_minutes"}', "none of those with tables"),
        ('{"benchmark": "engine",\n "rounds": ', "cut short.*line 2"),
        ('{"benchmark": "engine"}', "hardware"),
        ('{"benchmark": "memory", "peaks": []}', "not what benchmarks.memory writes"),
        (json.dumps(device_file() | {"items": 0}), "items"),
        (planted("schema", value=3), "schema: "),
        (planted("schema", value=True), "schema: "),
        (planted("extra", value=1), "extra"),
        (planted("device", value="cuda"), "device"),
        (planted("interleaved", value=False), "interleaved"),
        (planted("rounds", value="1"), "rounds"),
        (planted("rounds", value=0), "rounds"),
        (planted("settings", value=[]), "settings"),
        (planted("settings", 0, "users", value=2.5), "users"),
        (planted(*FIRST, "status", value="failed"), "only a measured contender"),
        (planted("settings", 0, "contenders", 6, "cause"), "has a cause"),
        (planted(*MEASURED, "tokens", value=0), "tokens"),
        (planted(*MEASURED, "tokens"), "tokens"),
        (planted(*MEASURED, "rounds", 0, "cpu_s", value=0.0), "cpu_s"),
        (planted(*MEASURED, "rounds", 0, "cpu_s", value=float("nan")), "cpu_s"),
        (planted(*MEASURED, "rounds", value=[]), "rounds"),
        (planted(*FIRST, value=contender("stacked-loop", [1.0])), "different numbers of rounds"),
    ],
)
def test_foreign_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "foreign.json").write_text(text)
    with pytest.raises(ReportError, match=rf"foreign\.json.*{said}") as caught:
        read_report(tmp_path / "foreign.json")
    assert "python -m benchmarks." in (caught.value.hint or "")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name in ("b.json", "nothing.json"):
        with pytest.raises(ReportError, match=name) as caught:
            read_report(tmp_path / name)
        assert caught.value.hint


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_reports_survive_the_file(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    (source,) = sources(tmp_path, make())
    write_report(source.report, tmp_path / "new" / "bench.json")
    assert read_report(tmp_path / "new" / "bench.json") == source.report


def test_the_commands(tmp_path: Path, capsys) -> None:
    engine = str(saved(tmp_path, "e.json", engine_file()))
    assert run_command(table.app, [engine, "--markdown"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("**hidden 256 (small), 32 users, 2 samples of 96 tokens (fixed)**\n\n|")
    assert "\n| stacked-loop:compile=true | 4 | 4.0 | 2.00 (1.00–8.00) | 50 |" in said
    assert "\n\n* ratios by CPU seconds, rounds: 3, dropout 0\n* vmap-moe: failed" in said
    assert said.endswith("torch 2.9; code 0123456789ab.\n")
    foreign = str(saved(tmp_path, "f.json", {"task": "x"}))
    out = tmp_path / "report.html"
    for command, words in ((table, []), (report, ["--out", str(out)])):
        assert run_command(command.app, [engine, foreign, *words]) == ReportError.exit_code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "f.json: its 'benchmark' is none of those" in captured.err
        assert (
            "proper: hint: expected what one of these wrote: python -m benchmarks.engine"
            in captured.err
        )
    assert not out.exists()


def test_pages_and_tables_need_no_torch() -> None:
    code = "import sys, benchmarks.report, benchmarks.table; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert done.stdout.strip() == "False"


def test_the_committed_growth_curve_is_drawn_from_the_committed_file(
    repository: Path, tmp_path: Path
) -> None:
    drawn = tmp_path / "growth.svg"
    words = [str(repository / "results/bench/growth/overhead.json"), "--out", str(drawn)]
    assert run_command(report.app, words) == 0
    assert drawn.read_bytes() == (repository / "docs/growth.svg").read_bytes()


def test_a_growth_curve_needs_several_numbers_of_users(repository: Path, tmp_path: Path) -> None:
    for name in ("overhead", "memory"):
        with pytest.raises(ReportError, match="found 0") as caught:
            draw_growth(repository / f"results/bench/{name}.json", tmp_path / "growth.svg")
        assert "several --users" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())
