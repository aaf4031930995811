"""Computing in bfloat16 with float32 adapters: how far from float32, and from training alone.

Stated tolerances. A cohort against each user alone, both in bfloat16: a row's products are rounded
alike whatever the company, so what remains is sums over other shapes, and after 30 steps adapters
agree to a thousandth of the way they moved. Against float32, where every activation has 16 bits less, to
15 % of the way.
"""

from __future__ import annotations

import dataclasses

import torch

from proper_model.engine.cohort import Cohort
from proper_model.engine.trials import Trial, TrialSettings
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.presets import UserRouting
from tests.tiny import adapted, embeddings_of, encoder, samples

SETTINGS = TrialSettings(
    epochs=6,
    batch_size=2,
    dropout=0.1,
    weight_decay=0.01,
    warmup_ratio=0.1,
    max_grad_norm=0.05,
    tokens_per_step=60,
)
USERS = (0, 1, 2)


def trained(users: tuple[int, ...], dtype: torch.dtype) -> tuple[Cohort, list[torch.Tensor]]:
    """Adapters of some users after 30 steps, and where they started."""
    model = adapted(users=1)
    model.float()
    model.base.to(dtype)
    model.lora = model.new_user_lora([0] * len(users))
    embeddings = embeddings_of(model, 3).float()[list(users)]

    def start(number: int) -> list[torch.Tensor]:
        fresh = model.new_user_lora([300 + users[number]])
        return [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]

    def make_pass(rows: torch.Tensor, residents: torch.Tensor) -> Pass:
        return personal_pass(
            rows, embeddings=embeddings[residents], routing=UserRouting.SUMMED, experts=True
        )

    trials = [Trial(samples(10, seed=100 + u), (), 1e-2, 300 + u) for u in users]
    made = Cohort(
        model,
        encoder(),
        trials,
        [*model.lora.a, *model.lora.b],
        start,
        make_pass,
        dataclasses.replace(SETTINGS),
    )
    results = made.run()
    assert not any(result.failed for result in results)
    assert made.steps == [30] * len(users)
    assert all(best.dtype is torch.float32 for best in made.best)
    begun = [torch.stack(part) for part in zip(*(start(u) for u in range(len(users))), strict=True)]
    return made, begun


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor], begun: list[torch.Tensor]) -> float:
    """Distance of two ends by the way from the start."""

    def norm(pairs: zip[tuple[torch.Tensor, torch.Tensor]]) -> float:
        return float(torch.cat([(a - b).flatten() for a, b in pairs]).norm())

    return norm(zip(ours, theirs, strict=True)) / norm(zip(theirs, begun, strict=True))


def test_a_bfloat16_cohort_is_each_user_alone_to_a_thousandth() -> None:
    together, _ = trained(USERS, torch.bfloat16)
    for number, user in enumerate(USERS):
        alone, begun = trained((user,), torch.bfloat16)
        ours = [best[number : number + 1] for best in together.best]
        assert apart(ours, alone.best, begun) < 0.001


def test_bfloat16_ends_near_float32() -> None:
    half, _ = trained(USERS, torch.bfloat16)
    full, begun = trained(USERS, torch.float32)
    distance = apart(half.best, full.best, begun)
    assert 0 < distance < 0.15
