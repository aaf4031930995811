"""Charts whose text is text of the page: intervals beside names, bars, people, routing.

A picture that shrinks with a narrow screen shrinks its letters too. So these hold only numbers and words;
`templates/charts.html.j2` sets the words as a list and draws each row's line in SVG, at percents of the
room there is. `standalone` draws all but routing as a picture of its own, for a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from matplotlib.ticker import MaxNLocator

PADDING = 0.04  # of an axis, on both sides of what is drawn
WIDTH, LABELS, WORDS, LINE = 860, 280, 260, 22  # of a picture of its own, in pixels
TONES = {
    "gain": ("--good", "#17643b"),
    "loss": ("--bad", "#a3231d"),
    "open": ("--muted", "#5a5852"),
    "one": ("--accent", "#3a49ad"),
    "two": ("--series-2", "#b3500f"),
    "rest": ("--muted", "#5a5852"),
}


@dataclass(frozen=True)
class Mark:
    """A value with its interval; `said` is the same in words and numbers.

    `tone` is a key of `TONES`; a mark is a disc, "two" a diamond, "rest" and "open" are hollow.
    """

    value: float
    low: float
    high: float
    said: str
    tone: str = "one"


@dataclass(frozen=True)
class Row:
    """A name with its marks, and a value that they are compared with, such as guessing."""

    label: str
    marks: tuple[Mark, ...]
    beside: float | None = None


@dataclass(frozen=True)
class Intervals:
    """Rows on one axis from `low` to `high`; `zero` is where nothing is found."""

    rows: tuple[Row, ...]
    axis: str
    low: float
    high: float
    zero: float | None = None
    form: str = "intervals"

    def at(self, value: float) -> float:
        """Percent of the axis."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Percent and text of round numbers on the axis."""
        return _ticks(self.low, self.high, self.at)


@dataclass(frozen=True)
class Bars:
    """A bar a row, from 0; `log`: each ten times as much is as far as the last."""

    rows: tuple[tuple[str, float, str], ...]  # name, value, the value in words
    axis: str
    log: bool = False
    form: str = "bars"

    def at(self, value: float) -> float:
        """Percent of the longest."""
        values = [row[1] for row in self.rows]
        if not self.log:
            return round(100 * value / (max(values) or 1.0), 1)
        least, most = (math.log10(max(v, 1e-9)) for v in (min(values), max(values)))
        span = (most - least) * 1.1 or 1.0
        return round(100 * (math.log10(max(value, 1e-9)) - most + span) / span, 1)


@dataclass(frozen=True)
class People:
    """Gains of every person, the greatest first; above 0 is better."""

    gains: tuple[float, ...]
    axis: str
    form: str = "people"

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many gain, stay and lose."""
        better, worse = (sum(sign * gain > 0 for gain in self.gains) for sign in (1, -1))
        return better, len(self.gains) - better - worse, worse

    @property
    def ends(self) -> tuple[float, float]:
        """The axis, with 0 on it."""
        low, high = min(0.0, *self.gains), max(0.0, *self.gains)
        pad = PADDING * ((high - low) or 1.0)
        return low - pad, high + pad

    def at(self, gain: float) -> float:
        """Percent from the top."""
        low, high = self.ends
        return round(100 * (high - gain) / (high - low), 1)

    def span(self, gain: float) -> tuple[float, float]:
        """Where a person's bar begins, in percent from the top, and how long it is."""
        top, foot = self.at(max(gain, 0.0)), self.at(min(gain, 0.0))
        return top, round(foot - top, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Of what `paths` are drawn in: ten across a person, a thousand down."""
        return 10 * len(self.gains), 1000

    @property
    def paths(self) -> list[tuple[str, str]]:
        """Tone, and the bars of that tone as one path: an element a person would be heavy."""
        found: dict[str, list[str]] = {}
        for place, gain in enumerate(self.gains):
            top, length = (round(10 * part) for part in self.span(gain))
            if length:
                tone = "gain" if gain > 0 else "loss"
                found.setdefault(tone, []).append(f"M{10 * place + 1} {top}h8v{length}h-8z")
        return [(tone, "".join(bars)) for tone, bars in found.items()]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Percent from the top, and text."""
        return _ticks(*self.ends, self.at)


@dataclass(frozen=True)
class Heat:
    """A row a person, a block of `experts` columns a router; steps of weight from 1 (pale) to 5."""

    rows: tuple[tuple[float, ...], ...]
    experts: int
    form: str = "heat"

    @property
    def routers(self) -> int:
        """Blocks."""
        return len(self.rows[0]) // self.experts

    @property
    def size(self) -> tuple[int, int]:
        """Cells across, with half a cell between blocks, and down; in tenths of a cell."""
        return 10 * len(self.rows[0]) + 5 * (self.routers - 1), 10 * len(self.rows)

    @property
    def paths(self) -> list[tuple[int, str]]:
        """Step, and the cells of that weight as one path."""
        found: dict[int, list[str]] = {}
        for y, row in enumerate(self.rows):
            for column, weight in enumerate(row):
                step = min(5, 1 + int(5 * weight))
                x = 10 * column + 5 * (column // self.experts)
                if step > 1:
                    found.setdefault(step, []).append(f"M{x} {10 * y}h9v9h-9z")
        return [(step, "".join(cells)) for step, cells in sorted(found.items())]

    @property
    def blocks(self) -> str:
        """The ground of every block, the palest step."""
        width = 10 * self.experts - 1
        starts = (10 * self.experts * n + 5 * n for n in range(self.routers))
        return "".join(f"M{x} 0h{width}v{self.size[1] - 1}h-{width}z" for x in starts)


Chart = Intervals | Bars | People | Heat


def intervals(
    rows: Sequence[Row],
    axis: str,
    *,
    zero: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Intervals:
    """Rows on an axis that holds all of them and `zero`, or on the axis given."""
    if limits is None:
        ends = [end for row in rows for mark in row.marks for end in (mark.low, mark.high)]
        ends += [mark.value for row in rows for mark in row.marks]
        ends += [row.beside for row in rows if row.beside is not None]
        ends = [end for end in ends if math.isfinite(end)] + ([] if zero is None else [zero])
        pad = PADDING * ((max(ends) - min(ends)) or 1.0)
        limits = min(ends) - pad, max(ends) + pad
    return Intervals(tuple(rows), axis, *limits, zero)


def _ticks(low: float, high: float, at: Callable[[float], float]) -> list[tuple[float, str]]:
    values = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [(at(v), f"{v:.6g}") for v in map(float, values) if low <= v <= high]


def standalone(chart: Chart) -> str:
    """A picture of its own; nothing of routing, which its page alone draws."""
    if isinstance(chart, Intervals | Bars):
        return _rows(chart)
    return _people(chart) if isinstance(chart, People) else ""


def _people(chart: People) -> str:
    """Bars side by side, the axis on the left."""
    wide, high = chart.size
    left, room, tall = 60, WIDTH - 80, 240

    def y(percent: float) -> float:
        return round(LINE + tall * percent / 100, 1)

    bars = "".join(f'<path d="{path}" fill="{_ink(tone)}"/>' for tone, path in chart.paths)
    words = "".join(
        f'<text x="{left - 8}" y="{round(y(at) + 4, 1)}" text-anchor="end">{text}</text>'
        for at, text in chart.ticks
    )
    said = f"{chart.axis}; {len(chart.gains)} people, above 0 is better"
    drawn = (
        f'<svg x="{left}" y="{LINE}" width="{room}" height="{tall}" viewBox="0 0 {wide} {high}" '
        f'preserveAspectRatio="none">{bars}</svg>'
        f'<path d="M{left} {y(chart.at(0.0))}h{room}" stroke="currentColor"/>{words}'
        f'<text x="{left + room / 2}" y="{tall + 3 * LINE}" text-anchor="middle">{escape(said)}</text>'
    )
    return _picture(drawn, tall + 4 * LINE)


def _rows(chart: Intervals | Bars) -> str:
    """Names on the left, lines in the middle, numbers on the right."""
    room = WIDTH - LABELS - WORDS - 20
    drawn: list[str] = []
    y = LINE

    def x(value: float) -> float:
        return round(LABELS + 10 + room * chart.at(value) / 100, 1)

    def word(place: float, text: str, anchor: str = "start") -> str:
        said = escape(text)
        return f'<text x="{place}" y="{y + 4}" text-anchor="{anchor}">{said}</text>'

    for row in chart.rows:
        if isinstance(row, Row):
            drawn.append(word(LABELS, row.label, "end"))
            for mark in row.marks:
                drawn += [_drawn(mark, x, y), word(WIDTH - WORDS, mark.said)]
                y += LINE
            continue
        name, value, said = row
        ink = _ink("one")
        drawn += [word(LABELS, name, "end"), word(WIDTH - WORDS, said)]
        width = round(room * chart.at(value) / 100, 1)
        drawn.append(
            f'<rect x="{LABELS + 10}" y="{y - 6}" width="{width}" height="12" fill="{ink}"/>'
        )
        y += LINE
    if isinstance(chart, Intervals):
        if chart.zero is not None:
            line = f'<path d="M{x(chart.zero)} 6V{y - 8}" stroke="currentColor" stroke-dasharray="2 3"/>'
            drawn.insert(0, line)
        drawn += [
            word(round(LABELS + 10 + room * at / 100, 1), t, "middle") for at, t in chart.ticks
        ]
        y += LINE
    drawn.append(word(LABELS + 10 + room / 2, chart.axis, "middle"))
    return _picture("".join(drawn), y + LINE)


def _picture(drawn: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'font-family="sans-serif" font-size="13" fill="currentColor">{drawn}</svg>'
    )


def _ink(tone: str) -> str:
    name, colour = TONES[tone]
    return f"var({name}, {colour})"


def _drawn(mark: Mark, x: Callable[[float], float], y: int) -> str:
    ink, line = _ink(mark.tone), ""
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        line = f'<path d="M{x(mark.low)} {y}H{x(mark.high)}" stroke="{ink}" stroke-width="2"/>'
    fill = "none" if mark.tone in ("open", "rest") else ink
    return f'{line}<circle cx="{x(mark.value)}" cy="{y}" r="4" fill="{fill}" stroke="{ink}"/>'
