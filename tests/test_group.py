"""Stage 2: what trains, what must not, and how the constraint loss gets in."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from proper_model.engine.pooled_settings import PassTokens
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.settings.presets import Constraint, UserRouting, preset
from proper_model.settings.profile import GroupSettings, StageSettings, UserSettings
from proper_model.stages.group import group_parameters, train_group, validation_loss
from proper_model.stages.pooled_users import PooledUser
from tests.tiny import adapted, encoder, samples

SETTINGS = StageSettings(
    name="test",
    tokens_per_step=200,
    group=GroupSettings(
        learning_rate=1e-2, embedding_learning_rate=5e-2, epochs=2, batch_size=4, dropout=0.1
    ),
    user=UserSettings(embedding_epochs=2),
)


def people(count: int, seed: int = 0) -> list[PooledUser]:
    return [
        PooledUser(samples(5, seed + 10 * u), samples(2, seed + 10 * u + 1)) for u in range(count)
    ]


def trained(
    form: Constraint = Constraint.AGGREGATE, weight: float = 0.1, preset_name: str = "default"
) -> tuple[AdaptedModel, torch.Tensor]:
    model = adapted(dataclasses.replace(preset(preset_name), constraint=form, name="test"))
    group = dataclasses.replace(SETTINGS.group, constraint_weight=weight)
    settings = dataclasses.replace(SETTINGS, group=group)
    table, _ = train_group(model, encoder(), people(4), people(2, 500), settings, seed=0)
    return model, table


def test_held_back_users_leave_no_trace_in_the_experts() -> None:
    model = adapted()
    shared = group_parameters(model)
    for parameter in shared:
        parameter.requires_grad_(True)
    loss = validation_loss(
        *(model, encoder(), people(2, 500), torch.zeros(model.tables, 64), SETTINGS, 0),
        tokens=PassTokens.of(SETTINGS.tokens_per_step),
    )
    assert loss.shape == (2,)  # a loss a person
    assert bool((loss > 0).all())
    assert all(parameter.grad is None for parameter in shared)


def test_stage_2_trains_experts_routers_and_embeddings_and_nothing_else() -> None:
    before = adapted()
    model, table = trained()
    names = {name for name, _ in model.named_parameters()}
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {
        n for n in names if n.startswith("experts.") or n.endswith((".text", ".user"))
    }
    assert table.shape == (4, model.tables, 64)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("form", [Constraint.AGGREGATE, Constraint.PAIRS])
@pytest.mark.parametrize("preset_name", ["default", "device"])
def test_without_weight_the_constraint_changes_no_bit_and_with_weight_it_does(
    form: Constraint, preset_name: str
) -> None:
    none, table = trained(Constraint.NONE, preset_name=preset_name)
    zero, zero_table = trained(form, weight=0.0, preset_name=preset_name)
    heavy, heavy_table = trained(form, weight=10.0, preset_name=preset_name)
    for a, b in zip(none.parameters(), zero.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(table, zero_table)
    assert not torch.equal(table, heavy_table)
    assert heavy is not none


def test_capped_users_keep_their_queries_and_most_recent_items() -> None:
    history, queries = samples(10, 1), samples(3, 2)
    user = PooledUser(history, queries)
    assert user.capped(5) == (*history[-2:], *queries)
    assert user.capped(2) == queries[:2]
    assert user.capped(100) == (*history, *queries)


def end_to_end(group: GroupSettings) -> tuple[AdaptedModel, torch.Tensor, list[tuple[bool, int]]]:
    """Stage 2 end to end; the passes it made: whether with LoRAs, and how many slots they had."""
    structure = dataclasses.replace(
        preset("default"), name="joint", user_routing=UserRouting.USER_AWARE, end_to_end=True
    )
    model = adapted(structure, noisy=False)
    passes: list[tuple[bool, int]] = []
    answer = model.answer_loss

    def noted(batch: Batch, now: Pass) -> torch.Tensor:
        passes.append((now.lora, len(model.lora.b[0])))
        assert now.routing is UserRouting.USER_AWARE
        loss = answer(batch, now)
        if now.lora:
            grown.append(bool(model.lora.b[0].any()))
        return loss

    grown: list[bool] = []
    object.__setattr__(model, "answer_loss", noted)
    settings = dataclasses.replace(SETTINGS, group=group)
    table, _ = train_group(model, encoder(), people(4), people(2, 500), settings, seed=0)
    assert grown[0] is False
    assert grown[-1] is True  # the LoRAs train beside the experts
    return model, table, passes


def test_end_to_end_trains_a_lora_of_every_pooled_user_beside_the_experts() -> None:
    model, table, passes = end_to_end(SETTINGS.group)
    assert (True, 4) in passes
    assert not any(lora for lora, slots in passes if slots != 4)
    assert len(model.lora.b[0]) == 0  # thrown away: whoever is personalized has 3c
    staged, staged_table = trained(weight=SETTINGS.group.constraint_weight)
    assert not torch.equal(model.expert(0).b, staged.expert(0).b)
    assert not torch.equal(table, staged_table)
    again, _, _ = end_to_end(SETTINGS.group)
    assert torch.equal(again.expert(0).b, model.expert(0).b)
