"""The preset of the released code and the ablations' structures, held against explicit formulas."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proper_model.answering.routing_reader import routing_weights
from proper_model.base.sites import find_sites
from proper_model.export.user_fold import fold_user
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import Backend
from proper_model.model.adapted_model import AdaptedLinear, AdaptedModel
from proper_model.model.adapters import embedding_shape
from proper_model.model.load_user import stack_adapters
from proper_model.model.passes import base_pass, group_pass, personal_pass
from proper_model.model.routing import lora_logits, merge
from proper_model.release.contents import expected_shared, shared_tensors
from proper_model.settings import load_profile
from proper_model.settings.presets import (
    EmbeddingTables,
    RouterMerge,
    Structure,
    UserRouting,
    preset,
)
from simulations.experiments.ablations import fitting
from simulations.reporting.parameters import BaseSizes, count_parameters
from simulations.setup.options import RunOptions
from tests.tiny import (
    adapted,
    batch_of,
    embeddings_of,
    samples,
    stage3_pass,
    tiny_base,
    trained_factors,
)

RELEASED = preset("released")
PRIVATE = dataclasses.replace(preset("default"), name="private", private_lora_router=True)
BATCH = batch_of(samples(3, seed=1), [0, 2, 1])


# -- eq. 8 as released -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1e4))
def test_with_five_experts_no_weight_leaves_its_narrow_range(seed: int, scale: float) -> None:
    """A softmax of what lies within [0, 2]: at most e^2 / (e^2 + 4), at least 1 / (e^2 + 4)."""
    draw = torch.Generator().manual_seed(seed)
    text, user = (torch.randn(40, 5, generator=draw).double() * scale for _ in range(2))
    weights = merge(text, user, RouterMerge.DOUBLE)
    most, least = math.e**2 / (math.e**2 + 4), 1 / (math.e**2 + 4)
    assert round(most, 2) == 0.65
    assert round(least, 3) == 0.088
    assert weights.max() <= most + 1e-12
    assert weights.min() >= least - 1e-12


def test_the_bounds_are_met_where_text_and_user_agree() -> None:
    sure = torch.tensor([[1e4, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    weights = merge(sure, sure, RouterMerge.DOUBLE)[0]
    assert weights[0].item() == pytest.approx(math.e**2 / (math.e**2 + 4))
    assert weights[1].item() == pytest.approx(1 / (math.e**2 + 4))


@pytest.mark.parametrize("backend", list(Backend))
def test_a_linear_is_the_released_formula_in_every_backend(backend: Backend) -> None:
    """h = W x + s (1/N) sum_n w_n B_n A_n x, w = softmax(softmax(W_t x) + softmax(W_e e)), e its own."""
    model = adapted("released")
    model.backend = backend
    number = 2  # down: as wide as the feed-forward, behind two tables of the hidden width
    site, experts, router = model.sites[number], model.expert(number), model.router(number)
    x = torch.randn(1, 4, site.d_in, generator=torch.Generator().manual_seed(6)).double()
    table = embeddings_of(model, 1)
    linear = AdaptedLinear(model.base.get_submodule(site.path), model, number)
    now = group_pass(torch.tensor([0]), table)
    now.layout = Layout.of([4])
    with torch.no_grad(), model.running(now):
        found = linear(x)[0]
    begin = sum(one.d_in for one in model.sites[:number])
    own = table[0, 0, begin : begin + site.d_in]
    for token in range(4):
        one = x[0, token]
        both = (router.text @ one).softmax(0) + (router.user @ own).softmax(0)
        mixed = sum(
            w * (b @ (a @ one))
            for w, a, b in zip(both.softmax(0), experts.a, experts.b, strict=True)
        )
        expected = linear.base(one) + RELEASED.scale * 0.2 * mixed
        assert torch.allclose(found[token], expected, atol=1e-10)


# -- a table a linear ------------------------------------------------------------------------------


def test_the_counts_at_7b_are_those_of_the_released_structure() -> None:
    """Experts, both routers and 101 rows a linear as wide as its input: 97.2 million."""
    counts = count_parameters(BaseSizes(4096, 11008, 32), RELEASED)
    assert counts.text_routers == counts.user_routers == 3_072_000
    assert counts.user_embedding == 19_200 * 32
    stage2 = (
        counts.experts + counts.text_routers + counts.user_routers + 101 * counts.user_embedding
    )
    assert stage2 == 97_198_080


@pytest.mark.parametrize("width", [0, 7])
def test_every_linear_reads_numbers_of_its_own_and_all_are_read(width: int) -> None:
    structure = dataclasses.replace(RELEASED, embedding_dim=width)
    model = adapted(structure)
    read = [range(*model.columns(n).indices(10**6)) for n in range(len(model.sites))]
    assert [len(own) for own in read] == [width or site.d_in for site in model.sites]
    tables, numbers = model.embedding_shape
    assert (tables, sorted(i for own in read for i in own)) == (1, list(range(numbers)))
    assert expected_shared(structure, model.sites, directions=0)["mean_embedding"] == (1, numbers)
    # What one linear reads changes the routing of that linear and of no other.
    table = embeddings_of(model, 3)

    def weights(embeddings: torch.Tensor) -> torch.Tensor:
        return routing_weights(model, BATCH, group_pass(BATCH.slots, embeddings))

    moved = table.clone()
    moved[:, 0, model.columns(len(model.sites) - 1)] += 1.0
    before, after = weights(table), weights(moved)
    assert torch.equal(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_wide_tables_route_no_harder_at_the_start_than_narrow_ones() -> None:
    """W_e e_u has the spread of 64 numbers, whatever the linear's width."""

    def spread(structure: Structure) -> float:
        base = tiny_base(hidden_size=256, intermediate_size=512)
        model = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(0))
        drawn = torch.randn(500, *model.embedding_shape) * 0.3
        own = drawn[:, model.table(0), model.columns(0)]
        return float((own @ model.user_weight(0).detach().T).std())

    assert spread(RELEASED) == pytest.approx(spread(preset("default")), rel=0.2)


# -- the factor, folded ----------------------------------------------------------------------------


def test_a_fold_holds_the_factor_of_the_experts_sum() -> None:
    model = adapted(dataclasses.replace(preset("device"), expert_factor=0.3))
    embeddings, item, slot = embeddings_of(model, 3), samples(1, seed=1)[0], 1
    batch = batch_of((item,), [slot])
    with torch.no_grad():
        expected = model.answer_loss(batch, stage3_pass(model, batch.slots, embeddings))[0]
    base = tiny_base()
    for path, (a, b) in fold_user(model, embeddings[slot], slot).items():
        base.get_submodule(path).weight.data += model.structure.scale * b @ a
    fresh = AdaptedModel(base, model.structure, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        folded = fresh.answer_loss(batch_of((item,), [0]), base_pass(torch.tensor([0])))[0]
    assert folded.item() == pytest.approx(expected.item(), abs=1e-6)


# -- a LoRA-aware router of one's own --------------------------------------------------------------


def test_logits_of_own_routers_are_each_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    w, b = torch.randn(2, 5, 6, generator=draw), torch.randn(2, 6, 3, generator=draw)
    low, layout = torch.randn(5, 3, generator=draw), Layout.of([3, 2])
    found = lora_logits(w, low, b, layout)
    for token, row in enumerate([0, 0, 0, 1, 1]):
        assert torch.allclose(found[token], w[row] @ (b[row] @ low[token]), atol=1e-5)


def test_an_own_router_equal_to_the_shared_one_routes_as_it() -> None:
    """So a private W_l is W_l of eq. 12, of the row's user alone."""
    shared, own = adapted("default"), adapted(PRIVATE)
    own.load_state_dict(shared.state_dict(), strict=False)
    with torch.no_grad():
        for number, stack in enumerate(own.lora.w):
            stack.copy_(shared.router(number).lora[None].expand_as(stack))
        expected = shared.answer_loss(BATCH, stage3_pass(shared, BATCH.slots))
        assert torch.allclose(
            own.answer_loss(BATCH, stage3_pass(own, BATCH.slots)), expected, atol=1e-12
        )
        own.lora.w[0][2, 0] += 1.0  # one expert of user 2, who has row 1
        changed = own.answer_loss(BATCH, stage3_pass(own, BATCH.slots))
    assert torch.allclose(changed[[0, 2]], expected[[0, 2]], atol=1e-12)
    assert not torch.allclose(changed[1], expected[1])


def test_own_routers_take_gradients_are_counted_and_stay_out_of_the_release() -> None:
    model = adapted(PRIVATE)
    trained_factors(model)
    for weight in model.lora.w:
        weight.requires_grad_(True)
    model.answer_loss(BATCH, stage3_pass(model, BATCH.slots)).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.lora.w)
    counts = count_parameters(BaseSizes(16, 24, 2), PRIVATE)
    assert sum(p.numel() for p in model.lora.parameters()) == 3 * counts.user_lora
    assert counts.lora_routers == 0
    names = shared_tensors(model)
    assert not any(name.endswith(".lora") for name in names)
    expected = expected_shared(PRIVATE, model.sites, directions=0)
    assert names.keys() == expected.keys() - {"mean_embedding"}


@pytest.mark.parametrize("routing", [UserRouting.SUMMED, UserRouting.LORA_AWARE])
def test_own_routers_start_as_the_shared_one_would(routing: UserRouting) -> None:
    """Zero where logits are summed; else drawn by the user's seed, whoever is beside."""
    structure = dataclasses.replace(PRIVATE, user_routing=routing)
    model = adapted(structure, noisy=False)
    pair, alone = model.new_user_lora([4, 9]), model.new_user_lora([9])
    for both, one in zip(pair.w, alone.w, strict=True):
        assert torch.equal(both[1], one[0])
        assert bool(both.any()) == (routing is UserRouting.LORA_AWARE)
    assert not model.new_user_lora([4], experts=False).w  # `oppu-mlp` has nothing to route


def test_a_stack_of_states_holds_own_routers_and_needs_them() -> None:
    from proper_model.errors import StateError

    model = adapted(PRIVATE)
    stacks = model.lora.factors()
    state = {
        f"lora.{site.path}.{letter}": stacks[letter][number][1].clone()
        for letter in stacks
        for number, site in enumerate(model.sites)
    }
    kept = [tensor[1].clone() for tensor in model.lora.flat()]
    stack_adapters(model, [state])
    for new, old in zip(model.lora.flat(), kept, strict=True):
        assert torch.allclose(new[0].double(), old, atol=1e-6)
    without = {name: tensor for name, tensor in state.items() if not name.endswith(".W")}
    stack_adapters(model, [without], experts=False)
    with pytest.raises(StateError, match="W"):
        stack_adapters(model, [without])


# -- ablations -------------------------------------------------------------------------------------


def test_the_ablations_of_training_apply_to_the_default_and_say_where_they_cannot() -> None:
    ours = {"private W_l", "end to end", "stage 2 with everybody", "stage 2 of shuffled identities"}
    settings = load_profile("tiny")
    kept, _ = fitting(preset("default"), settings)
    assert ours <= kept.keys()
    assert kept["end to end"].apply(preset("default"), settings)[0].end_to_end
    for name in ("stage 2 with everybody", "stage 2 of shuffled identities"):
        assert RunOptions(data="demo", out=Path("out"), **kept[name].options)
    _, left_out = fitting(preset("device"), settings)
    assert "needs a user_routing that reads the LoRA" in left_out["private W_l"]


# -- stage 1 alone ---------------------------------------------------------------------------------


def test_stage_1_alone_has_neither_experts_nor_routers_and_every_pass_goes_without() -> None:
    model = adapted(preset("default").without_groups())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"lora"}
    assert shared_tensors(model) == {}
    expected = expected_shared(model.structure, find_sites(tiny_base()), directions=0)
    assert expected == {"mean_embedding": (1, 1)}
    table = torch.zeros(3, 1, 1)
    slots = BATCH.slots
    alone = personal_pass(slots, embeddings=None, routing=UserRouting.USER_AWARE, experts=False)
    with torch.no_grad():
        plain = model.answer_loss(BATCH, base_pass(slots))
        assert torch.equal(model.answer_loss(BATCH, group_pass(slots, table)), plain)
        expected = model.answer_loss(BATCH, alone)
        assert torch.equal(model.answer_loss(BATCH, stage3_pass(model, slots, table)), expected)
    assert not torch.allclose(expected, plain)
    assert (model.structure.name, model.structure.foldable) == ("population-only", True)
    for path, (a, b) in fold_user(model, table[0], 1).items():
        number = [site.path for site in model.sites].index(path)
        assert torch.equal(a, model.lora.a[number][1])
        assert torch.equal(b, model.lora.b[number][1])


def test_its_counts_are_a_private_lora_and_nothing_else() -> None:
    counts = count_parameters(BaseSizes(16, 24, 2), preset("paper").without_groups())
    assert dataclasses.astuple(counts) == (counts.user_lora, 0, 0, 0, 0, 0)
    assert counts.user_lora == 4 * 3 * (16 + 24) * 2


def test_tables_of_the_usual_presets_are_as_they_were() -> None:
    sites = find_sites(tiny_base())
    assert embedding_shape(preset("default"), sites) == (2, 64)
    assert embedding_shape(preset("device"), sites) == (1, 64)
    assert preset("default").embedding_tables is EmbeddingTables.PER_LAYER
