"""Routers: explicit formulas as oracle, and the invariances of METHOD 1.5."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proper_model.routers import lora_logits, merge, text_logits, user_logits
from proper_model.structure import RouterMerge


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_summed_router_is_equation_8() -> None:
    w_t, w_e, x, e = rand(5, 8), rand(5, 3, seed=1), rand(2, 4, 8, seed=2), rand(2, 3, seed=3)
    weights = merge(text_logits(w_t, x), user_logits(w_e, e), RouterMerge.SUM)
    for row in range(2):
        for token in range(4):
            expected = (w_t @ x[row, token] + w_e @ e[row]).softmax(0)
            assert torch.allclose(weights[row, token], expected, atol=1e-12)


def test_average_router_is_the_mean_of_two_softmaxes() -> None:
    w_t, w_e, x, e = rand(5, 8), rand(5, 3, seed=1), rand(2, 4, 8, seed=2), rand(2, 3, seed=3)
    weights = merge(text_logits(w_t, x), user_logits(w_e, e), RouterMerge.AVERAGE)
    expected = ((w_t @ x[1, 2]).softmax(0) + (w_e @ e[1]).softmax(0)) / 2
    assert torch.allclose(weights[1, 2], expected, atol=1e-12)


def test_lora_router_never_forms_the_output_but_equals_it() -> None:
    w_l, a, b, x = rand(5, 6), rand(2, 4, 8, seed=1), rand(2, 6, 4, seed=2), rand(2, 3, 8, seed=3)
    hidden = torch.einsum("bti,bri->btr", x, a)
    logits = lora_logits(w_l, hidden, b)
    for row in range(2):
        for token in range(3):
            explicit = w_l @ (b[row] @ (a[row] @ x[row, token]))
            assert torch.allclose(logits[row, token], explicit, atol=1e-12)


def test_lora_router_is_invariant_under_a_change_of_rank_basis() -> None:
    """B -> BM, A -> M^-1 A leaves the LoRA and its routing unchanged; A x alone would change."""
    w_l, a, b, x = rand(5, 6), rand(1, 4, 8, seed=1), rand(1, 6, 4, seed=2), rand(1, 3, 8, seed=3)
    m = rand(4, 4, seed=4) + 3 * torch.eye(4, dtype=torch.float64)
    a2, b2 = torch.linalg.inv(m) @ a, b @ m
    before = lora_logits(w_l, torch.einsum("bti,bri->btr", x, a), b)
    after = lora_logits(w_l, torch.einsum("bti,bri->btr", x, a2), b2)
    assert torch.allclose(before, after, atol=1e-10)
    assert not torch.allclose(a @ x[0].T, a2 @ x[0].T)


def test_routing_is_float32_under_bfloat16() -> None:
    w_t, x = rand(5, 8, dtype=torch.float32), rand(2, 4, 8, seed=2, dtype=torch.bfloat16)
    logits = text_logits(w_t, x)
    assert logits.dtype is torch.float32
    assert torch.allclose(logits, x.float() @ w_t.T)
    hidden = rand(2, 4, 3, dtype=torch.bfloat16)
    assert lora_logits(rand(5, 6), hidden, rand(2, 6, 3)).dtype is torch.float32


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 200))
def test_weights_sum_to_one_for_every_token(seed: int, scale: float) -> None:
    text, user = rand(2, 3, 5, seed=seed) * scale, rand(2, 1, 5, seed=seed + 1) * scale
    for how in RouterMerge:
        weights = merge(text, user, how)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))
        assert (weights >= 0).all()
