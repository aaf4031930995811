"""Inferred embeddings: gradients against one LoRA by itself, the estimate against the closed form,
episodes that never see their own answer, and planted groups that stage 2 must find.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from client.person import learner as learner_module
from client.person.learner import Learner
from proper_model.bundle.content_policy import check_numbers
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.safe_tensors import read_table
from proper_model.checks.release import _check_shared
from proper_model.engine.folds import Samples
from proper_model.engine.judging import by_person, held_back_losses
from proper_model.errors import BundleFormatError, ConfigError, TrainingError
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, group_pass
from proper_model.release.contents import Release, expected_shared, unread_embeddings
from proper_model.settings.presets import Constraint, UserRouting, preset
from proper_model.settings.profile import GroupSettings, StageSettings
from proper_model.stages import inferred_embedding as inferred_module
from proper_model.stages import item_gradients as gradients_module
from proper_model.stages.episodic_group import _Episodes, check_people, train_group_episodic
from proper_model.stages.inferred_embedding import (
    InferredEmbedding,
    analyse_variance,
    infer_embeddings,
)
from proper_model.stages.item_gradients import FEATURES, MOST_ROWS, item_gradients
from proper_model.stages.pooled_users import PooledUser
from proper_model.tasks.task import load_task
from tests.tiny import adapted, batch_of, encoder, passes, samples

CALIBRATED = preset("calibrated")
SETTINGS = StageSettings(
    name="test",
    tokens_per_step=400,
    group=GroupSettings(learning_rate=1e-2, epochs=3, min_epochs=3, batch_size=8, dropout=0.0),
)


# -- what an item says -------------------------------------------------------------------------


def test_a_row_of_a_pass_has_the_gradient_of_its_item_alone():
    model, items = adapted(CALIBRATED), samples(5, 1)
    found = item_gradients(model, encoder(), items, passes(60, slots=3))
    for row, item in zip(found, items, strict=True):
        model.lora = model.new_user_lora([gradients_module.SKETCH_SEED])
        for factor in model.lora.b:
            factor.requires_grad_(True)
        batch = batch_of((item,), [0])
        now = Pass(
            slots=batch.slots,
            experts=False,
            lora=True,
            embeddings=None,
            routing=UserRouting.USER_AWARE,
        )
        model.answer_loss(batch, now).sum().backward()
        expected = torch.zeros(FEATURES, dtype=torch.float64)
        for number, factor in enumerate(model.lora.b):
            cut, mix = gradients_module._matrices(number, *factor.shape[1:])
            assert factor.grad is not None
            low = torch.einsum("or,oq->qr", factor.grad[0].double(), cut.double())
            expected += low.flatten() @ mix.double()
        assert expected.norm() > 0
        torch.testing.assert_close(row.double(), expected, rtol=1e-4, atol=1e-6)


def test_gradients_depend_on_nothing_but_item_and_base():
    model, items = adapted(CALIBRATED), samples(6, 2)
    before = model.lora
    one = item_gradients(model, encoder(), items, passes(400))
    with torch.no_grad():
        for number in range(len(model.sites)):  # experts that have learned something
            model.expert(number).b.normal_()
    other = item_gradients(model, encoder(), items[::-1], passes(40, slots=1))
    assert model.lora is before
    torch.testing.assert_close(one, other.flip(0), rtol=1e-4, atol=1e-7)


def test_gradients_are_computed_again_where_memory_is_short():
    model, items = adapted(CALIBRATED), samples(6, 2)
    run: list[bool] = []
    norm = model.base.get_decoder().layers[0].input_layernorm  # a block itself runs once
    norm.register_forward_pre_hook(lambda *_: run.append(torch.is_grad_enabled()))
    one = item_gradients(model, encoder(), items, passes(400))
    once = len(run)
    other = item_gradients(model, encoder(), items, passes(400, recompute=True))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert len(run) == 3 * once  # forward, forward, and again for gradients


# -- what items say of a person ----------------------------------------------------------------


def people_of_a_known_population(users: int, items: int, seed: int = 0):
    """Features f = c + t_u + noise of a known S_b and S_w, and the true t_u."""
    generator = torch.Generator().manual_seed(seed)
    width = 6
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0]
    between = turn @ torch.diag(torch.tensor([4.0, 1.0, 0.25, 0, 0, 0]).double()) @ turn.T
    other = torch.randn(width, width, generator=generator).double()
    within = other @ other.T + 2 * torch.eye(width).double()
    center = torch.arange(width).double()
    low = torch.linalg.cholesky(within)
    noise = torch.randn(users, items, width, generator=generator).double() @ low.T
    values, vectors = torch.linalg.eigh(between)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt())
    taste = torch.randn(users, width, generator=generator).double() @ root.T
    return center + taste[:, None] + noise, taste, center, between, within


def test_the_estimate_is_the_posterior_mean_of_the_random_effects_model():
    features, taste, center, between, within = people_of_a_known_population(2000, 10)
    users, items, _ = features.shape
    owners = torch.arange(users).repeat_interleave(items)
    inferred = analyse_variance(features.flatten(0, 1), owners, users, width=3)
    inferred.requires_grad_(False)
    # What people differ by in three directions and not in three: 1 / m is their variance in units of
    # the noise.
    white = torch.linalg.inv(torch.linalg.cholesky(within))
    signal = torch.linalg.eigvalsh(white @ between @ white.T).flip(0)
    torch.testing.assert_close(
        1 / inferred.log_items.exp().double()[:3], signal[:3], rtol=0.25, atol=0.02
    )
    # E[t_u | items] = S_b (S_b + S_w / n)^-1 (mean - c), in the coordinates P, against that closed form.
    n = 4
    few = features[:, :n]
    gain = between @ torch.linalg.inv(between + within / n)
    expected = (few.mean(1) - center) @ gain.T
    sums = inferred.evidence(few.float()).sum(1)
    found = sums / (n + inferred.log_items.exp())
    aligned = expected.float() @ inferred.project[:, :]
    strong = slice(0, 2)
    torch.testing.assert_close(found[:, strong], aligned[:, strong], rtol=0.2, atol=0.15)
    # Shrunk by the right amount: regressing the truth on the estimate gives a slope of one.
    true = taste.float() @ inferred.project
    for k in range(2):
        slope = (true[:, k] * found[:, k]).sum() / (found[:, k] ** 2).sum()
        assert float(slope) == pytest.approx(1, abs=0.15)


def test_no_item_gives_the_mean_and_more_items_weigh_more():
    features, *_ = people_of_a_known_population(200, 10)
    owners = torch.arange(200).repeat_interleave(10)
    inferred = analyse_variance(features.flatten(0, 1), owners, 200, width=3)
    own = features[0].float()
    none, one, many = inferred.of([own[:0], own[:1], own[:1].repeat(50, 1)])
    assert torch.equal(none, torch.zeros(1, 3))
    assert one.norm() < many.norm()
    assert torch.equal(inferred.of([]), torch.zeros(0, 1, 3))


def test_tensors_on_disk_give_the_same_embeddings_and_pass_the_content_policy():
    features, *_ = people_of_a_known_population(60, 10)
    owners = torch.arange(60).repeat_interleave(10)
    scaled = features * 1e-5  # gradients may be this small, and their white directions as large
    inferred = analyse_variance(scaled.flatten(0, 1), owners, 60, width=3)
    tensors = inferred.tensors()
    assert float(tensors["inferred.project"].abs().max()) > 2**10
    data = save(tensors)
    check_numbers("shared.safetensors", data, read_table(data, DEFAULT_LIMITS, where="shared"))
    beyond = save({"inferred.center": torch.tensor([2000.0])})
    with pytest.raises(BundleFormatError, match=r"inferred\.center holds a number"):
        check_numbers(
            "shared.safetensors", beyond, read_table(beyond, DEFAULT_LIMITS, where="shared")
        )
    for wrong in (0.0, -0.0, -3.0):  # would divide by nothing, or its logarithm is none
        bad = save({"inferred.items": torch.tensor([5.0, wrong])})
        with pytest.raises(BundleFormatError, match=r"inferred\.items holds .* not positive"):
            check_numbers(
                "shared.safetensors", bad, read_table(bad, DEFAULT_LIMITS, where="shared")
            )
    again = InferredEmbedding.from_tensors(tensors)
    own = [scaled[u].float() for u in range(5)]
    torch.testing.assert_close(again.of(own), inferred.of(own), rtol=1e-4, atol=1e-5)


def test_people_who_differ_in_nothing_get_embeddings_near_the_mean():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 8, generator=generator)
    owners = torch.arange(100).repeat_interleave(10)
    inferred = analyse_variance(features, owners, 100, width=2)
    found = inferred.evidence(features).view(100, 10, -1).sum(1) / (10 + inferred.log_items.exp())
    truth_weight = found.var(0).sum() / features.view(100, 10, 8).mean(1).var(0).sum()
    assert truth_weight < 0.25


@pytest.mark.parametrize("counts", [[1] * 100 + [2] * 100, [1] * 25 + [2] * 5])
def test_directions_in_which_nobodys_items_differ_say_nothing(counts):
    """All of these people are alike: in directions without noise of one person they seem unlike."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = torch.randn(len(owners), FEATURES, generator=generator)
    inferred = analyse_variance(features, owners, len(counts), width=8)
    assert len(inferred.log_items) <= sum(counts) - len(counts)
    assert float(inferred.project.detach().abs().max()) < 10
    assert inferred.of([features[:1]]).shape == (1, 1, 8)


def test_one_item_of_everybody_is_refused():
    with pytest.raises(TrainingError, match="no pooled user has two items"):
        analyse_variance(torch.randn(30, 8), torch.arange(30), 30, width=2)


def test_people_without_items_change_nothing_and_a_wide_embedding_has_room():
    features, *_ = people_of_a_known_population(60, 10)
    owners = torch.arange(60).repeat_interleave(10)
    few = analyse_variance(features.flatten(0, 1), owners, 60, width=3)
    more = analyse_variance(features.flatten(0, 1), owners, 80, width=3)
    torch.testing.assert_close(few.weight, more.weight)
    wide = analyse_variance(features.flatten(0, 1), owners, 60, width=9)
    assert wide.weight.shape == (6, 9)
    assert wide.of([features[0]]).isfinite().all()


def test_an_item_without_a_finite_gradient_says_nothing(monkeypatch):
    features, *_ = people_of_a_known_population(60, 10)
    owners = torch.arange(60).repeat_interleave(10)
    inferred = analyse_variance(features.flatten(0, 1), owners, 60, width=3)
    own = features[0, :4].float()
    given = torch.cat([own, own[:1] * float("inf"), own[:1] * float("nan")])
    monkeypatch.setattr(inferred_module, "item_gradients", lambda *_, **__: given)
    model, items = adapted(CALIBRATED), samples(5, 1)
    found, fits = infer_embeddings(model, encoder(), inferred, [items, items[:1]], passes(400))
    torch.testing.assert_close(found[:1], inferred.of([own]))
    assert not found[1].any()
    assert [fit.source for fit in fits] == ["inferred", "mean"]


# -- episodes ----------------------------------------------------------------------------------


def groups_of_people(users: int, seed: int = 0) -> list[PooledUser]:
    """Two groups who answer the same questions differently: the text does not say which."""
    rng = random.Random(seed)
    people = []
    for u in range(users):
        group = u % 2

        def item(question: int, group: int = group) -> Encoded:
            answer = 40 + question if group else 50 - question
            return Encoded((5, 10 + question, 6, answer, 1), 3)

        people.append(
            PooledUser(
                tuple(item(rng.randrange(4)) for _ in range(6)),
                tuple(item(rng.randrange(4)) for _ in range(3)),
            )
        )
    return people


def test_no_sample_takes_part_in_its_own_embedding():
    model = adapted(CALIBRATED)
    own = [user.capped(60) for user in groups_of_people(12)]
    items = [item for part in own for item in part]
    features = item_gradients(model, encoder(), items, passes(400)).split([9] * 12)
    episodes = _Episodes(model, own, features, SETTINGS, 0)
    sizes = set()
    for number in range(len(items)):
        user = number // 9
        for seed in range(40):
            others = episodes.taking_part(number, seed)
            assert number not in others
            assert all(i // 9 == user for i in others)
            assert others == episodes.taking_part(number, seed)
            sizes.add(len(others))
    assert sizes == set(range(9))


def teach_the_form(model: AdaptedModel, people) -> None:
    """What stage 1 does: every question's answers, half and half, into the base itself."""
    items = tuple(item for user in people for item in user.history)[:60]
    model.base.requires_grad_(True)
    optimizer = torch.optim.Adam(model.base.parameters(), lr=1e-2)
    batch = batch_of(items, [0] * len(items))
    for _ in range(80):
        optimizer.zero_grad()
        model.answer_loss(batch, stage_1(batch.slots)).mean().backward()
        optimizer.step()
    model.base.requires_grad_(False)


def stage_1(slots: Tensor) -> Pass:
    return Pass(
        slots=slots, experts=False, lora=False, embeddings=None, routing=UserRouting.USER_AWARE
    )


@pytest.fixture(scope="module")
def learned():
    """Stage 2 on two planted groups, over a base that stage 1 would leave undecided between them."""
    model = adapted(CALIBRATED)
    group = dataclasses.replace(
        SETTINGS.group, epochs=6, patience=6, batch_size=30, learning_rate=2e-2
    )
    settings = dataclasses.replace(SETTINGS, max_grad_norm=10.0, group=group)
    people, others = groups_of_people(40), groups_of_people(10, seed=1)
    teach_the_form(model, people)
    inferred, table, report = train_group_episodic(
        model, encoder(), people, others, settings, seed=0
    )
    return model, inferred, table, report


def queries_loss(model: AdaptedModel, people, embeddings: Tensor) -> Tensor:
    asked = [(u, query) for u, user in enumerate(people) for query in user.queries]
    losses = held_back_losses(
        model, encoder(), asked, lambda slots: group_pass(slots, embeddings), 400
    )
    return by_person(losses, [u for u, _ in asked])


def test_people_never_trained_with_gain_and_lose_it_with_somebody_elses_items(learned):
    model, inferred, table, report = learned
    people = groups_of_people(12, seed=2)
    histories = [user.history for user in people]
    embeddings, fits = infer_embeddings(model, encoder(), inferred, histories, passes(400))
    own = queries_loss(model, people, embeddings).mean()
    mean = queries_loss(model, people, torch.zeros_like(embeddings)).mean()
    swapped = queries_loss(model, people, embeddings.roll(1, 0)).mean()  # the other group's
    assert own < mean - 0.1
    assert swapped > mean
    assert {fit.source for fit in fits} == {"inferred"}
    # The direction between the pooled groups tells people apart whom nobody trained with.
    between = table[1::2, 0].mean(0) - table[::2, 0].mean(0)
    side = (embeddings[:, 0] - table[:, 0].mean(0)) @ between
    assert [float(one) > 0 for one in side] == [u % 2 == 1 for u in range(12)]
    assert len(report.held_back) == len(report.held_back_se) == 7
    assert report.people == 10
    assert report.held_back_se[0] == 0
    assert min(report.held_back) < report.held_back[0]


def test_one_item_helps_and_none_is_no_worse_than_stage_1(learned):
    model, inferred, _, _ = learned
    people = groups_of_people(12, seed=3)
    one, _ = infer_embeddings(
        model, encoder(), inferred, [user.history[:1] for user in people], passes(400)
    )
    none, fits = infer_embeddings(model, encoder(), inferred, [()] * 12, passes(400))
    assert not none.any()
    assert {fit.source for fit in fits} == {"mean"}
    losses = [queries_loss(model, people, e).mean() for e in (one, none)]
    asked = [(0, query) for user in people for query in user.queries]
    stage1 = held_back_losses(model, encoder(), asked, stage_1, 400).mean()
    assert losses[0] < losses[1]
    assert losses[1] < stage1 + 0.02


def test_a_killed_stage_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch):
    people, others = groups_of_people(12), groups_of_people(4, seed=1)

    def run(checkpoint: Path | None, stop: int | None = None):
        model = adapted(CALIBRATED)

        def killed(done: int, total: int) -> None:
            if stop is not None and done >= stop and checkpoint.exists():  # features come first
                raise KeyboardInterrupt

        found = train_group_episodic(
            *(model, encoder(), people, others, SETTINGS),
            seed=0,
            checkpoint=checkpoint,
            progress=killed,
        )
        return found, [p.detach().clone() for p in model.parameters()]

    (_, table, report), whole = run(None)
    monkeypatch.setattr(
        "proper_model.engine.training_loop.time.monotonic", iter(range(10**6)).__next__
    )
    place = tmp_path / "stage"
    with pytest.raises(KeyboardInterrupt):
        run(place, stop=25)
    assert place.exists()
    (_, again, told), resumed = run(place)
    assert torch.equal(table, again)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert told.as_dict() == report.as_dict()


def test_too_few_people_are_refused():
    with pytest.raises(TrainingError, match="takes at least 10"):
        train_group_episodic(
            adapted(CALIBRATED),
            encoder(),
            groups_of_people(9),
            groups_of_people(2),
            SETTINGS,
            seed=0,
        )


def test_people_without_items_are_not_counted():
    some = groups_of_people(10)
    check_people(some, SETTINGS)
    with pytest.raises(TrainingError, match="stage 2: 9 pooled users train"):
        check_people([*some[:9], PooledUser((), ())], SETTINGS)


def test_settings_that_contradict_inferred_embeddings_are_refused():
    with pytest.raises(ConfigError, match="embedding_tables 'one'"):
        dataclasses.replace(
            preset("default"),
            embedding_source=CALIBRATED.embedding_source,
            constraint=Constraint.NONE,
        )
    with pytest.raises(ConfigError, match="constraint must be 'none'"):
        dataclasses.replace(CALIBRATED, constraint=Constraint.AGGREGATE)


def test_a_judge_counts_people_not_queries():
    losses = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    assert by_person(losses, [0, 0, 1]).tolist() == [2.0, 5.0]
    assert by_person(losses, [7, 7, 9]).tolist() == [2.0, 5.0]


def test_of_stage_1_alone_nothing_is_inferred():
    """Its release holds no `inferred.*`, and nothing asks for them."""
    alone = CALIBRATED.without_groups()
    model, shared = adapted(alone), unread_embeddings()
    assert expected_shared(alone, model.sites, directions=0).keys() == {"mean_embedding"}
    release = Release(None, None, None, alone, SETTINGS, 0, shared, {}, {})
    assert release.inferred is None
    recipe = SimpleNamespace(structure=alone)
    shapes = {name: tuple(tensor.shape) for name, tensor in shared.items()}
    _check_shared(recipe, model.sites, shapes)


def test_on_a_device_items_are_read_as_pooled_users_items_were(monkeypatch):
    """Without retrieved lines before them, and as many in a pass as memory holds, not as many as train."""
    task = load_task("synth_tag")
    device = SimpleNamespace(
        privacy=None,
        model=SimpleNamespace(structure=CALIBRATED),
        release=SimpleNamespace(inferred="inferred"),
        settings=SETTINGS,
        memory_bytes=1,
        encoder=None,
        begin=lambda phase: None,
        progress=lambda *_: None,
        encode=lambda items, asked: [asked.retrieve],
    )
    retrieving = dataclasses.replace(task, retrieve=2)
    assert Learner.for_embedding(device, [], retrieving, [2]) == [0]
    assert Learner.for_embedding(device, [], task, [7]) == [7]
    asked: list[int] = []

    def within(*given):
        asked.append(given[4])
        return dataclasses.replace(given[5], slots=5, recompute=True)

    monkeypatch.setattr(learner_module, "within", within)
    monkeypatch.setattr(learner_module, "infer_embeddings", lambda *given, **_: given[-1])
    cut = Learner.fit_embeddings(device, [Samples(samples(3, 1), (), 0)])
    assert asked == [MOST_ROWS]
    assert (cut.slots, cut.recompute) == (5, True)
    device.model.structure = preset("default")
    assert Learner.for_embedding(device, [], retrieving, [2]) == [2]
