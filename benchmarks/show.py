"""One setting as a table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.schema import ContenderResult, Setting, Spread

SHOWN = ("naive-moe", "peft-loop")


def print_setting(setting: Setting, console: Console) -> None:
    """A row a contender; ratios are of CPU seconds on one line with those of wall time."""
    title = (
        f"{setting.size}, {setting.users} users, {setting.samples} samples of {setting.tokens} "
        f"tokens ({setting.lengths})"
    )
    table = Table(title=title, title_justify="left")
    names = ("contender", "samples/s", "samples/CPU-s", "of peak", "fill", "peak MB")
    for name in (*names, *(f"× {kind} (CPU, wall)" for kind in SHOWN)):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for result in setting.contenders:
        table.add_row(result.label, *_cells(result, setting))
    console.print(table)
    for peak in setting.peaks:
        rate = peak.flops_a_cpu_second.median / 1e9
        console.print(
            f"matrix products, {peak.dtype}, {peak.threads} threads: {rate:.0f} GFLOP/CPU-s"
        )


def _cells(result: ContenderResult, setting: Setting) -> list[str]:
    got = result.measured
    if got is None:
        return [f"{result.status} ({result.cause})"]
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
            f"{against.cpu.median:.2f}, {against.wall.median:.2f}"
            if against
            else ("1" if itself else "")
        )
    return cells


def best_of(setting: Setting, kind: str) -> ContenderResult | None:
    """The quickest setting of a kind, since a rival is judged at its best; None if not measured."""
    found = [c for c in setting.contenders if c.kind == kind and c.measured is not None]
    return max(
        found,
        key=lambda c: c.measured.tokens_a_cpu_second.median if c.measured else 0.0,
        default=None,
    )


def _range(spread: Spread) -> str:
    return f"{spread.median:,.4g} ({spread.low:,.3g}–{spread.high:,.3g})"
