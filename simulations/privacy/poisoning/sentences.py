"""What poisoning achieved, in sentences for a record of processing: one a thing and number of users."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.privacy.poisoning.defences import NONE
from simulations.privacy.results.poison_schema import PoisonNumbers, PoisonRow
from simulations.privacy.results.sentences import SIGNIFICANT

NAMES = {
    "population": "the population model (stage 1)",
    "experts": "the experts (stage 2)",
    "router": "the LoRA-aware router alone",
}


def sentences(rows: Sequence[PoisonRow], users: int) -> list[str]:
    """Every attack without defence, with what each defence left of it."""
    return [
        _sentence(row, _defended(rows, row), users)
        for row in rows
        if row.control == "none" and row.defence == NONE
    ]


def _defended(rows: Sequence[PoisonRow], bare: PoisonRow) -> list[PoisonRow]:
    same = bare.thing, bare.malicious, "none"
    return [
        row
        for row in rows
        if (row.thing, row.malicious, row.control) == same and row.defence != NONE
    ]


def _sentence(row: PoisonRow, defended: Sequence[PoisonRow], users: int) -> str:
    found = row.pooled
    who = "One malicious pooled user" if row.malicious == 1 else f"{row.malicious} malicious users"
    said = (
        f"{who} of {users} made {NAMES[row.thing]} give the answer of their choice to "
        f"{found.trigger.value:.0%} of other people's questions with their trigger word "
        f"(95% interval {found.trigger.low:.0%} to {found.trigger.high:.0%}; {found.before.value:.0%} "
        f"before, {found.other.value:.0%} with another word), {_loss(found)}"
    )
    left = [f"{one.pooled.trigger.value:.0%} with the defence '{one.defence}'" for one in defended]
    said += f"; it was {', '.join(left)}" if left else ""
    if found.gain.value > 0 and row.p_holm < SIGNIFICANT:
        return f"{said}: pooled data can plant such an answer."
    return f"{said}: these data do not show that this planted the answer, nor do they rule it out."


def _loss(found: PoisonNumbers) -> str:
    change = found.loss_change
    return (
        f"and changed the loss of ordinary questions by {change.value:+.3f} nats a token "
        f"(95% interval {change.low:+.3f} to {change.high:+.3f})"
    )
