"""What privacy costs and what audits saw, in sentences for a record of processing."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.privacy.results.epsilon_schema import Bound, EpsilonRow
from simulations.privacy.results.sentences import SIGNIFICANT


def sentences(rows: Sequence[EpsilonRow], candidates: int, delta: float) -> list[str]:
    """A sentence for every row that promises something, and one for what it is compared with."""
    return [_sentence(row, candidates, delta) for row in rows]


def _sentence(row: EpsilonRow, candidates: int, delta: float) -> str:
    found = row.pooled
    if row.epsilon is not None:
        trained = (
            f"Trained so that what is released is differentially private for each pooled user, about half of {candidates} candidates "
            f"(epsilon {row.epsilon:.2g}, delta {delta:.2g})"
        )
    elif row.noise_multiplier is None:
        trained = f"Trained on about half of {candidates} candidates without privacy"
    else:
        trained = f"Trained with every pooled user, about half of {candidates} candidates, clipped and no noise, which promises nothing"
    gain = found.gain
    useful = (
        f"stages 1 and 2 take {gain.value:.3f} nats a token (95% interval {gain.low:.3f} to {gain.high:.3f}) off "
        "the public base's loss for people who are new"
    )
    if not (gain.value > 0 and row.p_holm < SIGNIFICANT):
        useful += ", which these data do not tell from nothing"
    if row.noise_multiplier is not None:
        useful += f", {found.kept.value:.0%} of what they take off without privacy"
    auc = found.membership
    seen = (
        f"an attacker with everybody's texts told who took part in {auc.auc:.0%} of pairs (95% interval "
        f"{auc.low:.0%} to {auc.high:.0%}; guessing gives 50%), which shows {_shown(found.people)}"
    )
    if found.crafted is not None:
        seen += f"; users with crafted gradients show {_shown(found.crafted)}"
    return f"{trained}, {useful}; {seen}."


def _shown(bound: Bound) -> str:
    if not bound.epsilon:
        return "no epsilon above 0"
    return f"an epsilon of {bound.epsilon:.2f} at least"
