"""Routers: explicit formulas as oracle, and the invariances of docs/method.md 1.5."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proper_model.kernels.layout import Layout
from proper_model.model.routing import lora_logits, merge, text_logits, user_logits
from proper_model.settings.presets import RouterMerge


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


LAYOUT = Layout.of([3, 2, 2])  # 7 tokens of 3 rows, in two groups
TOKENS = [(row, token) for token, row in enumerate([0, 0, 0, 1, 1, 2, 2])]


def test_routers_are_equation_8_and_the_mean_of_two_softmaxes() -> None:
    w_t, w_e, x, e = rand(5, 8), rand(5, 3, seed=1), rand(7, 8, seed=2), rand(3, 3, seed=3)
    text, user = text_logits(w_t, x), user_logits(w_e, e)[LAYOUT.rows]
    summed, average = (merge(text, user, how) for how in (RouterMerge.SUM, RouterMerge.AVERAGE))
    for row, token in TOKENS:
        of_text, of_user = w_t @ x[token], w_e @ e[row]
        assert torch.allclose(summed[token], (of_text + of_user).softmax(0), atol=1e-12)
        expected = (of_text.softmax(0) + of_user.softmax(0)) / 2
        assert torch.allclose(average[token], expected, atol=1e-12)


def projected(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """A_u x of every token: x [M, i], a [B, r, i] -> [M, r]."""
    return torch.stack([a[row] @ x[token] for row, token in TOKENS])


def test_lora_router_never_forms_the_output_but_equals_it() -> None:
    w_l, a, b, x = rand(5, 6), rand(3, 4, 8, seed=1), rand(3, 6, 4, seed=2), rand(7, 8, seed=3)
    logits = lora_logits(w_l, projected(x, a), b, LAYOUT)
    for row, token in TOKENS:
        explicit = w_l @ (b[row] @ (a[row] @ x[token]))
        assert torch.allclose(logits[token], explicit, atol=1e-12)


def test_lora_router_is_invariant_under_a_change_of_rank_basis() -> None:
    """B -> BM, A -> M^-1 A leaves the LoRA and its routing unchanged; A x alone would change."""
    w_l, a, b, x = rand(5, 6), rand(3, 4, 8, seed=1), rand(3, 6, 4, seed=2), rand(7, 8, seed=3)
    m = rand(4, 4, seed=4) + 3 * torch.eye(4, dtype=torch.float64)
    a2, b2 = torch.linalg.inv(m) @ a, b @ m
    before = lora_logits(w_l, projected(x, a), b, LAYOUT)
    after = lora_logits(w_l, projected(x, a2), b2, LAYOUT)
    assert torch.allclose(before, after, atol=1e-10)
    assert not torch.allclose(projected(x, a), projected(x, a2))


def test_routing_is_float32_under_bfloat16() -> None:
    w_t, x = rand(5, 8, dtype=torch.float32), rand(7, 8, seed=2, dtype=torch.bfloat16)
    logits = text_logits(w_t, x)
    assert logits.dtype is torch.float32
    assert torch.allclose(logits, x.float() @ w_t.T)
    hidden = rand(7, 3, dtype=torch.bfloat16)
    assert lora_logits(rand(5, 6), hidden, rand(3, 6, 3), LAYOUT).dtype is torch.float32


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 200))
def test_weights_sum_to_one_for_every_token(seed: int, scale: float) -> None:
    text, user = rand(2, 3, 5, seed=seed) * scale, rand(2, 1, 5, seed=seed + 1) * scale
    for how in RouterMerge:
        weights = merge(text, user, how)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))
        assert (weights >= 0).all()
