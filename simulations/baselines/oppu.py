"""OPPU: one private LoRA a user on attention, over the population's model (arXiv 2402.04401).

    h = W_p x + s B_u A_u x     on k and v (`oppu-kv`) or q and v (`oppu-qv`) of every block

Rank 8, alpha 8, dropout .05 (docs/method.md 2.3). Its population LoRA is the release's stage 1, so
that all arms begin with the same model.

DEVIATION: OPPU trains two epochs at one rate, whatever the user's items say. Here a user's LoRA is
tuned as PROPER's arm `oppu-mlp` is: the profile's learning rates, epochs and patience, chosen by the
user's held-back items, then trained again on all of them. Else it would lose by that alone.

A user has 8 (i + o) numbers of their own in each linear from width i to o: 49,152 over mini-llama,
where `oppu-mlp` has 69,120.
"""

from __future__ import annotations

from dataclasses import dataclass

from proper_model.evaluation import Prediction
from proper_model.model import AdaptedModel
from simulations.baselines.arm import Benchmark
from simulations.baselines.under_pass import (
    PLAIN,
    Wording,
    own_pass,
    predict_under,
    private_model,
    split_users,
    train_loras,
)

RANK, ALPHA, DROPOUT = 8, 8.0, 0.05
TARGETS = {"oppu-kv": ("k_proj", "v_proj"), "oppu-qv": ("q_proj", "v_proj")}


@dataclass(frozen=True)
class Oppu:
    """Private LoRAs trained from each test user's own items.

    Attributes:
        targets: names of the adapted linears; None: the feed-forward's, at the release's rank, alpha
            and dropout, which is `oppu-mlp`.
        wording: of items and queries; retrieval puts own items before them.
    """

    name: str
    targets: tuple[str, ...] | None
    wording: Wording = PLAIN

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query. Raises DataError for an item that does not fit the task."""
        model, dropout = self._model(given)
        samples = split_users(given, given.users, self.wording)
        train_loras(given, model, samples, phase=self.name, dropout=dropout)
        return predict_under(given, model, own_pass, name=self.name, wording=self.wording)

    def _model(self, given: Benchmark) -> tuple[AdaptedModel, float]:
        if self.targets is None:
            return given.release.model(), given.release.settings.user.dropout
        return private_model(given, self.targets, rank=RANK, alpha=ALPHA), DROPOUT


def oppu(name: str) -> Oppu:
    """`oppu-kv` or `oppu-qv`."""
    return Oppu(name, TARGETS[name])
