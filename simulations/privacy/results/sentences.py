"""What an attack found, in a sentence for a record of processing."""

from __future__ import annotations

from simulations.privacy.results.schema import MERGED, Measured
from simulations.privacy.statistics.measures import Advantage

SIGNIFICANT = 0.05
NAMES = {
    "population": "the released base with the population LoRA",
    "experts": "the released experts and routers",
    "embeddings": "the released distribution of users' embeddings",
    "router-cohort": "the released LoRA-aware router",
    "common-start": "a common start of private adapters, if it is released",
    "inferred": "what a release infers embeddings with, its base and its experts",
    "adapter": "a leaked private adapter without the embedding",
    "adapter-embedding": "a leaked private adapter with the embedding",
    "adapter-dp": "a leaked private adapter that was trained under privacy of items, epsilon 8",
    "export": "a merged export",
    "answers": "the answers of a person's own server",
    MERGED: "an adapter that one person has of several others' data",
}
WHAT = {
    "record": "whether a given text was among those it was trained on",
    "person": "whether a person was trained on, from texts that may have been used",
    "fresh": "whether a person was trained on, from texts of that person that were not used",
}


def sentence(thing: str, level: str, found: Advantage, p_holm: float) -> str:
    """One plain sentence: thing, question, chance of telling a pair apart, and its interval."""
    pairs = (
        f"told a member from a non-member in {found.auc:.0%} of pairs "
        f"(95% interval {found.low:.0%} to {found.high:.0%}; guessing gives 50%)"
    )
    said = f"From {NAMES[thing]}, an attacker who asks {WHAT[level]}, {pairs}"
    if found.auc > 0.5 and p_holm < SIGNIFICANT:
        return f"{said}: it reveals this to some degree."
    return f"{said}: these data do not show that it reveals this, nor do they rule it out."


def bias_sentence(found: Measured) -> str:
    """What a protocol that chooses members by similarity measures where there is nothing to find."""
    return (
        "PriME's published protocol, which calls those most similar to a person members and the others "
        f"non-members, has an AUC of {found.auc:.3f} [{found.low:.3f}, {found.high:.3f}] on a model "
        f"that was trained on none of them: a bias of {found.auc - 0.5:+.3f}, not a leak."
    )
