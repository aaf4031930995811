"""Kernels of a GPU against the equations in float64; without a GPU Triton interprets them, slowly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tests.triton_interpreter  # before anything defines a kernel
from proper_model.engine.optimizer import StackedAdamW
from proper_model.kernels import gpu
from proper_model.kernels.adapted import Routing, Scales
from proper_model.kernels.dropout import hashed_mask, threshold
from proper_model.kernels.gpu import low_rank, tiles
from proper_model.kernels.gpu.tiles import pieces
from proper_model.kernels.layout import Layout
from tests.adapted_case import (
    LENGTHS,
    NAMES,
    OUT,
    PARTS,
    SCALES,
    WIDE,
    P,
    apart,
    equation,
    make,
)

DEVICE = tests.triton_interpreter.DEVICE
# Interpreted, products of bfloat16 are wrong.
NARROW = torch.bfloat16 if DEVICE == "cuda" else torch.float16
SITE = 7
SEEDS = [3, 1 << 40, (1 << 62) + 5, 8, 3, 12345678901234567]


@pytest.fixture
def layout() -> Layout:
    return Layout.of(LENGTHS, DEVICE)


def test_pieces_cover_every_token_once_and_cross_no_row(layout: Layout) -> None:
    owner = layout.rows.tolist()
    seen = []
    for row, start, end in pieces(layout).T.tolist():
        assert all(owner[token] == row for token in range(start, end))
        seen += range(start, end)
    assert seen == list(range(sum(LENGTHS)))


@pytest.mark.parametrize("dtype", [torch.float32, NARROW])
def test_the_mask_is_the_hash(layout: Layout, dtype: torch.dtype) -> None:
    x = torch.ones(sum(LENGTHS), WIDE, dtype=dtype, device=DEVICE)
    seeds = torch.tensor(SEEDS, device=DEVICE)
    expected = hashed_mask(x, threshold(P), seeds, layout, SITE)
    assert torch.equal(gpu.keep_mask(x, threshold(P), seeds, layout, SITE), expected)
    assert 0.68 < expected.float().mean() < 0.72


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 2e-5), (NARROW, 1e-2)], ids=["wide", "narrow"]
)
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_an_adapted_linear_is_its_equation(
    layout: Layout, parts: str, dtype: torch.dtype, close: float
) -> None:
    case = make(PARTS[parts])
    seeds = torch.tensor(SEEDS, device=DEVICE)
    mask = hashed_mask(case.x.detach(), threshold(P), seeds.cpu(), Layout.of(LENGTHS), SITE)
    expected = equation(case, mask)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    narrow = case.narrow(dtype, DEVICE)
    found = gpu.adapted_linear(
        narrow.base,
        narrow.x,
        layout,
        low_rank.Mask(seeds, threshold(P), SITE),
        SCALES,
        Routing(narrow.through, narrow.user),
        **{n: getattr(narrow, n) for n in NAMES[1:6]},
    )
    (found.float() * weights.to(DEVICE)).sum().backward()
    assert apart(found, expected) < close
    for name, leaf in case.leaves().items():
        assert apart(narrow.leaves()[name].grad, leaf.grad) < close, name


def test_nothing_flows_back_through_a_detached_router(layout: Layout) -> None:
    case = make(NAMES).narrow(torch.float32, DEVICE)
    inputs = (case.base, case.x, layout, low_rank.NO_MASK, Scales(1.0, 1.0, 1.0))
    factors = {name: getattr(case, name) for name in NAMES[1:6]}
    for detached in (False, True):
        case.through.grad = None
        gpu.adapted_linear(
            *inputs, Routing(case.through, case.user, detached), **factors
        ).square().sum().backward()
        # None as autograd has it: of zeros, AdamW would still decay a weight.
        assert (case.through.grad is None) is detached


def test_an_embedding_alone_keeps_no_input(layout: Layout) -> None:
    """Inputs are what a pass keeps most of; only factors in training need them."""
    case = make(PARTS["experts routed by text and user"]).narrow(torch.float32, DEVICE)
    for name, kept in (("user", False), ("expert_b", False), ("expert_a", True), ("text", True)):
        for leaf in case.leaves().values():
            leaf.requires_grad_(False).grad = None
        before = case.x.clone().requires_grad_()
        x = before * 1.0
        trained = getattr(case, name).requires_grad_()
        held: list[Tensor] = []

        def pack(tensor: Tensor, held: list[Tensor] = held) -> Tensor:
            held.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = gpu.adapted_linear(
                case.base, x, layout, low_rank.NO_MASK, SCALES,
                Routing(None, case.user),
                expert_a=case.expert_a, expert_b=case.expert_b, text=case.text,
            )  # fmt: skip
        assert any(tensor.data_ptr() == x.data_ptr() for tensor in held) is kept, name
        out.square().sum().backward()
        assert trained.grad is not None, name
        assert bool(before.grad.any()), name


def test_no_more_is_loaded_ahead_than_a_gpu_holds(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kernel compiles and does not start: at 16 experts of rank 8 on any GPU, or a small one."""
    base = torch.nn.Linear(WIDE, OUT, dtype=torch.bfloat16)
    x = torch.zeros(4, WIDE, dtype=torch.bfloat16)
    for kib, most, few in ((227, 3, 2), (99, 2, 1), (48, 1, 0)):
        monkeypatch.setattr(tiles, "program_bytes", lambda _, kib=kib: kib << 10)
        assert low_rank.gather_stages(40, 8, 10, x) == most
        assert low_rank.gather_stages(128, 8, 32, x) == few
        assert gpu.serves(x, base, 16, 8) is (few > 0)
        assert gpu.serves(x, base, 5, 8)


@pytest.mark.parametrize(("experts", "rank"), [(10, 4), (20, 2), (16, 8), (3, 20), (128, 1)])
def test_other_numbers_of_experts_and_ranks(experts: int, rank: int) -> None:
    """Beyond what a matrix unit takes at once: 2 N over 16, ranks over 16, N r at the limit."""
    lengths = [1, 17]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).half().double() / 8

    base = torch.nn.Linear(24, 40, bias=False).double().requires_grad_(False)
    x = random(18, 24)
    factors = {
        "user_a": random(2, rank, 24), "user_b": random(2, 40, rank),
        "expert_a": random(experts, rank, 24), "expert_b": random(experts, 40, rank),
        "text": random(experts, 24),
    }  # fmt: skip
    routed = {"through": random(2, experts, rank), "user": random(2, experts)}
    leaves = {"x": x} | factors | routed
    for leaf in leaves.values():
        leaf.requires_grad_()
    rows = Layout.of(lengths).rows
    u = torch.einsum("mi,mri->mr", x, factors["user_a"][rows])
    logits = x @ factors["text"].T + routed["user"][rows]
    weights = (logits + torch.einsum("mr,mnr->mn", u, routed["through"][rows])).softmax(-1)
    low = torch.einsum("mi,nri->mnr", x, factors["expert_a"]) * weights[..., None]
    expected = base(x) + torch.einsum("mr,mor->mo", u, factors["user_b"][rows])
    expected = expected + torch.einsum("mnr,nor->mo", low, factors["expert_b"])
    expected.square().sum().backward()

    for dtype, close in ((torch.float32, 1e-4), (torch.float16, 1e-2)):
        made = {
            name: leaf.detach().to(DEVICE, dtype if name == "x" else torch.float32)
            for name, leaf in leaves.items()
        }
        # A slice of something wider: rows that do not follow each other.
        made["x"] = torch.nn.functional.pad(made["x"], (8, 16))[:, 8:32]
        for leaf in made.values():
            leaf.requires_grad_()
        narrow = torch.nn.Linear(24, 40, bias=False).to(DEVICE, dtype).requires_grad_(False)
        narrow.load_state_dict(base.state_dict())
        found = gpu.adapted_linear(
            narrow, made["x"], Layout.of(lengths, DEVICE), low_rank.NO_MASK,
            Scales(1.0, 1.0, 1.0), Routing(made["through"], made["user"]),
            **{name: made[name] for name in factors},
        )  # fmt: skip
        found.float().square().sum().backward()
        assert apart(found, expected) < close
        for name, leaf in leaves.items():
            assert apart(made[name].grad, leaf.grad) < close, name


def test_long_sums_are_cut_and_added(layout: Layout) -> None:
    """A GPU of many processors cuts a sum over the width into shares."""
    x = torch.randn(sum(LENGTHS), 1000, device=DEVICE)
    shared = torch.randn(2, 3, 1000, device=DEVICE)
    parts = low_rank.gather(x, low_rank.Thin.of(shared, None, None, x.dtype), layout)
    assert len(parts) > 1
    assert torch.allclose(parts.sum(0), x @ shared.flatten(0, 1).T, atol=1e-3)


def test_a_norm_is_its_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 11, 72, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(72, dtype=torch.float64)
    expected = weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected.cos().sum().backward()
    narrow = x.detach().float().to(DEVICE).requires_grad_()
    found = gpu.rms_norm(narrow, weight.float().to(DEVICE), 1e-5)
    found.cos().sum().backward()
    assert apart(found, expected) < 1e-6
    assert apart(narrow.grad, x.grad) < 1e-5


def test_a_rotation_is_that_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    heads, tokens, width = 3, 9, 24
    angle = torch.rand(1, tokens, width // 2, dtype=torch.float64) * 6
    cos, sin = angle.cos().repeat(1, 1, 2), angle.sin().repeat(1, 1, 2)
    q = torch.randn(1, tokens, heads, width, dtype=torch.float64, requires_grad=True)
    expected, _ = apply_rotary_pos_emb(q.transpose(1, 2), q.transpose(1, 2), cos, sin)
    expected.cos().sum().backward()
    narrow = q.detach().float().to(DEVICE).requires_grad_()
    found = gpu.rotate(narrow.transpose(1, 2), cos.float().to(DEVICE), sin.float().to(DEVICE))
    found.cos().sum().backward()
    assert apart(found, expected) < 1e-6
    assert apart(narrow.grad, q.grad) < 1e-6


def test_swiglu_is_its_formula() -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(7, 300, dtype=torch.float64, requires_grad=True) for _ in "gu")
    expected = torch.nn.functional.silu(gate) * up
    expected.cos().sum().backward()
    narrow = [leaf.detach().float().to(DEVICE).requires_grad_() for leaf in (gate, up)]
    found = gpu.swiglu(*narrow)
    found.cos().sum().backward()
    assert apart(found, expected) < 1e-6
    for leaf, wanted in zip(narrow, (gate, up), strict=True):
        assert apart(leaf.grad, wanted.grad) < 1e-6


def test_an_update_is_that_of_the_plain_optimizer() -> None:
    """Slots with steps of their own, one of them inactive."""
    torch.manual_seed(0)
    starts = [torch.randn(3, 5, 7), torch.randn(3, 1500)]
    ways = []
    for fused in (False, True):
        parameters = [torch.nn.Parameter(start.clone().to(DEVICE)) for start in starts]
        optimizer = StackedAdamW(parameters, weight_decay=0.1, max_grad_norm=1.0)
        optimizer.fused = fused
        generator = torch.Generator().manual_seed(1)
        for step in range(3):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator).to(DEVICE)
            active = torch.tensor([True, step != 1, True], device=DEVICE)
            rates = torch.tensor([0.1, 0.02, 0.0], dtype=torch.float64, device=DEVICE)
            norms = optimizer.gradient_norms()
            optimizer.step(rates, active, norms)
        ways.append((parameters, optimizer))
    (plain, before), (quick, after) = ways
    assert torch.equal(before.steps, after.steps)
    for group in (
        zip(plain, quick, strict=True),
        zip(before.first, after.first, strict=True),
        zip(before.second, after.second, strict=True),
    ):
        for expected, found in group:
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
