"""What is shown of benchmark files: tables and sentences, on a terminal, in a document, on the page.

Every ratio is between contenders of one run, round by round; between two runs there is none, since
it would compare two states of a machine.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from benchmarks.gpu.document import TOKENS_A_USER, Peaks, RaceSetting
from benchmarks.kinds import Agreement
from benchmarks.results.person_table import person_table
from benchmarks.results.schema import (
    Checkout,
    Clock,
    ContenderResult,
    DeviceReport,
    EngineReport,
    GpuReport,
    Measured,
    MemoryPeak,
    MemoryReport,
    PipelineReport,
    Predicted,
    Setting,
    Source,
    Spread,
    WholeRun,
)
from client.terminal.tables import Table
from simulations.outcome.results import Hardware

ENGINE, LOOP = "ours-moe", "stacked-loop"
OURS = (ENGINE, "ours", "limit")  # everybody else is a rival
# What `Backend.best_on` chooses on a CPU; by name, since a table needs no torch.
BACKEND = "fused"
HIDDEN = {
    "overhead": 64,
    "small": 256,
    "135m": 576,
    "1b": 2048,
    "7b": 4096,
}  # of `sizes`, which needs torch as well
NONE = "–"
GIB, MIB = 2**30, 2**20
# What the design asks of the engine on a CPU with 32 users in float32, against the compiled loop with as
# many samples in a step: by size, lengths and tokens (None: drawn).
USERS, ALONE = 32, 1.0  # and what one user alone must reach
TARGETS: dict[tuple[str, str, int | None], float] = {
    ("overhead", "fixed", 32): 2.5,
    ("small", "fixed", 96): 1.6,
    ("small", "real", None): 1.6,
}


def setting_table(setting: Setting, clock: Clock = "cpu_s") -> Table:
    """A row a contender, quickest first: its rate, and how many times that the engine makes which takes
    as many samples in an optimizer step, in the same dtype.

    Args:
        clock: what ratios of rates are by; see `clock_of`.
    """
    header = ("contender", "users", "samples/s", "× ours at equal steps", "peak, MiB")
    rows = []
    for result in sorted(setting.contenders, key=_rate, reverse=True):
        if (got := result.measured) is None:
            cause = (result.cause or "").partition(":")[0]
            rows.append((result.label, NONE, f"{result.status} ({cause})", NONE, NONE))
            continue
        engine = _engine(setting, result)
        ratio = times(engine.times(got, clock)) if engine else NONE
        rows.append((result.label, str(got.users), rate(got.samples_a_second), ratio, _mib(got)))
    return Table(setting_name(setting), header, tuple(rows))


def _engine(setting: Setting, like: ContenderResult) -> Measured | None:
    """The engine in the form that a CPU uses, at the other's samples in a step and in its dtype."""
    for one in setting.contenders:
        wanted = (ENGINE, BACKEND, like.batch, like.dtype)
        if (one.kind, one.backend, one.batch, one.dtype) == wanted and one.measured:
            return one.measured
    return None


def _rate(result: ContenderResult) -> float:
    return result.measured.samples_a_second.median if result.measured else 0.0


def _mib(got: Measured) -> str:
    return NONE if got.memory_peak_bytes is None else f"{got.memory_peak_bytes / MIB:,.0f}"


def rate(spread: Spread) -> str:
    """A median with as many digits as say something."""
    return f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.1f}"


def times(spread: Spread) -> str:
    """A ratio with its range over rounds."""
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def clock_of(device: str) -> Clock:
    """CPU seconds of work on a CPU, which other work changes least; else wall seconds."""
    return "cpu_s" if device == "cpu" else "wall_s"


def _base(size: str) -> str:
    return f"hidden {HIDDEN[size]} ({size})" if size in HIDDEN else size


def setting_name(setting: Setting) -> str:
    """What was trained, in words; lengths of real users are not the setting's to choose."""
    who = f"{_base(setting.size)}, {setting.users} users"
    if setting.lengths == "real":
        return f"{who}, at most {setting.samples} samples of real lengths"
    return f"{who}, {setting.samples} samples of {setting.tokens} tokens ({setting.lengths})"


def setting_notes(setting: Setting, device: str) -> list[str]:
    """Why a contender was not measured, and the headline with its target."""
    said = [f"{c.label}: {c.status}, {c.cause}" for c in setting.contenders if c.cause]
    clock = clock_of(device)
    tokens = setting.tokens if setting.lengths == "fixed" else None
    target = TARGETS.get((setting.size, setting.lengths, tokens))
    for one in setting.contenders:
        engine = _engine(setting, one)
        if one.measured and engine and one.kind == LOOP and one.compile:
            ratio = times(engine.times(one.measured, clock))
            line = f"{ENGINE} against {one.label}: {ratio} times the rate at equal steps"
            if target and (device, setting.users, one.dtype) == ("cpu", USERS, "float32"):
                line += f"; must reach {target:g}"
            said.append(line)
    return said


def families(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Settings that differ in users alone; each family sorted by users."""
    found: dict[tuple[object, ...], list[Setting]] = defaultdict(list)
    for one in settings:
        found[one.size, one.lengths, one.tokens, one.samples].append(one)
    return [sorted(group, key=lambda one: one.users) for group in found.values()]


def growth_table(groups: Sequence[Sequence[Setting]]) -> Table | None:
    """The engine as a multiple of each rival: a row a number of users, a column a family and rival."""
    columns: dict[str, dict[int, str]] = {}
    for group in groups:
        first = group[0]
        what = f"{first.tokens} tokens" if first.lengths == "fixed" else f"{first.lengths} lengths"
        family = f"{_base(first.size)}, {what}, {first.samples} a user"
        for setting in group:
            for one in setting.contenders:
                engine = _engine(setting, one)
                if one.measured and engine and one.kind not in OURS:
                    cells = columns.setdefault(f"{family}: {one.label}", {})
                    cells[setting.users] = times(engine.times(one.measured))
    columns = {name: cells for name, cells in columns.items() if len(cells) > 1}
    if not columns:
        return None
    counts = sorted({users for cells in columns.values() for users in cells})
    rows = tuple(
        (str(users), *(cells.get(users, NONE) for cells in columns.values())) for users in counts
    )
    title = f"{ENGINE} as a multiple of the rate of a rival, by users trained together"
    return Table(title, ("users together", *columns), rows)


def memory_table(reports: Sequence[MemoryReport]) -> Table:
    """Measured peaks beyond the base and how far the memory model is off, a column a user count."""
    cells: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
    for report in reports:
        for peak in report.peaks:
            row = (
                *(peak.size, peak.dtype, str(report.sample_tokens), f"{peak.tokens_per_step:,}"),
                "recomputed" if peak.recompute else "kept",
            )
            cells[row][peak.users] = _peak(peak)
    counts = sorted({users for row in cells.values() for users in row})
    names = ("size", "dtype", "tokens a sample", "tokens a pass", "activations")
    return Table(
        "Peak of training beyond the base, MiB (the memory model's deviation)",
        (*names, *(f"{users} users" for users in counts)),
        tuple((*row, *(found.get(n, NONE) for n in counts)) for row, found in cells.items()),
        labels=len(names),
    )


def _peak(peak: MemoryPeak) -> str:
    off = NONE if peak.deviation is None else f"{peak.deviation:+.1%}"
    return f"{peak.measured_bytes / MIB:,.0f} ({off})"


def adapt_table(report: DeviceReport) -> Table:
    """Seconds and peak of the whole process by how the base is held."""
    rows = tuple(
        (
            one.base_weights,
            "yes" if one.recompute else "no",
            f"{statistics.median(one.seconds):.0f}",
            f"{statistics.median(one.peak_bytes) / MIB:,.0f}",
        )
        for one in report.adaptations
    )
    header = ("base weights", "recompute", "seconds", "peak of the process, MiB")
    title = f"proper adapt, {report.items} items of {report.data}, preset {report.preset}"
    return Table(title, header, rows, labels=2)


def predicted_table(report: DeviceReport) -> Table:
    """GiB of base and training by shape: one row a way to hold the base."""

    def key(one: Predicted) -> tuple[str, str | None, str]:
        return one.shape, one.dtype, one.weights

    kept = {key(one): one for one in report.predicted if not one.recompute}
    rows = tuple(
        (
            *(one.shape, one.dtype or "", one.weights, f"{one.base_bytes / GIB:.2f}"),
            "" if one.loading_bytes is None else f"{one.loading_bytes / GIB:.2f}",
            f"{kept[key(one)].training_bytes / GIB:.2f}",
            f"{one.training_bytes / GIB:.2f}",
        )
        for one in report.predicted
        if one.recompute
    )
    header = (
        *("base", "computed in", "weights", "base, GiB", "loading it, GiB"),
        *("training, GiB", "training, recomputed, GiB"),
    )
    title = f"memory model, samples of {report.sample_tokens} tokens"
    return Table(title, header, rows, labels=2)


def gpu_parts(report: GpuReport) -> list[tuple[Table, list[str]]]:
    """A table a setting, and how far the variants' training is from the reference's."""
    parts = [(race_table(one, report.peaks), race_notes(one, report)) for one in report.settings]
    if report.agreement:
        parts.append((agreement_table(report.agreement, "float32"), []))
    if parts:
        parts[-1][1].extend(
            f"not run: {one.size}, {one.users} users ({one.lengths}): {one.reason}"
            for one in report.skipped
        )
    return parts


def race_table(setting: RaceSetting, peaks: Peaks) -> Table:
    """A row a contender: rates of wall seconds, the share of the measured peak, memory, and its
    tokens a second as a multiple of the loop's that takes as many samples in a step.
    """
    header = (
        *("contender", "users", "samples/s", "tokens/s", "TFLOP/s", "of the peak", "users/hour"),
        *("× loop", "of the limit", "passes", "peak, GiB", "predicted, GiB"),
    )
    measured = [entry for entry in setting.entries if entry.rounds]
    loops = {entry.batch: entry for entry in measured if entry.kind == "stacked-loop"}
    limit = next((entry for entry in measured if entry.kind == "limit"), None)
    rows = []
    for entry in setting.entries:
        if not entry.rounds:
            cause = (entry.cause or "").partition(":")[0]
            rows.append((entry.label, NONE, f"{entry.status} ({cause})", *[NONE] * 9))
            continue
        flops = Spread.of(entry.a_second(entry.flops)).median
        loop = loops.get(entry.batch)
        rows.append(
            (
                *(entry.label, str(entry.users), rate(Spread.of(entry.a_second(entry.samples)))),
                *(rate(Spread.of(entry.a_second(entry.tokens))), f"{flops / 1e12:.4g}"),
                f"{flops / peaks.flops:.1%}",
                f"{entry.tokens_a_second * 3600 / TOKENS_A_USER:,.0f}",
                times(Spread.of(entry.times(loop))) if loop else NONE,
                f"{Spread.of(entry.times(limit)).median:.1%}" if limit else NONE,
                *(str(entry.passes), _gib(entry.taken_bytes)),
                _gib(entry.memory_predicted_bytes),
            )
        )
    what = f"{setting.samples} samples of {setting.tokens} tokens ({setting.lengths})"
    title = f"{_base(setting.size)}, {setting.users} users, {what}, dropout {setting.dropout:g}"
    return Table(title, header, tuple(rows))


def _gib(count: int | None) -> str:
    return NONE if count is None else f"{max(count, 0) / GIB:.2f}"


def race_notes(setting: RaceSetting, report: GpuReport) -> list[str]:
    """What the figures refer to, and why a contender was not measured."""
    peaks = report.peaks
    said = [
        f"in {report.dtype}; the peak is {peaks.flops / 1e12:.4g} TFLOP/s of a product of side "
        f"{peaks.side}, and a copy moves {peaks.bytes / 1e9:.4g} GB/s; passes of at most "
        f"{setting.tokens_per_step:,} tokens; users an hour of {TOKENS_A_USER:,} tokens each"
    ]
    return said + [f"{e.label}: {e.status}, {e.cause}" for e in setting.entries if e.cause]


def agreement_table(found: Iterable[Agreement], reference: str) -> Table:
    """Relative errors of trained adapters, a row a contender and a column a dtype."""
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    for one in found:
        cells[one.variant][one.dtype] = f"{one.cause}" if one.error is None else f"{one.error:.1e}"
    dtypes = tuple(dict.fromkeys(dtype for row in cells.values() for dtype in row))
    rows = tuple((name, *(row.get(d, NONE) for d in dtypes)) for name, row in cells.items())
    title = f"Training of a tiny base: relative distance from the reference's in {reference}"
    return Table(title, ("variant", *dtypes), rows)


def phase_table(checkouts: Sequence[Checkout]) -> Table:
    """Median seconds of each phase, a column a checkout; a round without a phase spent none on it."""
    last = ("untimed", "whole run", "CPU seconds")

    def parts(one: WholeRun) -> dict[str, float]:
        return {
            **one.phases_s,
            **dict(zip(last, (one.untimed_s, one.wall_s, one.cpu_s), strict=True)),
        }

    columns = []
    for checkout in checkouts:
        rows = [parts(one) for one in checkout.rounds]
        names = dict.fromkeys(name for row in rows for name in row)
        columns.append({n: statistics.median(row.get(n, 0.0) for row in rows) for n in names})
    known = dict.fromkeys(name for column in columns for name in column if name not in last)
    return Table(
        "Seconds by phase",
        ("phase", *(checkout.label for checkout in checkouts)),
        tuple(
            (name, *(f"{c[name]:.1f}" if name in c else NONE for c in columns))
            for name in (*known, *last)
        ),
    )


def shown(sources: Sequence[Source]) -> list[tuple[Table, list[str]]]:
    """Everything in files of any kinds: tables, each with what is to be said below it."""
    reports = [source.report for source in sources]
    parts: list[tuple[Table, list[str]]] = []
    grown: list[list[Setting]] = []
    for report in reports:
        if isinstance(report, EngineReport):
            for group in families(report.settings):
                if len(group) > 1 and growth_table([group]):
                    grown.append(group)
                    continue
                clock = clock_of(report.device)
                by = "CPU" if clock == "cpu_s" else "wall"
                run = f"ratios by {by} seconds, rounds: {report.rounds}, dropout {report.dropout:g}"
                for one in group:
                    notes = [run, *setting_notes(one, report.device)]
                    parts.append((setting_table(one, clock), notes))
        if isinstance(report, DeviceReport):
            rounds = len(report.adaptations[0].seconds)
            parts.append((adapt_table(report), [f"threads: {report.threads}, rounds: {rounds}"]))
            if report.persons:
                parts.append((person_table(report.persons), [f"threads: {report.threads}"]))
            parts.append((predicted_table(report), []))
        if isinstance(report, GpuReport):
            parts += gpu_parts(report)
        if isinstance(report, PipelineReport):
            parts.append((phase_table(report.checkouts), [pipeline_note(report)]))
    if table := growth_table(grown):
        alone = f"one user alone must reach {ALONE:.1f} against {LOOP}:compile=true"
        parts.append((table, [alone]))
    if agreed := [one for r in reports if isinstance(r, EngineReport) for one in r.agreement]:
        parts.append((agreement_table(agreed, "float64"), []))
    memory = [report for report in reports if isinstance(report, MemoryReport)]
    if memory:
        parts.append((memory_table(memory), []))
    return parts


def pipeline_note(report: PipelineReport) -> str:
    """What ran, and how far the answers of the checkouts are apart."""
    who = ", ".join(
        f"{one.label} is {one.commit[:12]}, its means at most {one.apart:.1%} from the first's"
        for one in report.checkouts
    )
    rounds = len(report.checkouts[0].rounds)
    return f"proper-sim run {report.data} {' '.join(report.arguments)}; rounds: {rounds}; {who}"


def machine_notes(sources: Sequence[Source]) -> list[str]:
    """One line a machine, with the commits that were measured on it."""
    commits: dict[str, list[str]] = defaultdict(list)
    for _, report in sources:
        commits[machine(report.hardware)] += commits_of(report)
    return [
        f"Measured on {name}; code {', '.join(dict.fromkeys(codes))}."
        for name, codes in commits.items()
    ]


def commits_of(report: object) -> list[str]:
    """The versions of the code that a report is about."""
    if isinstance(report, PipelineReport):
        return [one.commit[:12] for one in report.checkouts]
    assert isinstance(report, EngineReport | MemoryReport | DeviceReport | GpuReport)
    return [report.commit[:12]]


def machine(found: Hardware) -> str:
    """Hardware in words."""
    gpu = f", {found.gpu}" if found.gpu else ""
    return (
        f"{found.cpu}, {found.cores} cores, {found.ram_bytes / GIB:.1f} GiB{gpu}; "
        f"{found.system}, Python {found.python}, torch {found.torch}"
    )
