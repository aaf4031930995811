"""What canaries found, in sentences for a record of processing: one a thing."""

from __future__ import annotations

from simulations.privacy.memorization.prompts import METHODS
from simulations.privacy.results.canary_schema import CanaryResult
from simulations.privacy.results.canary_show import percent
from simulations.privacy.results.sentences import SIGNIFICANT

HELD = {
    "adapter": "a leaked private adapter with its embedding",
    "release": "the release",
}
SENT = {
    "rag-1": "the one own item that fits best",
    "rag-4": "the four own items that fit best",
    "pag-counted": "a profile that is counted from own items, and the one that fits best,",
    "full-history": "all own items that there is room for",
}


def sentences(result: CanaryResult) -> list[str]:
    """Every thing's sentence, in the order of the file."""
    return [_seen(result, t) if t in METHODS else _held(result, t) for t in result.things]


def _held(result: CanaryResult, thing: str) -> str:
    said, shown = [], False
    for count in result.insertions:
        row = result.canary(thing, count)
        if row is None:
            continue
        found = row.pooled
        shown |= found.against_public.value > result.guessing and row.p_holm < SIGNIFICANT
        said.append(
            f"{_times(count)}: {found.against_public.value:.1f} bits (95% interval "
            f"{found.against_public.low:.1f} to {found.against_public.high:.1f}), given word for word "
            f"in {percent(found.greedy)} of cases"
        )
    verdict = (
        "it reveals such texts to some degree."
        if shown
        else "these data do not show that it reveals such texts, nor do they rule it out."
    )
    return (
        f"From {HELD[thing]}, the exposure of a random secret in a person's items, which is at most "
        f"{result.most:.1f} bits and {result.guessing:.1f} by guessing, was, where it stood there "
        f"{'; '.join(said)}: {verdict}"
    )


def _seen(result: CanaryResult, thing: str) -> str:
    record = result.record(thing)
    said = [
        f"{percent(row.pooled.greedy)} of secrets that stood there {_times(count)}"
        for count in result.insertions
        if (row := result.canary(thing, count)) is not None
    ]
    own = "" if record is None else f"{percent(record.produced)} of their items and "
    return (
        f"A server that people ask with {SENT[thing]} before each of {result.queries:.0f} questions saw "
        f"in clear {own}{', '.join(said)}."
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
