"""What stands below the table: who ran in a row and over what, the memory model, the machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from benchmarks.schema import ContenderResult
from benchmarks.schema_memory import MemoryReport
from benchmarks.sources import Report
from benchmarks.targets import Race, Row
from simulations.outcome.results import Hardware


def notes(rows: Sequence[Row], reports: Sequence[Report]) -> list[str]:
    """Who stands in each row, how far the memory model is off, and where all this was measured."""
    said = [f"{row.name}: {_contenders(row.race)}; {_conditions(row)}." for row in rows]
    memory = memory_note([report for report in reports if isinstance(report, MemoryReport)])
    if memory:
        said.append(memory)
    return [*said, *machine_notes(reports)]


def _contenders(race: Race) -> str:
    names = [
        f"{what} {who.label}"
        for what, who in (
            ("engine", race.engine),
            ("naive loop at its best", race.naive_best),
            ("PEFT loop at its best", race.peft_best),
        )
        if who is not None
    ]
    alike = race.ratio(race.naive_alike)
    if alike and race.naive_alike:
        names.append(f"{alike.cpu.median:.2f} × {race.naive_alike.label}")
    return "; ".join(filter(None, (*names, _vmap(race))))


def _vmap(race: Race) -> str:
    """The rate of sharing passes by vmap. It trains no experts, nor does the engine beside it."""
    if race.vmap is None or race.vmap.measured is None:
        return ""
    plain = race.plain.measured if race.plain else None
    beside = f" and the engine {rate(plain.samples_a_second.median)}" if plain else ""
    mine = rate(race.vmap.measured.samples_a_second.median)
    ratio = race.ratio(race.vmap)
    against = f", with them the engine has {ratio.cpu.median:.2f} × vmap's rate" if ratio else ""
    return f"without experts vmap makes {mine} samples/s{beside}{against}"


def _conditions(row: Row) -> str:
    """What was trained, by how many, how often."""
    loops = [row.race.naive, row.race.naive_best, row.race.peft_best]
    users = sorted({n for loop in loops if (n := _trained(loop)) is not None})
    most = "at most " if row.setting.lengths == "real" else ""
    said = [f"{most}{row.setting.samples} samples a user, dropout {row.report.dropout:g}"]
    if users:
        counts = " or ".join(str(n) for n in users)
        said.append(f"the loops train {counts} of {row.setting.users} users")
    return ", ".join([*said, f"threads: {row.race.engine.threads}, rounds: {row.report.rounds}"])


def _trained(loop: ContenderResult | None) -> int | None:
    return loop.measured.users if loop is not None and loop.measured is not None else None


def rate(value: float) -> str:
    """Samples a second, as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def memory_note(reports: Sequence[MemoryReport]) -> str | None:
    """The memory model's largest deviation over all settings; None if none was measured."""
    known = [
        (peak.deviation, peak, report.sample_tokens)
        for report in reports
        for peak in report.peaks
        if peak.deviation is not None
    ]
    if not known:
        return None
    worst, peak, tokens = max(known, key=lambda entry: abs(entry[0]))
    lengths = " or ".join(str(n) for n in sorted({entry[2] for entry in known}))
    return (
        f"Memory model, {len(known)} settings with samples of {lengths} tokens: largest deviation "
        f"of a predicted from a measured peak {worst:+.1%} ({peak.size}, {peak.users} users, "
        f"samples of {tokens} tokens, {peak.tokens_per_step:,} tokens a pass, activations "
        f"{'recomputed' if peak.recompute else 'kept'})."
    )


def machine_notes(reports: Sequence[Report]) -> list[str]:
    """One line a machine, with the commits that were measured on it."""
    commits: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        commits[machine(report.hardware)].append(report.commit[:12])
    return [
        f"Measured on {name}; code {', '.join(dict.fromkeys(codes))}."
        for name, codes in commits.items()
    ]


def machine(found: Hardware) -> str:
    """Hardware in words."""
    gpu = f", {found.gpu}" if found.gpu else ""
    return (
        f"{found.cpu}, {found.cores} cores, {found.ram_bytes / 2**30:.1f} GiB{gpu}; "
        f"{found.system}, Python {found.python}, torch {found.torch}"
    )
