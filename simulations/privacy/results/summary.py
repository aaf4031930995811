"""All attacks on one scale: how far each gets from guessing, 0, to certainty, 1.

    AUC                    2 AUC - 1
    share of people        (share - guessing) / (1 - guessing)
    exposure in bits       (bits - guessing) / (most - guessing)
    what a server sees     share of own items in clear
    trigger                share of questions it works for, less that before

One line for every sentence about a thing, of the attack that found most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.terminal.tables import Table
from proper_model.tasks import counted
from simulations.privacy.results import deletion_schema
from simulations.privacy.results.backdoor_schema import BackdoorResult
from simulations.privacy.results.canary_schema import CanaryResult
from simulations.privacy.results.deletion_schema import DeletionResult
from simulations.privacy.results.epsilon_schema import EpsilonResult
from simulations.privacy.results.poison_schema import PoisonResult
from simulations.privacy.results.rates import Rate, RateResult, strongest
from simulations.privacy.results.schema import Measured, PrivacyResult
from simulations.privacy.results.show import strongest_rows

NONE = "–"
SEEN = "seen"
UNASKED = ("common-start",)  # what a release holds only if its profile asks for it
ONE_SEED, OWN_SEED = "adapter-factors, seed kept", "adapter-factors"


@dataclass(frozen=True)
class Advantage:
    """How far an attack got from guessing (0) to certainty (1), with its interval over people."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Line:
    """One thing and question.

    Attributes:
        advantage: with PROPER's defaults, or with the privacy that `thing` names; None: there is nothing
            to attack, for the reason that `instead` says.
        without: the same without that defence; None: there is none, or it was not measured.
        people: how many, of which task, in how many seeds.
        task: that task's name.
    """

    experiment: str
    asked: str
    thing: str
    attack: str
    advantage: Advantage | None
    sentence: str
    without: Advantage | None = None
    people: str = ""
    task: str = ""
    instead: str = "refused"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is compared with another file's: never one set of people with another."""
        return self.task, self.experiment, self.asked, self.thing


Result = (
    PrivacyResult
    | RateResult
    | BackdoorResult
    | CanaryResult
    | DeletionResult
    | EpsilonResult
    | PoisonResult
)


def lines_of(result: Result) -> list[Line]:
    """An attack's lines."""
    people = f"{result.people} of {result.task}, {counted(len(result.seeds), 'seed')}"
    return [replace(line, people=people, task=result.task) for line in _lines(result)]


def _lines(result: Result) -> list[Line]:
    match result:
        case PrivacyResult():
            return _membership(result)
        case RateResult():
            return _rates(result)
        case BackdoorResult():
            return _backdoor(result)
        case CanaryResult():
            return _canaries(result)
        case DeletionResult():
            return _deletion(result)
        case EpsilonResult():
            return _epsilon(result)
        case PoisonResult():
            return _poisoning(result)


def with_before(lines: Sequence[Line], before: Sequence[Line]) -> list[Line]:
    """The lines, with what was found of the same thing before a default changed.

    Of `before` itself those lines are left out that a newer file has, too.
    """
    older = {line.key: line for line in before}
    times = Counter(line.key for line in lines)
    found = []
    for line in lines:
        old = older.get(line.key)
        if old is None or (old == line and times[line.key] == 1):
            found.append(line)
        elif old != line:
            found.append(replace(line, without=line.without or old.advantage))
    return found


def summary_table(lines: Sequence[Line]) -> Table:
    """A row a line, with its sentence."""
    header = (
        *("attack", "people", "asked", "thing", "by"),
        *("advantage", "without the defence", "sentence"),
    )
    rows = tuple(
        (
            *(line.experiment, line.people, line.asked, line.thing, line.attack),
            line.instead if line.advantage is None else str(line.advantage),
            NONE if line.without is None else str(line.without),
            line.sentence,
        )
        for line in lines
    )
    return Table("advantage: 0 is guessing, 1 is certain", header, rows, labels=5, sentence=True)


def record_tables(lines: Sequence[Line]) -> list[tuple[Table, list[str]]]:
    """The same for each attack on each people: a table of numbers, and the sentences."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.experiment, line.people), []).append(line)
    header = ("thing", "asked", "by", "advantage", "without the defence")
    tables = []
    for (experiment, people), own in groups.items():
        found = [row[2:7] for row in summary_table(own).rows]
        rows = tuple((thing, asked, *more) for asked, thing, *more in found)
        title = f"{experiment}: {people}"
        tables.append((Table(title, header, rows, labels=3), [line.sentence for line in own]))
    return tables


def _of_auc(found: Measured) -> Advantage:
    return Advantage(*(2 * auc - 1 for auc in (found.auc, found.low, found.high)))


def _beyond(found: Rate, guessing: float, most: float = 1.0) -> Advantage:
    """(found - guessing) / (most - guessing)."""
    span = max(1e-9, most - guessing)
    return Advantage(*((value - guessing) / span for value in (found.value, found.low, found.high)))


def _membership(result: PrivacyResult) -> list[Line]:
    """What a release holds only if a profile asks for it stands where a defence is off."""
    lines = [
        Line("membership", row.level, row.thing, row.attack, _of_auc(row.pooled), row.sentence)
        for row in strongest_rows(result)
    ]
    return [
        replace(line, advantage=None, without=line.advantage, instead="not released")
        if line.thing in UNASKED
        else line
        for line in lines
    ]


def _rates(result: RateResult) -> list[Line]:
    """Over another release a device draws anew, which stands beside one seed for all releases."""
    best = strongest(result.attacks)
    lines = {
        (row.scope, row.thing): Line(
            *(result.experiment, row.scope, row.thing, row.attack),
            _beyond(row.pooled, row.chance),
            sentence,
        )
        for row, sentence in zip(best.values(), result.sentences, strict=True)
    }
    for scope in ("other-seed", "more-people"):
        kept, own = lines.get((scope, ONE_SEED)), lines.get((scope, OWN_SEED))
        if kept is not None and own is not None:
            del lines[scope, ONE_SEED]
            said = f"{own.sentence} With one seed for all releases: {kept.sentence}"
            lines[scope, OWN_SEED] = replace(own, without=kept.advantage, sentence=said)
    return list(lines.values())


def _canaries(result: CanaryResult) -> list[Line]:
    found = []
    for thing, sentence in zip(result.things, result.sentences, strict=True):
        once, own = result.canary(thing, result.insertions[0]), result.record(thing)
        if own is not None and own.attack == SEEN:
            asked, by, advantage = "own items", "reading", _beyond(own.produced, 0.0)
        elif once is not None:
            times = counted(result.insertions[0], "time")
            asked, by = f"a secret ({result.design}) that stood there {times}", "exposure"
            advantage = _beyond(once.pooled.against_public, result.guessing, result.most)
        else:
            continue
        found.append(Line(result.experiment, asked, thing, by, advantage, sentence))
    return found


def _backdoor(result: BackdoorResult) -> list[Line]:
    """A release that a device refuses gives nothing away; what it would have is what checks are for."""
    most = result.insertions[-1]
    times = counted(most, "time")
    told = [
        (one, row)
        for one in result.judged[1:]
        if (row := result.canary(one.thing, most)) is not None
    ]
    found = []
    for (one, row), sentence in zip(told, result.sentences, strict=True):
        reached = _beyond(row.pooled.against_public, result.guessing, result.most)
        refused = one.refused == one.seeds
        found.append(
            Line(
                *(result.experiment, f"a secret that stood there {times}", one.thing),
                "exposure",
                None if refused else reached,
                sentence,
                reached if refused else None,
            )
        )
    return found


def _deletion(result: DeletionResult) -> list[Line]:
    """What is seen after deletion beside what was before, and what both releases give away."""
    rows = [row for row in result.attacks if row.control == "none"]
    things = list(dict.fromkeys(row.thing for row in rows))
    both = [row for row in rows if row.scope == "both"]
    sentences = iter(result.sentences)
    found = []
    for thing in things:
        own = [row for row in rows if row.thing == thing]
        before, after = (deletion_schema.strongest(own, scope) for scope in ("before", "after"))
        found.append(
            Line(
                *("deletion", f"{after.level}, deleted", thing, after.attack),
                _of_auc(after.pooled),
                next(sentences),
                _of_auc(before.pooled),
            )
        )
    for row in both:
        asked = f"{row.level}, deleted, by both releases"
        found.append(
            Line("deletion", asked, row.thing, row.attack, _of_auc(row.pooled), next(sentences))
        )
    return found


def _epsilon(result: EpsilonResult) -> list[Line]:
    """Every promise beside training without one."""
    plain = next((row for row in result.rows if row.noise_multiplier is None), None)
    return [
        Line(
            *("epsilon", "person", f"release, {row.thing}", "loss-minus-public"),
            _of_auc(row.pooled.membership),
            sentence,
            None if plain is None or row is plain else _of_auc(plain.pooled.membership),
        )
        for row, sentence in zip(result.rows, result.sentences, strict=True)
    ]


def _poisoning(result: PoisonResult) -> list[Line]:
    bare = [row for row in result.rows if row.control == "none" and row.defence == "none"]
    return [
        Line(
            *("poisoning", f"{row.malicious} of {result.users} malicious", row.thing, "trigger"),
            _beyond(row.pooled.gain, 0.0),
            sentence,
        )
        for row, sentence in zip(bare, result.sentences, strict=True)
    ]
