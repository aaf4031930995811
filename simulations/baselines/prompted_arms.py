"""All prompted arms, by name.

`+rag-K` is trained and asked with items before every question, as in OPPU; `-asked` says that the state
was trained without, and is only asked so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proper_model.tasks import ALL
from simulations.baselines.profiles import counted_profiles, written_profiles
from simulations.baselines.prompted import Asked, PromptedArm

ICL_ITEMS = 4
RETRIEVED = (1, 2, 4)
OVER_ADAPTERS = (1, 4)
PAG_ITEMS = 1  # as PROPER quotes OPPU


def _all() -> Iterator[PromptedArm]:
    yield PromptedArm("icl", ICL_ITEMS, Asked.drawn)
    for k in RETRIEVED:
        yield PromptedArm(f"rag-{k}", k)
    yield PromptedArm("full-history", ALL)
    yield PromptedArm("pag-counted", PAG_ITEMS, profile=counted_profiles)
    yield PromptedArm("pag-written", PAG_ITEMS, profile=written_profiles)
    for under in ("oppu-mlp", "stage3"):
        for k in OVER_ADAPTERS:
            yield PromptedArm(f"{under}+rag-{k}", k, under=under, trained_so=True)
            yield PromptedArm(f"{under}+rag-{k}-asked", k, under=under)
        yield PromptedArm(f"{under}+pag-asked", PAG_ITEMS, profile=counted_profiles, under=under)


PROMPTED: Mapping[str, PromptedArm] = {arm.name: arm for arm in _all()}
