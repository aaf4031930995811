"""What the attacks found, in sentences for a record of processing."""

from __future__ import annotations

from collections.abc import Sequence

from simulations.privacy.results.rates import Rated, strongest
from simulations.privacy.results.sentences import SIGNIFICANT

NAMES = {
    "embedding": "a leaked embedding",
    "user-routing": "the embedding's part of the routing weights",
    "routing": "a log of mean routing weights",
    "adapter": "what a leaked adapter computes (B A)",
    "adapter-factors": "a leaked adapter's factors",
    "adapter-factors, seed kept": "a leaked adapter's factors, both begun from the same seed",
    "answers": "the answers of a person's server to fixed questions",
}
SCOPES = {
    "same-release": "trained twice over one release on different texts",
    "other-seed": "trained over two releases of the same people with other seeds",
    "more-people": "trained over two releases, the second of more people",
    "two-tasks": "trained for two tasks",
}


def sentences(rows: Sequence[Rated]) -> list[str]:
    """A sentence for every thing and question, of the attack that found most."""
    return [_sentence(row) for row in strongest(rows).values()]


def _sentence(row: Rated) -> str:
    found = row.pooled
    shares = f"{found.value:.0%} of people (95% interval {found.low:.0%} to {found.high:.0%}"
    if row.scope == "group":
        said = (
            f"From {NAMES[row.thing]}, an attacker named the group that a person belongs to for {shares}; "
            f"naming the largest group is right for {row.chance:.0%})"
        )
        shows = "reveals the group of"
    else:
        said = (
            f"Given {NAMES[row.thing]} of everybody, {SCOPES[row.scope]}, an attacker found the same "
            f"person first for {shares}; guessing finds {row.chance:.1%})"
        )
        shows = "links"
    if found.value > row.chance and row.p_holm < SIGNIFICANT:
        return f"{said}: it {shows} people to some degree."
    return f"{said}: these data do not show that it {shows} people, nor do they rule it out."
