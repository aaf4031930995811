"""How much of what experts have in common a release keeps: the least loss of newcomers, by a plain loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from proper_model.engine.judging import held_back_losses
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import base_pass, group_pass
from proper_model.settings.presets import preset
from proper_model.settings.profile import CalibrationSettings, GroupSettings, StageSettings
from proper_model.stages.common_share import SHARES, choose_common_share
from proper_model.stages.inferred_embedding import (
    InferredEmbedding,
    infer_embeddings,
    inferred_shapes,
)
from proper_model.stages.pooled_users import PooledUser
from tests.tiny import adapted, encoder, exact_norms, passes, samples

LENGTHS = (1, 3)
SETTINGS = StageSettings(
    "shares",
    tokens_per_step=2000,
    group=GroupSettings(max_items_per_user=4),
    calibration=CalibrationSettings(people=10, lengths=LENGTHS),
)


def setting() -> tuple[AdaptedModel, InferredEmbedding, list[PooledUser]]:
    """Five people: of six, two and no items; one without queries; experts that move answers."""
    model = adapted(preset("calibrated"))
    exact_norms(model.base)
    drawn = {
        name: torch.rand(shape, generator=torch.Generator().manual_seed(1)).double() + 0.5
        for name, shape in inferred_shapes(model.structure, 12).items()
    }
    inferred = InferredEmbedding.from_tensors(drawn).requires_grad_(False)
    items = samples(30, 3)
    people = [
        PooledUser(tuple(items[5 * u : 5 * u + count]), tuple(items[20 + u : 20 + u + asked]))
        for u, (count, asked) in enumerate([(5, 3), (2, 1), (0, 2), (4, 0)])
    ]
    return model, inferred, people


def loss_of(model: AdaptedModel, embedding: Tensor, queries: Sequence[Encoded]) -> float:
    make = partial(group_pass, embeddings=embedding)
    return float(held_back_losses(model, encoder(), [(0, q) for q in queries], make, 100).mean())


def test_the_share_of_least_loss_is_chosen_as_by_a_loop_over_people_and_lengths() -> None:
    model, inferred, people = setting()
    before = model.structure
    chosen, told = choose_common_share(model, encoder(), people, inferred, SETTINGS)
    assert model.structure == before
    expected = {}
    for share in SHARES:
        model.structure = dataclasses.replace(before, common_share=share)
        by_person = []
        for person in people:
            if not person.queries:
                continue
            history = person.history[-4:]
            cuts = [history[:0], *(history[-n:] for n in LENGTHS if len(history) >= n), history]
            losses = []
            for cut in cuts:
                own, _ = infer_embeddings(model, encoder(), inferred, [cut], passes(2000))
                losses.append(loss_of(model, own, person.queries))
            by_person.append(sum(losses) / len(losses))
        expected[f"{share:g}"] = sum(by_person) / len(by_person)
    assert told["losses"] == pytest.approx(expected, abs=1e-9)
    assert len({round(loss, 6) for loss in expected.values()}) == len(SHARES)
    assert expected[f"{chosen:g}"] == min(expected.values())
    assert (told["chosen"], told["people"]) == (chosen, 3)


def test_where_every_share_is_as_good_the_papers_sum_stays() -> None:
    model, inferred, people = setting()
    for number in range(len(model.sites)):
        model.expert(number).b.data.zero_()
    assert choose_common_share(model, encoder(), people, inferred, SETTINGS)[0] == 1.0


def test_where_what_experts_have_in_common_only_harms_nothing_of_it_is_kept() -> None:
    """All experts alike, a step uphill: their mixture is all they have, so a share of 0, stage 1, is best."""
    model, inferred, people = setting()
    asked = [person for person in people if person.queries]
    queries = [query for person in asked for query in person.queries]
    nobody = torch.zeros(1, 1, 8, dtype=torch.float64)
    factors = [model.expert(number).b for number in range(len(model.sites))]
    for number, b in enumerate(factors):
        a = model.expert(number).a.data
        a.copy_(a[:1].expand_as(a))
        b.data.zero_()
    model.requires_grad_(True)
    batch = encoder().batch(queries, [0] * len(queries), device=model.device)
    losses = model.answer_loss(batch, group_pass(batch.slots, nobody))
    uphill = torch.autograd.grad(losses.mean(), factors)
    model.requires_grad_(False)
    for b, gradient in zip(factors, uphill, strict=True):
        b.data.copy_(gradient / gradient.norm())
    chosen, told = choose_common_share(model, encoder(), people, inferred, SETTINGS)
    assert chosen == 0.0
    assert sorted(told["losses"].values()) == [told["losses"][f"{s:g}"] for s in SHARES[::-1]]
    each = [loss_of(model, nobody, person.queries) for person in asked]
    assert told["losses"]["1"] == pytest.approx(sum(each) / len(each), abs=1e-9)
    plain = held_back_losses(model, encoder(), [(0, q) for q in queries], base_pass, 100).split(
        [len(person.queries) for person in asked]
    )
    stage1 = sum(float(own.mean()) for own in plain) / len(asked)
    assert told["losses"]["0"] == pytest.approx(stage1, abs=1e-9)
