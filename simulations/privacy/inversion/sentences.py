"""What the attacks found, in sentences for a record of processing."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.privacy.results.rates import Rated, strongest
from simulations.privacy.results.sentences import SIGNIFICANT

UPLOADS = {
    "router": "the gradient of the LoRA-aware router, whose receiver knows the participant's adapter",
    "router, adapter unknown": "the gradient of the LoRA-aware router, whose receiver knows no adapter",
    "lora": "the gradient of a shared LoRA",
    "lora-update": "the whole local update of a shared LoRA",
}
SCOPES = {
    "candidates": ("picked a text of the batch out of 100 candidates for {} of people", "is"),
    "tokens": ("named {} of a batch's words", "by frequency is"),
    "answer": ("named {} of the words of a batch's answers", "by frequency is"),
}


def sentences(rows: Sequence[Rated]) -> list[str]:
    """A sentence for every upload and question, of the attack that found most."""
    return [_sentence(row) for row in strongest(rows).values()]


def _sentence(row: Rated) -> str:
    found = row.pooled
    did, guessing = SCOPES[row.scope]
    attack, _, defence = row.attack.partition(", ")
    share = f"{found.value:.0%} (95% interval {found.low:.0%} to {found.high:.0%})"
    name, _, batch = row.thing.partition("; ")
    said = (
        f"From {UPLOADS[name]} ({batch}, {defence}), were it uploaded, an attacker ({attack}) "
        f"{did.format(share)}; guessing {guessing} right for {row.chance:.0%}"
    )
    if found.value > row.chance and row.p_holm < SIGNIFICANT:
        return f"{said}: it gives texts away to some degree."
    return f"{said}: these data do not show that it gives texts away, nor do they rule it out."
