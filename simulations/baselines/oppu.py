"""OPPU: one private LoRA a user on attention, over the population's model (arXiv 2402.04401).

    h = W_p x + s B_u A_u x     on k and v (`oppu-kv`) or q and v (`oppu-qv`) of every block

Rank 8, alpha 8, dropout .05 (docs/method.md 2.4). Its population LoRA is the release's stage 1, so
that all arms begin with the same model.

DEVIATION: OPPU trains two epochs at one rate, whatever the user's items say. Here a user's LoRA is
tuned as PROPER's arm `oppu-mlp` is: the profile's learning rates, epochs and patience, chosen by the
user's held-back items, then trained again on all of them. Else it would lose by that alone.

`+rag-K` is trained and asked with K own items before every question, as in OPPU with retrieval.

A user has 8 (i + o) numbers of their own in each linear from width i to o: 49,152 over mini-llama,
where `oppu-mlp` has 69,120.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from proper_model.evaluation import Prediction
from proper_model.tasks import Depth
from simulations.baselines.arm import Benchmark
from simulations.baselines.prompted import with_room
from simulations.baselines.under_pass import (
    own_pass,
    predict_under,
    private_model,
    split_users,
    train_loras,
)

TARGETS = {"oppu-kv": ("k_proj", "v_proj"), "oppu-qv": ("q_proj", "v_proj")}
RETRIEVED = (1, 4)


@dataclass(frozen=True)
class Oppu:
    """Private LoRAs trained from each test user's own items.

    Attributes:
        targets: names of the adapted linears.
        before: how many own items stand before every item and question.
    """

    name: str
    targets: tuple[str, ...]
    before: Depth = 0
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.05

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query. Raises DataError for an item that does not fit the task."""
        if self.before:
            given = replace(given, release=with_room(given.release, self.before))
        model = private_model(given, self.targets, rank=self.rank, alpha=self.alpha)
        samples = split_users(given, given.users)
        train_loras(given, model, samples, phase=self.name, dropout=self.dropout)
        return predict_under(given, model, own_pass, name=self.name)


def _all() -> Iterator[Oppu]:
    for name, targets in TARGETS.items():
        yield Oppu(name, targets)
        for k in RETRIEVED:
            yield Oppu(f"{name}+rag-{k}", targets, before=k)


OPPU: Mapping[str, Oppu] = {arm.name: arm for arm in _all()}
