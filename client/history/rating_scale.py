"""From ratings as people's files have them to the labels of an ordinal task, by an explicit rule.

A rating that is none of the labels is never rounded unless `--scale` says how: `half-stars:RULE`,
`quarter-stars:RULE` or `LOW-HIGH:LOW-HIGH[:RULE]`. docs/histories.md, "Ratings", describes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from proper_model.errors import ConfigError, DataError
from proper_model.tasks import counted

RULES = ("round-up", "round-down", "nearest")
STEPS = {"half-stars": Fraction(1, 2), "quarter-stars": Fraction(1, 4)}
STARS = 5
MAX_RATING_CHARS = 40
ABOVE_SHARE = 10  # one in so many ratings above the scale is no slip
SCALE_HINT = (
    "--scale half-stars:round-up, half-stars:round-down or half-stars:nearest (quarter-stars "
    "likewise), or FROM:TO such as 1-10:1-5"
)
MEND_RATING_HINT = "mend it, or leave such items out with --lenient"
_PARTS = {"½": Fraction(1, 2), "¼": Fraction(1, 4), "¾": Fraction(3, 4)}
_NUMBER = r"[+-]?[0-9]{0,9}(?:[.,][0-9]{1,9})?"
_RATING = re.compile(
    rf"(?P<number>{_NUMBER})\s*(?P<part>[½¼¾])?"
    rf"(?:\s*(?P<percent>%)|\s*(?:/|out of)\s*(?P<of>{_NUMBER})|\s*stars?)?",
    re.IGNORECASE,
)
_DRAWN = re.compile(r"(?P<full>[★⭐🌟]+)\ufe0f?(?P<part>[½¼¾])?[☆✩]*")
_RANGE = re.compile(rf"({_NUMBER})-({_NUMBER})")


class NoRatingError(ValueError):
    """A text is no rating, or none of the scale; the message quotes nothing, `hint` says what helps."""

    def __init__(self, message: str, hint: str = SCALE_HINT) -> None:
        super().__init__(message)
        self.hint = hint


class AboveScaleError(NoRatingError):
    """A rating above the scale; several of them show that the file has another one."""


@dataclass(frozen=True)
class Scale:
    """What `--scale` says. `step`: of half and quarter stars; else `source` is stretched over `to`."""

    rule: str
    step: Fraction | None = None
    source: tuple[Fraction, Fraction] | None = None
    to: tuple[Fraction, Fraction] | None = None


def parse_scale(text: str, labels: Sequence[str]) -> Scale:
    """Raises ConfigError unless `text` is a scale that ends in the one of `labels`."""
    head, _, rest = text.partition(":")
    numbers = sorted(Fraction(label) for label in labels)
    if head in STEPS:
        if numbers[-1] != STARS:
            raise ConfigError(
                f"--scale {head}: stars go to {STARS}, the task's labels are {scale_name(labels)}",
                hint=f"for example --scale 0-{STARS}:{scale_name(labels)}",
            )
        if rest not in RULES:
            raise ConfigError(f"--scale {head}: expected one of {', '.join(RULES)} after the colon")
        return Scale(rest, STEPS[head])
    target, _, rule = rest.partition(":")
    source, to = _range(head), _range(target)
    if source is None or to is None or rule not in ("", *RULES):
        raise ConfigError("--scale: not a scale", hint=SCALE_HINT)
    if to != (numbers[0], numbers[-1]):
        raise ConfigError(
            f"--scale: ends in another scale than the task's, {scale_name(labels)}",
            hint=f"for example --scale {head}:{scale_name(labels)}",
        )
    return Scale(rule or "nearest", source=source, to=to)


def begins_as(scale: Scale, name: str) -> bool:
    """Whether `scale` is one of ratings from `name`, such as `1-10`."""
    return scale.source is not None and scale.source == _range(name)


def scale_name(labels: Sequence[str]) -> str:
    """`1-5`: the lowest and the highest label."""
    ordered = sorted(labels, key=float)
    return f"{ordered[0]}-{ordered[-1]}"


def rating_label(text: str, labels: Sequence[str], scale: Scale | None) -> str:
    """The label that a rating is, under the rule of `scale`.

    Raises NoRatingError for what is no rating, or one that would have to be rounded or stretched and
    no rule says how.
    """
    value, of = _read(text)
    numbers = {Fraction(label): label for label in labels}
    low, high = min(numbers), max(numbers)
    if scale is None:
        return _exact(value, of, numbers)
    if scale.source is not None and scale.to is not None:
        first, last = scale.source
        if not first <= value <= last or of not in (None, last):
            kind = AboveScaleError if of is None and value > last else NoRatingError
            raise kind("a rating outside the scale that --scale begins with")
        value = scale.to[0] + (value - first) * (scale.to[1] - scale.to[0]) / (last - first)
    else:
        assert scale.step is not None
        if not 0 < value <= STARS or value % scale.step or of not in (None, STARS):
            other = next(name for name in STEPS if STEPS[name] != scale.step)
            if of is None and value > STARS:
                raise AboveScaleError("a rating above five stars", _stretch_hint(value, numbers))
            raise NoRatingError(
                "a rating that is none of the stars that --scale names", _stars_hint(other)
            )
    return numbers[_rounded(min(max(value, low), high), sorted(numbers), scale.rule)]


class Ratings:
    """The labels of one file's ratings; counts those above the scale."""

    def __init__(self, name: str, labels: Sequence[str], scale: Scale | None) -> None:
        self.labels = labels
        self._name, self._scale = name, scale
        self._count = self._above = 0
        self._above_hint = ""

    def label(self, text: str) -> str:
        """As `rating_label`."""
        self._count += 1
        if self._scale is None and text.strip() in self.labels:
            return text.strip()
        try:
            return rating_label(text, self.labels, self._scale)
        except AboveScaleError as error:
            self._above += 1
            self._above_hint = error.hint
            raise

    def check(self) -> None:
        """Raises DataError where so many ratings lie above the scale that the file has another one.

        Leaving those out would take the others, 4 of ten, for 4 of five.
        """
        if self._above and ABOVE_SHARE * self._above >= self._count:
            count = f"{self._above} of {counted(self._count, 'rating')}"
            raise DataError(
                f"{self._name}: {count} lie above the scale, so the file's scale is another one",
                hint=self._above_hint,
            )


def _stars_hint(stars: str) -> str:
    return (
        f"--scale {stars}:round-up, {stars}:round-down or {stars}:nearest says what becomes of it; "
        "--lenient leaves the item out"
    )


def _stretch_hint(value: Fraction, numbers: dict[Fraction, str]) -> str:
    top = next((n for n in (10, 20, 100) if value <= n), 1000)
    labels = f"{numbers[min(numbers)]}-{numbers[max(numbers)]}"
    return f"say what it is out of, such as --scale 1-{top}:{labels}"


def _exact(value: Fraction, of: Fraction | None, numbers: dict[Fraction, str]) -> str:
    low, high = min(numbers), max(numbers)
    span = f"{numbers[low]} to {numbers[high]}"
    if of is not None and of != high:
        hint = f"say what it is out of: --scale 0-{of}:{numbers[low]}-{numbers[high]}"
        raise NoRatingError(
            f"a rating out of another number than {numbers[high]}; see --scale", hint
        )
    if value in numbers:
        return numbers[value]
    if value > high:
        raise AboveScaleError(
            f"a rating above the scale of the task, {span}; see --scale",
            _stretch_hint(value, numbers),
        )
    if value < low and value.denominator == 1:
        raise NoRatingError(f"a rating below the scale of the task, {span}; see --scale")
    kind, stars = {2: ("a half", "half-stars"), 4: ("a quarter", "quarter-stars")}.get(
        value.denominator, ("a fraction", None)
    )
    raise NoRatingError(
        f"a rating with {kind}, the labels are {span}; see --scale",
        *([_stars_hint(stars)] if stars else []),
    )


def _rounded(value: Fraction, numbers: Sequence[Fraction], rule: str) -> Fraction:
    below = max(number for number in numbers if number <= value)
    above = min(number for number in numbers if number >= value)
    if rule == "nearest":
        return below if value - below < above - value else above
    return above if rule == "round-up" else below


def _read(text: str) -> tuple[Fraction, Fraction | None]:
    """A rating's number, and what it is out of where it says so."""
    text = text.strip()
    if len(text) > MAX_RATING_CHARS:
        raise NoRatingError("no rating: longer than one is", MEND_RATING_HINT)
    if drawn := _DRAWN.fullmatch(text.replace("\ufe0f", "")):
        return len(drawn["full"]) + _PARTS.get(drawn["part"], Fraction(0)), None
    match = _RATING.fullmatch(text)
    number = _fraction(match["number"]) if match else None
    if match is None or (number is None and match["part"] is None):
        raise NoRatingError(
            "no rating: expected a number, such as 4, 4.0, 3,5 or 4/5, or stars", MEND_RATING_HINT
        )
    of = _fraction(match["of"]) if match["of"] is not None else None
    if match["of"] is not None and not of:
        raise NoRatingError("no rating: it is out of nothing", MEND_RATING_HINT)
    value = (number or Fraction(0)) + _PARTS.get(match["part"], Fraction(0))
    return value, Fraction(100) if match["percent"] else of


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "."))
    except ValueError:  # no digit
        return None


def _range(text: str) -> tuple[Fraction, Fraction] | None:
    match = _RANGE.fullmatch(text)
    low, high = (_fraction(part) for part in match.groups()) if match else (None, None)
    return (low, high) if low is not None and high is not None and low < high else None
