"""One setting as a table: on the terminal, and in the page that `benchmarks.report` writes."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from benchmarks.causes import name_of
from benchmarks.schema import ContenderResult, Ratio, Setting, Spread
from client.terminal.tables import Table, to_rich

SHOWN = ("naive-moe", "peft-loop")


def print_setting(setting: Setting, console: Console) -> None:
    """The table of a setting and the peaks that its shares refer to."""
    console.print(to_rich(setting_table(setting)))
    for line in (*peak_lines(setting), *cause_lines(setting)):
        console.print(line, markup=False)


def setting_table(setting: Setting) -> Table:
    """A row a contender; ratios are of CPU seconds with their range, then of wall time."""
    names = ("contender", "samples/s", "samples/CPU-s", "of peak", "fill", "peak MB")
    header = (*names, *(f"× {kind} (CPU, wall)" for kind in SHOWN))
    rows = [(result.label, *_cells(result, setting)) for result in setting.contenders]
    width = len(header)
    return Table(
        setting_name(setting), header, tuple(row + ("",) * (width - len(row)) for row in rows)
    )


def setting_name(setting: Setting) -> str:
    """What was trained, in words; lengths of real users are not the setting's to choose."""
    who = f"{setting.size}, {setting.users} users"
    if setting.lengths == "real":
        return f"{who}, at most {setting.samples} samples of real lengths"
    return f"{who}, {setting.samples} samples of {setting.tokens} tokens ({setting.lengths})"


def peak_lines(setting: Setting) -> list[str]:
    """The measured rates of matrix products, one a dtype and number of threads."""
    return [
        f"matrix products, {peak.dtype}, {peak.threads} threads: "
        f"{peak.flops_a_cpu_second.median / 1e9:.0f} GFLOP/CPU-s"
        for peak in setting.peaks
    ]


def cause_lines(setting: Setting) -> list[str]:
    """Why each contender that was not measured was not."""
    return [
        f"{result.label}: {result.status}, {result.cause}"
        for result in setting.contenders
        if result.cause is not None
    ]


def _cells(result: ContenderResult, setting: Setting) -> tuple[str, ...]:
    got = result.measured
    if got is None:
        return (f"{result.status} ({name_of(result.cause or '')})",)
    memory = got.memory_peak_bytes
    cells = [
        _range(got.samples_a_second),
        _range(got.samples_a_cpu_second),
        "" if got.share_of_peak is None else f"{got.share_of_peak:.0%}",
        f"{got.fill:.2f}",
        "" if memory is None else f"{memory / 2**20:,.0f}",
    ]
    for kind in SHOWN:
        best = best_of(setting, kind)
        against = got.against.get(best.label) if best else None
        itself = best is not None and best.label == result.label
        cells.append(
            f"{times(against)}, {against.wall.median:.2f}" if against else ("1" if itself else "")
        )
    return tuple(cells)


def best_of(setting: Setting, kind: str) -> ContenderResult | None:
    """The quickest setting of a kind, since a rival is judged at its best; None if not measured."""
    return quickest(c for c in setting.contenders if c.kind == kind)


def quickest(contenders: Iterable[ContenderResult]) -> ContenderResult | None:
    """The one with most tokens a CPU second; None if none was measured."""
    return max(
        (c for c in contenders if c.measured is not None),
        key=lambda c: c.measured.tokens_a_cpu_second.median if c.measured else 0.0,
        default=None,
    )


def times(ratio: Ratio) -> str:
    """A ratio of CPU seconds with its range over rounds."""
    return f"{ratio.cpu.median:.2f} ({ratio.cpu.low:.2f}–{ratio.cpu.high:.2f})"


def _range(spread: Spread) -> str:
    return f"{spread.median:,.4g} ({spread.low:,.3g}–{spread.high:,.3g})"
