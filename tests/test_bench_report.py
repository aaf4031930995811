"""The benchmarks' table and page show the numbers of their files, and refuse other files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_files import (
    COMMIT,
    NAIVE_BF16,
    contender,
    contenders,
    engine_file,
    memory_file,
    memory_peak,
    setting,
)
from test_report import check

from benchmarks.figures import draw, draw_growth, ratio_bars
from benchmarks.growth import HIDDEN, growth_table
from benchmarks.notes import memory_note, notes
from benchmarks.report import write_page
from benchmarks.schema import BenchReport
from benchmarks.schema_memory import MemoryPeak, MemoryReport
from benchmarks.show import cause_lines, setting_name, setting_table
from benchmarks.sizes import SIZES
from benchmarks.sources import Source, read_sources
from benchmarks.specs import Spec
from benchmarks.table import HEADER, target_table
from benchmarks.targets import BACKEND, target_rows
from proper_model.errors import ReportError
from proper_model.kernels.ops import Backend


def saved(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def sources(folder: Path, *documents: dict[str, Any]) -> list[Source]:
    paths = [saved(folder, f"{n}.json", document) for n, document in enumerate(documents)]
    return read_sources(paths, lambda _: None)


def reports(folder: Path, *documents: dict[str, Any]) -> list[Any]:
    return [source.report for source in sources(folder, *documents)]


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )


def test_rows_hold_the_stored_ratios(tmp_path: Path) -> None:
    table = target_table(target_rows(sources(tmp_path, engine_file())))
    assert table.header == HEADER
    assert table.rows == (
        (
            "hidden 256, 96 tokens",
            *("41.0", "3.25 (1.62–6.50)", "2.75", "2.50", "1.12", "81%", "1.8", "2.5"),
        ),
        (
            "hidden 256, 96 tokens, bf16 / fp32",
            *("1,234", "6.50 (3.25–13.00)", "5.25", "4.75", "2.25", "50%", "4.5", "8"),
        ),
    )


def test_notes_name_contenders_machine_and_code(tmp_path: Path) -> None:
    found = sources(tmp_path, engine_file(dropout=0.05), memory_file())
    said = notes(target_rows(found), [source.report for source in found])
    assert said == [
        "hidden 256, 96 tokens: engine ours-moe; naive loop at its best naive-moe:batch=4; "
        "PEFT loop at its best peft-loop:batch=8; without experts vmap makes 37.0 samples/s and the "
        "engine 55.0, with them the engine has 1.44 × vmap's rate; 2 samples a user, dropout 0.05, "
        "the loops train 4 of 32 users, threads: 1, rounds: 3.",
        "hidden 256, 96 tokens, bf16 / fp32: engine ours-moe:dtype=bfloat16; naive loop at its "
        "best naive-moe:batch=4; PEFT loop at its best peft-loop:batch=8; 3.88 × "
        "naive-moe:dtype=bfloat16; 2 samples a user, dropout 0.05, the loops train 4 of 32 users, "
        "threads: 1, rounds: 3.",
        "Memory model, 2 settings with samples of 96 tokens: largest deviation of a predicted from "
        "a measured peak -20.0% (small, 64 users, samples of 96 tokens, 1,024 tokens a pass, "
        "activations recomputed).",
        "Measured on Abacus <mark 2>, 3 cores, 1.5 GiB; Sys 1, Python 3.11, torch 2.9; "
        "code 0123456789ab.",
    ]


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, ["hidden 256, 96 tokens", "hidden 256, 96 tokens, bf16 / fp32"]),
        ({"size": "overhead", "tokens": 32}, ["hidden 64, 32 tokens"]),
        ({"lengths": "real", "tokens": 7}, ["hidden 256, real lengths"]),
        ({"lengths": "lognormal"}, ["hidden 256, log-normal lengths"]),
        ({"users": 8}, []),
        ({"tokens": 32}, []),
        ({"size": "mini"}, []),
    ],
)
def test_only_settings_of_the_targets_have_rows(changed, names, tmp_path: Path) -> None:
    found = sources(tmp_path, engine_file(setting(**changed)))
    assert [row.name for row in target_rows(found)] == names


def test_other_devices_have_no_cpu_targets(tmp_path: Path) -> None:
    assert target_rows(sources(tmp_path, engine_file(device="cuda"))) == []


def test_who_did_not_run_is_a_dash(tmp_path: Path) -> None:
    alone = [contender("ours-moe", 41.0, {}), contender("vmap", 7.0)]
    rows = target_rows(sources(tmp_path, engine_file(setting(contenders=alone))))
    (cells,) = target_table(rows).rows
    assert cells[1:] == ("41.0", "–", "–", "–", "–", "–", "1.8", "2.5")
    # A rival that ran but has no stored ratio is not divided by either.
    with_rival = [*alone, contender("naive-moe", 10.0)]
    rows = target_rows(sources(tmp_path, engine_file(setting(contenders=with_rival))))
    assert target_table(rows).rows[0][2] == "–"


def test_a_failed_engine_says_so(tmp_path: Path) -> None:
    failed = [contender("ours-moe", None), contender("naive-moe", 10.0)]
    rows = target_rows(sources(tmp_path, engine_file(setting(contenders=failed))))
    assert target_table(rows).rows[0][1:7] == ("failed", "–", "–", "–", "–", "–")


def test_without_the_engine_there_is_no_row(tmp_path: Path) -> None:
    others = [contender("naive-moe", 10.0)]
    assert target_rows(sources(tmp_path, engine_file(setting(contenders=others)))) == []


def test_the_row_is_of_the_backend_that_a_cpu_uses(tmp_path: Path) -> None:
    assert BACKEND == Spec.backend == Backend.best_on(torch.device("cpu")).value
    quicker = contender("ours-moe", 99.0, {"naive-moe": 8.0}, backend="grouped")
    found = sources(tmp_path, engine_file(setting(contenders=[*contenders(), quicker])))
    assert target_table(target_rows(found)).rows[0][1] == "41.0"
    alone = sources(tmp_path, engine_file(setting(contenders=[quicker])))
    assert target_rows(alone) == []


def test_rows_of_one_target_tell_where_they_are_from(tmp_path: Path) -> None:
    found = sources(tmp_path, engine_file(), engine_file(setting(samples=7)))
    assert [row.name for row in target_rows(found)][:2] == [
        "hidden 256, 96 tokens (0.json, 2 samples a user)",
        "hidden 256, 96 tokens (1.json, 7 samples a user)",
    ]


def test_growth_is_the_stored_ratio_by_users(tmp_path: Path) -> None:
    def grown(size: str, users: int, ratio: float) -> dict[str, Any]:
        raced = [contender("naive-moe", 9.0), contender("ours-moe", 9.0, {"naive-moe": ratio})]
        return setting(size=size, users=users, samples=1, contenders=raced)

    small = engine_file(*(grown("small", users, users / 4) for users in (1, 8, 64)))
    tiny = engine_file(grown("overhead", 1, 0.5), grown("overhead", 2, 3.0))
    alone = engine_file(grown("mini", 4, 9.0))  # as wide as small, and no growth
    table = growth_table(sources(tmp_path, tiny, alone, memory_file(), small))
    assert table is not None
    assert table.header == (
        "users together",
        "hidden 64 (overhead), 96 tokens, 1 a user",
        "hidden 256 (small), 96 tokens, 1 a user",
    )
    assert table.rows == (
        ("1", "0.50 (0.25–1.00)", "0.25 (0.12–0.50)"),
        ("2", "3.00 (1.50–6.00)", "–"),
        ("8", "–", "2.00 (1.00–4.00)"),
        ("64", "–", "16.00 (8.00–32.00)"),
    )
    assert growth_table(sources(tmp_path, alone, memory_file())) is None
    assert {size: shape.hidden for size, shape in SIZES.items()} == HIDDEN


def test_a_deviation_by_hand() -> None:
    peak = MemoryPeak.model_validate(memory_peak(30, 40))
    assert peak.deviation == -0.25
    assert MemoryPeak.model_validate(memory_peak(30, 0)).deviation is None
    nothing = {**memory_file(), "peaks": [memory_peak(30, 0)]}
    assert memory_note([MemoryReport.model_validate(nothing)]) is None
    long = {**memory_file(), "sample_tokens": 512, "peaks": [memory_peak(30, 40)]}
    said = memory_note([MemoryReport.model_validate(each) for each in (memory_file(), long)]) or ""
    assert said.startswith("Memory model, 3 settings with samples of 96 or 512 tokens: ")
    assert "-25.0% (small, 8 users, samples of 512 tokens, " in said


def test_a_settings_table_has_all_contenders(tmp_path: Path) -> None:
    (report,) = reports(tmp_path, engine_file())
    table = setting_table(report.settings[0])
    rows = {row[0]: row[1:] for row in table.rows}
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert rows["vmap:batch=2"][0] == "failed (RuntimeError)"
    assert cause_lines(report.settings[0]) == ["vmap:batch=2: failed, RuntimeError: no memory"]
    assert rows["ours-moe"][0] == "41 (20.5–82)"
    # The naive loop at its best of all dtypes is the one in bfloat16, which only bfloat16 met.
    assert rows["ours-moe"][-2:] == ("", "1.12 (0.56–2.25), 101.12")
    assert rows["ours-moe:dtype=bfloat16"][-2:] == (
        "3.88 (1.94–7.75), 103.88",
        "2.25 (1.12–4.50), 102.25",
    )
    assert rows[NAIVE_BF16][-2] == "1"


def test_real_lengths_are_not_named_by_an_unused_number(tmp_path: Path) -> None:
    (report,) = reports(tmp_path, engine_file(setting(lengths="real")))
    assert setting_name(report.settings[0]) == "small, 32 users, at most 2 samples of real lengths"


def test_bars_are_the_stored_ratios(tmp_path: Path) -> None:
    (report,) = reports(tmp_path, engine_file())
    bars = ratio_bars(report.settings[0])
    assert [(b.result.label, b.times.median) for b in bars] == [
        (NAIVE_BF16, 1.0),
        ("ours-moe:dtype=bfloat16", 3.875),
    ]


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Two files: 8 and 32 users with the engine, and memory."""
    engine = saved(tmp_path, "e.json", engine_file(setting(users=8), setting()))
    memory = saved(tmp_path, "m.json", memory_file())
    write_page([engine, memory], tmp_path / "new" / "report.html")
    return (tmp_path / "new" / "report.html").read_text()


def test_the_page_stands_alone(page: str) -> None:
    checker = check(page)
    assert checker.outside == []
    assert len(checker.ids) == len(set(checker.ids))
    assert "url(http" not in page
    assert "@import" not in page
    assert "<script" not in page
    # Ratios of both settings, growth, memory; each said in words.
    assert checker.figures == 4
    assert all(checker.described)


def test_the_page_shows_what_is_stored(page: str) -> None:
    for shown in (
        "3.25 (1.62–6.50)",  # the targets
        "1,234 (617–2.47e+03)",  # a setting's table
        "failed (RuntimeError)",
        "vmap:batch=2: failed, RuntimeError: no memory",
        "ours-moe:dtype=bfloat16: 3.88 times, from 1.94 to 7.75",  # a figure in words
        "ours-moe: 41 with 8 users, 41 with 32 users",
        "+10.0%",
        "-20.0%",
        "1 of 2 measured settings lie within ±15%",
        "small, 64 users, 1,024 tokens a pass: -20.0%",
        "Abacus &lt;mark 2&gt;, 3 cores, 1.5 GiB",  # and where from
        COMMIT,
        "torch 2.9, peft 0.19",
        "<dt>seed</dt><dd>17</dd>",
        "3 after 1 to warm up",
    ):
        assert shown in page, shown


def test_memory_alone_makes_a_page_and_figures(tmp_path: Path) -> None:
    path = saved(tmp_path, "m.json", memory_file())
    write_page([path], tmp_path / "report.html")
    assert check((tmp_path / "report.html").read_text()).figures == 1
    assert [p.name for p in draw(path, tmp_path)] == ["memory.svg", "memory.png"]
    nothing = {**memory_file(), "peaks": [memory_peak(10, 0)]}
    write_page([saved(tmp_path, "n.json", nothing)], tmp_path / "report.html")
    assert check((tmp_path / "report.html").read_text()).figures == 0
    with pytest.raises(ReportError, match="n.json: nothing to draw"):
        draw(tmp_path / "n.json", tmp_path / "figures")


def test_the_same_files_give_the_same_page(page: str, tmp_path: Path) -> None:
    write_page([tmp_path / "e.json", tmp_path / "m.json"], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def with_nan() -> dict[str, Any]:
    document = copy.deepcopy(engine_file())
    document["settings"][0]["contenders"][0]["measured"]["fill"] = float("nan")
    return document


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "no text in 'benchmark'"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": 1, "task": "x"}', "no text in 'benchmark'"),
        ('{"benchmark": 3}', "no text in 'benchmark'"),
        ('{"benchmark": "pipeline"}', "can be shown"),
        ('{"benchmark": "engine"}', "schema 1: hardware"),
        ('{"benchmark": "memory", "peaks": []}', "schema 1"),
        (json.dumps(with_nan()), "fill"),
    ],
)
def test_foreign_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=said) as caught:
        read_sources([path], lambda _: None)
    assert "python -m benchmarks." in (caught.value.hint or "")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for name in ("b.json", "nothing.json"):
        with pytest.raises(ReportError, match=name) as caught:
            read_sources([tmp_path / name], lambda _: None)
        assert caught.value.hint


def test_other_benchmarks_are_left_out_by_name(tmp_path: Path) -> None:
    said: list[str] = []
    paths = [
        saved(tmp_path, "p.json", {"benchmark": "pipeline"}),
        saved(tmp_path, "e.json", engine_file()),
    ]
    (source,) = read_sources(paths, said.append)
    assert isinstance(source.report, BenchReport)
    (line,) = said
    assert "p.json: left out, a benchmark of kind 'pipeline'" in line
    assert "benchmarks.engine, python -m benchmarks.memory" in line


def test_the_commands_from_outside(tmp_path: Path) -> None:
    engine = saved(tmp_path, "e.json", engine_file())
    done = run("table", engine, "--markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert "| hidden 256, 96 tokens | 41.0 | 3.25 (1.62–6.50) | 2.75 | 2.50 | 1.12 |" in done.stdout
    assert "\n\n* hidden 256, 96 tokens: engine ours-moe;" in done.stdout
    foreign = saved(tmp_path, "f.json", {"task": "x"})
    out = tmp_path / "report.html"
    for module, arguments in (("table", ()), ("report", ("--out", out))):
        done = run(module, engine, foreign, *arguments)
        assert (done.returncode, done.stdout) == (ReportError.exit_code, "")
        assert "proper: error:" in done.stderr
        assert "f.json: not a benchmark" in done.stderr
        assert "proper: hint: supported are: python -m benchmarks.engine" in done.stderr
    assert not out.exists()
    few = saved(tmp_path, "few.json", engine_file(setting(users=8)))
    done = run("table", few)
    assert (done.returncode, done.stdout) == (ReportError.exit_code, "")
    assert "none of the settings has a row" in done.stderr


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
    source = repository / "results/bench/growth/overhead.json"
    (drawn,) = draw_growth(source, tmp_path / "growth.svg")
    assert drawn.read_bytes() == (repository / "docs/growth.svg").read_bytes()


def test_a_growth_curve_needs_several_numbers_of_users(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="several --users"):
        draw_growth(repository / "results/bench/overhead.json", tmp_path / "growth.svg")
    with pytest.raises(ReportError, match="found 0"):
        draw_growth(repository / "results/bench/memory.json", tmp_path / "growth.svg")
    assert not list(tmp_path.iterdir())
