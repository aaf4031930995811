"""What is shown of benchmark files: tables and sentences, on a terminal, in a document, on the page.

Every ratio is between contenders of one run, round by round; between two runs there is none, since
it would compare two states of a machine.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from benchmarks.gpu.document import TOKENS_A_USER, Peaks, RaceSetting
from benchmarks.kinds import SIZES, Agreement
from benchmarks.results.schema import (
    Checkout,
    ContenderResult,
    DeviceReport,
    EngineReport,
    GpuReport,
    Measured,
    MemoryReport,
    PersonRun,
    PipelineReport,
    Report,
    Setting,
    Source,
    Spread,
)
from client.terminal.tables import Table
from simulations.outcome.results import Hardware

ENGINE, LOOP = "ours-moe", "stacked-loop"
OURS = (ENGINE, "ours", "limit")  # everybody else is a rival
# What `Backend.best_on` chooses on a CPU; by name, since a table needs no torch.
BACKEND = "fused"
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
Part = tuple[Table, list[str]]  # and what is to be said below it
Cells = dict[tuple[str, ...], dict[str, str]]  # by the names of a row, then by a column's


def setting_table(setting: Setting) -> Table:
    """A row a contender, quickest first: its rate, and how many times that the engine makes which takes
    as many samples in an optimizer step, in the same dtype.
    """
    header = ("contender", "users", "samples/s", "× ours at equal steps", "peak, MiB")
    rows = []
    for result in sorted(setting.contenders, key=_rate, reverse=True):
        if (got := result.measured) is None:
            cause = (result.cause or "").partition(":")[0]
            rows.append((result.label, NONE, f"{result.status} ({cause})", NONE, NONE))
            continue
        engine = _engine(setting, result)
        ratio = times(engine.times(got)) if engine else NONE
        peak = NONE if got.memory_peak_bytes is None else f"{got.memory_peak_bytes / MIB:,.0f}"
        rows.append((result.label, str(got.users), rate(got.samples_a_second), ratio, peak))
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


def rate(spread: Spread) -> str:
    """A median with as many digits as say something."""
    return f"{spread.median:,.0f}" if spread.median >= 100 else f"{spread.median:.1f}"


def times(spread: Spread) -> str:
    """A ratio with its range over rounds."""
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def _base(size: str) -> str:
    return f"hidden {SIZES[size].hidden} ({size})" if size in SIZES else size


def setting_name(setting: Setting) -> str:
    """What was trained, in words; lengths of real users are not the setting's to choose."""
    who = f"{_base(setting.size)}, {setting.users} users"
    if setting.lengths == "real":
        return f"{who}, at most {setting.samples} samples of real lengths"
    return f"{who}, {setting.samples} samples of {setting.tokens} tokens ({setting.lengths})"


def setting_notes(setting: Setting) -> list[str]:
    """Why a contender was not measured, and the headline with its target."""
    said = [f"{c.label}: {c.status}, {c.cause}" for c in setting.contenders if c.cause]
    tokens = setting.tokens if setting.lengths == "fixed" else None
    target = TARGETS.get((setting.size, setting.lengths, tokens))
    for one in setting.contenders:
        engine = _engine(setting, one)
        if one.measured and engine and one.kind == LOOP and one.compile:
            ratio = times(engine.times(one.measured))
            line = f"{ENGINE} against {one.label}: {ratio} times the rate at equal steps"
            if target and (setting.users, one.dtype) == (USERS, "float32"):
                line += f"; must reach {target:g}"
            said.append(line)
    return said


def families(settings: Iterable[Setting]) -> list[list[Setting]]:
    """Settings that differ in users alone; each family sorted by users."""
    found: dict[tuple[object, ...], list[Setting]] = defaultdict(list)
    for one in settings:
        found[one.size, one.lengths, one.tokens, one.samples].append(one)
    return [sorted(group, key=lambda one: one.users) for group in found.values()]


def lengths_of(setting: Setting) -> str:
    """Of a family's samples, in words."""
    return (
        f"{setting.tokens} tokens" if setting.lengths == "fixed" else f"{setting.lengths} lengths"
    )


def growth_table(groups: Sequence[Sequence[Setting]]) -> Table | None:
    """The engine as a multiple of each rival: a row a number of users, a column a family and rival."""
    cells: Cells = defaultdict(dict)
    for setting in sorted((one for group in groups for one in group), key=lambda one: one.users):
        family = f"{_base(setting.size)}, {lengths_of(setting)}, {setting.samples} a user"
        for one in setting.contenders:
            engine = _engine(setting, one)
            if one.measured and engine and one.kind not in OURS:
                told = times(engine.times(one.measured))
                cells[str(setting.users),][f"{family}: {one.label}"] = told
    found = [name for row in cells.values() for name in row]
    columns = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if not columns:
        return None
    title = f"{ENGINE} as a multiple of the rate of a rival, by users trained together"
    return _crossed(title, ("users together",), cells, columns)


def _crossed(title: str, labels: tuple[str, ...], rows: Cells, columns: Iterable[str]) -> Table:
    """Cells by the names of their row and of their column."""
    columns = tuple(columns)
    cells = tuple((*names, *(row.get(c, NONE) for c in columns)) for names, row in rows.items())
    return Table(title, (*labels, *columns), cells, labels=len(labels))


def memory_table(reports: Sequence[MemoryReport]) -> Table:
    """Measured peaks beyond the base and how far the memory model is off, a column a user count."""
    cells: Cells = defaultdict(dict)
    for report in reports:
        for peak in report.peaks:
            row = (
                *(peak.size, peak.dtype, str(report.sample_tokens), f"{peak.tokens_per_step:,}"),
                "recomputed" if peak.recompute else "kept",
            )
            off = NONE if peak.deviation is None else f"{peak.deviation:+.1%}"
            cells[row][f"{peak.users} users"] = f"{peak.measured_bytes / MIB:,.0f} ({off})"
    counts = sorted({peak.users for report in reports for peak in report.peaks})
    return _crossed(
        "Peak of training beyond the base, MiB (the memory model's deviation)",
        ("size", "dtype", "tokens a sample", "tokens a pass", "activations"),
        cells,
        (f"{users} users" for users in counts),
    )


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


def person_table(runs: Sequence[PersonRun]) -> Table:
    """A row a part, two columns a base: CPU seconds, and seconds by the clock."""
    cells: Cells = defaultdict(dict)
    last = ("whole", "first token of generate", "first token of a warm serve", "peak, MiB")
    ends: Cells = {(name,): {} for name in last}
    columns = []
    for run in runs:
        cpu, wall = f"{run.base}: CPU s", f"{run.base}: seconds"
        columns += [cpu, wall]
        for name, part in run.parts.items():
            cells[name,] |= {cpu: f"{part.cpu_s:.1f}", wall: f"{part.wall_s:.1f}"}
        parts, (whole, *others) = run.parts.values(), ends.values()
        whole[cpu] = f"{sum(part.cpu_s for part in parts):.1f}"
        whole[wall] = f"{sum(part.wall_s for part in parts):.1f}"
        told = f"{run.generate_s:.1f}", f"{run.serve_s:.2f}", f"{run.peak_bytes / MIB:,.0f}"
        for row, one in zip(others, told, strict=True):
            row |= {cpu: "", wall: one}
    what = ", ".join(
        f"{run.items} items of {run.data}, {run.tokens / run.items:.0f} tokens each, over {run.base}"
        for run in runs
    )
    return _crossed(f"proper from start to end, {what}", ("part",), {**cells, **ends}, columns)


def predicted_table(report: DeviceReport) -> Table:
    """GiB of base and training by shape: one row a way to hold the base."""
    cells: Cells = defaultdict(dict)
    for one in report.predicted:
        training = "training, recomputed, GiB" if one.recompute else "training, GiB"
        cells[one.shape, one.dtype, one.weights] |= {
            "base, GiB": f"{one.base_bytes / GIB:.2f}",
            "loading it, GiB": f"{one.loading_bytes / GIB:.2f}",
            training: f"{one.training_bytes / GIB:.2f}",
        }
    columns = ("base, GiB", "loading it, GiB", "training, GiB", "training, recomputed, GiB")
    title = f"memory model, samples of {report.sample_tokens} tokens"
    return _crossed(title, ("base", "computed in", "weights"), cells, columns)


def gpu_parts(report: GpuReport) -> list[Part]:
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
    cells: Cells = defaultdict(dict)
    for one in found:
        cells[one.variant,][one.dtype] = f"{one.cause}" if one.error is None else f"{one.error:.1e}"
    title = f"Training of a tiny base: relative distance from the reference's in {reference}"
    return _crossed(title, ("variant",), cells, dict.fromkeys(d for c in cells.values() for d in c))


def phase_table(checkouts: Sequence[Checkout]) -> Table:
    """Median seconds of each phase, a column a checkout; a round without a phase spent none on it."""
    cells: Cells = defaultdict(dict)
    ends: Cells = {("untimed",): {}, ("whole run",): {}, ("CPU seconds",): {}}
    for checkout in checkouts:
        rounds = checkout.rounds
        for name in dict.fromkeys(name for one in rounds for name in one.phases_s):
            spent = statistics.median(one.phases_s.get(name, 0.0) for one in rounds)
            cells[name,][checkout.label] = f"{spent:.1f}"
        for row, what in zip(ends.values(), ("untimed_s", "wall_s", "cpu_s"), strict=True):
            spent = statistics.median(getattr(one, what) for one in rounds)
            row[checkout.label] = f"{spent:.1f}"
    labels = (checkout.label for checkout in checkouts)
    return _crossed("Seconds by phase", ("phase",), {**cells, **ends}, labels)


def shown(sources: Sequence[Source]) -> list[Part]:
    """Everything in files of any kinds: tables, each with what is to be said below it."""
    reports = [source.report for source in sources]
    engines = [report for report in reports if isinstance(report, EngineReport)]
    memory = [report for report in reports if isinstance(report, MemoryReport)]
    grown: list[list[Setting]] = []
    parts: list[Part] = []
    for report in reports:
        if isinstance(report, EngineReport):
            run = f"ratios by CPU seconds, rounds: {report.rounds}, dropout {report.dropout:g}"
            for group in families(report.settings):
                if len(group) > 1 and growth_table([group]):
                    grown.append(group)
                else:
                    parts += [(setting_table(one), [run, *setting_notes(one)]) for one in group]
        elif isinstance(report, DeviceReport):
            threads = f"threads: {report.threads}"
            rounds = len(report.adaptations[0].seconds)
            parts.append((adapt_table(report), [f"{threads}, rounds: {rounds}"]))
            parts.append((person_table(report.persons), [threads]))
            parts.append((predicted_table(report), []))
        elif isinstance(report, GpuReport):
            parts += gpu_parts(report)
        elif isinstance(report, PipelineReport):
            parts.append((phase_table(report.checkouts), [pipeline_note(report)]))
    if table := growth_table(grown):
        alone = f"one user alone must reach {ALONE:.1f} against {LOOP}:compile=true"
        parts.append((table, [alone]))
    if agreed := [one for report in engines for one in report.agreement]:
        parts.append((agreement_table(agreed, "float64"), []))
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


def commits_of(report: Report) -> list[str]:
    """The versions of the code that a report is about."""
    made = report.checkouts if isinstance(report, PipelineReport) else [report]
    return [one.commit[:12] for one in made]


def machine(found: Hardware) -> str:
    """Hardware in words."""
    gpu = f", {found.gpu}" if found.gpu else ""
    return (
        f"{found.cpu}, {found.cores} cores, {found.ram_bytes / GIB:.1f} GiB{gpu}; "
        f"{found.system}, Python {found.python}, torch {found.torch}"
    )
