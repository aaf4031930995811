"""What deletion left, in sentences for a record of processing."""

from __future__ import annotations

from collections.abc import Sequence

from proper_model.tasks import counted
from simulations.privacy.results.deletion_schema import (
    DeletionAttack,
    Exactness,
    Remains,
    strongest,
)
from simulations.privacy.results.sentences import NAMES, SIGNIFICANT

WHO = {"person": "people who withdrew", "record": "items that were forgotten"}
WHEN = {"person": "withdrawal", "record": "forgetting"}
NOT_PUBLISHED = "Embeddings were not published, so not measured: too few people trained for their mean to hide each."


def sentences(
    attacks: Sequence[DeletionAttack], exact: Sequence[Exactness], left: Sequence[Remains]
) -> list[str]:
    """One a thing for before and after, one for both releases, one a comparison, one a look."""
    claims = [row for row in attacks if row.control == "none"]
    things = dict.fromkeys(row.thing for row in claims)
    said = [_before_and_after([row for row in claims if row.thing == thing]) for thing in things]
    said += [_both(row) for row in claims if row.scope == "both"]
    said += [_exact(row) for row in exact]
    for run in dict.fromkeys(row.run for row in left):
        said.append(_left([row for row in left if row.run == run]))
    return said


def _before_and_after(rows: Sequence[DeletionAttack]) -> str:
    before, after = strongest(rows, "before"), strongest(rows, "after")
    who, when = WHO[before.level], WHEN[before.level]
    others = (
        "people who were never pooled" if before.level == "person" else "items never trained on"
    )
    if _shown(after):
        end = "something is still seen"
    elif _shown(before):
        end = "these data do not show that anything is left, nor do they rule it out"
    else:
        end = (
            "these data do not show that it told anything before either, so of what is left they say "
            "nothing"
        )
    name = NAMES["adapter-embedding" if before.thing == "adapter" else before.thing]
    return (
        f"From {name}, an attacker told {who} from {others} in {_pairs(before)} of pairs before "
        f"{when} and in {_pairs(after)} after it (guessing gives 50%): {end}."
    )


def _both(row: DeletionAttack) -> str:
    return (
        f"Whoever has both releases told who withdrew, by {NAMES[row.thing]}, in {_pairs(row)} of pairs: "
        + (
            "the old release gives away who left."
            if _shown(row)
            else "these data do not show that it gives away who left, nor do they rule it out."
        )
    )


def _shown(row: DeletionAttack) -> bool:
    return row.pooled.auc > 0.5 and row.p_holm < SIGNIFICANT


def _pairs(row: DeletionAttack) -> str:
    found = row.pooled
    return f"{found.auc:.0%} ({found.low:.0%} to {found.high:.0%})"


def _exact(row: Exactness) -> str:
    what = "releases" if row.thing == "release" else "adapters"
    if not row.different:
        return (
            f"Of {row.compared} {row.thing if row.compared == 1 else what} after deletion, none differs in any "
            "bit from one that never had the data."
        )
    return (
        f"Of {row.compared} {what} after deletion, {row.different} differ from one that never had the data, "
        f"by {row.distance:.2g} at most (deletion itself changed {row.change:.2g})."
    )


def _left(rows: Sequence[Remains]) -> str:
    who = "people who withdrew" if rows[0].run == "pooled" else "an item that was forgotten"
    gone = sum(row.before for row in rows) - sum(min(row.before, row.after) for row in rows)
    still = [row for row in rows if row.after]
    where = "; ".join(f"{row.place} ({counted(row.after, 'time')}: {row.what})" for row in still)
    said = f"Marks of {who} were found {counted(gone, 'time')} less after deletion"
    return f"{said}; what is left: {where or 'nothing'}."
