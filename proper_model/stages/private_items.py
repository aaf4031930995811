"""Stage 3c under privacy of single items: one training, whose recipe no item has a say in.

What the other ways of stage 3c choose by own items, the learning rate, how long, whether to keep the adapter at
all, is fixed before. The trained adapter is kept as it is. Source: docs/method.md 1.13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.folds import Samples
from proper_model.engine.item_training import ItemTraining
from proper_model.engine.user_privacy import Chance
from proper_model.model.passes import Pass
from proper_model.model.user_lora import UserLora
from proper_model.settings.privacy import ItemPrivacy
from proper_model.stages.private_lora import Factors, LoraFit, LoraTrials


def train_item_private(
    stage: LoraTrials,
    users: Sequence[Samples],
    trained: Sequence[bool],
    privacy: ItemPrivacy,
    learning_rate: float,
    *,
    chance: Chance | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[UserLora, list[LoraFit]]:
    """Train one after another; leaves `stage.model.lora` holding one slot a user, which is also returned.

    Args:
        stage: with embeddings that owe nothing to the items.
        trained: whose adapter is trained; all others have one that changes nothing.
        chance: as of `ItemTraining`.
    """
    kept: list[Factors] = []
    for u, (user, trains) in enumerate(zip(users, trained, strict=True)):
        start = stage.fresh(user.seed) if stage.starts is None else stage.starts[u]
        if trains:
            training = ItemTraining(
                stage.model,
                stage.encoder,
                user.items,
                start,
                _rows_of_one(stage, u),
                stage.settings,
                privacy,
                learning_rate,
                chance=chance,
                checkpoint=beside(checkpoint, f".{u}"),
            )
            start = training.run(stage.progress)
        kept.append(start)
    return stage.hold(kept), [_fit(trains, privacy, learning_rate) for trains in trained]


def _rows_of_one(stage: LoraTrials, user: int) -> Callable[[Tensor], Pass]:
    """Passes whose rows are all one user's, each with a slot of its own."""

    def make(slots: Tensor) -> Pass:
        own = stage.embeddings
        return stage.personal(slots, None if own is None else own[[user] * len(slots)])

    return make


def _fit(trained: bool, privacy: ItemPrivacy, learning_rate: float) -> LoraFit:
    """No loss is told: whatever says how well the items fit says something of them."""
    none = float("nan")
    if not trained:
        return LoraFit(none, 0, none, none, trained=False, failed=False)
    return LoraFit(
        learning_rate=learning_rate,
        epochs=round(privacy.sampling_rate * privacy.steps),
        loss_before=none,
        loss_after=none,
        trained=True,
        failed=False,
    )
