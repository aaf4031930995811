"""Attention over packed rows: the literal formula of every row by itself is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from proper_model.errors import BaseModelError
from proper_model.kernels.attention import NAME, attend, packed_attention
from proper_model.kernels.layout import Layout
from tests.tiny import VOCABULARY, exact_norms, tiny_base

WIDTH = 3
UNEQUAL, EQUAL = [3, 7, 7, 1, 5], [4, 4, 4]
MODULE = torch.nn.Identity()
# Query heads, key heads: as many, several queries a key, one key for all.
HEADS = [(2, 2), (4, 2), (2, 1)]


def inputs(heads: int, key_heads: int, lengths: list[int], seed: int = 0) -> list[Tensor]:
    """Leaves q [1, H, M, h] and k, v [1, Hk, M, h]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, n, sum(lengths), WIDTH) for n in (heads, key_heads, key_heads)]
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [leaf.requires_grad_() for leaf in drawn]


def literal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(q k^T s) v, a row, a head and a token at a time: [1, M, H, h]."""
    heads, key_heads = q.shape[1], k.shape[1]
    out = []
    for row in torch.arange(sum(lengths)).split(lengths):
        for place, token in enumerate(row):
            seen = row[: place + 1] if window is None else row[: place + 1][-window:]
            for head in range(heads):
                own = head // (heads // key_heads)
                scores = (k[0, own, seen] @ q[0, head, token]) * scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                out.append(scores.softmax(0) @ v[0, own, seen])
    return torch.stack(out).view(1, -1, heads, WIDTH)


def packed(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], **knobs: float | None) -> Tensor:
    out, weights = attend(MODULE, q, k, v, None, layout=Layout.of(lengths), **knobs)  # type: ignore[arg-type]
    assert weights is None
    return out


@pytest.mark.parametrize("lengths", [UNEQUAL, EQUAL, [1], [1, 1]])
@pytest.mark.parametrize(("heads", "key_heads"), HEADS)
@pytest.mark.parametrize(
    ("window", "softcap"), [(None, None), (3, None), (None, 0.7), (2, 0.7), (7, None)]
)
def test_every_token_and_gradient_equals_the_formula(
    lengths: list[int], heads: int, key_heads: int, window: int | None, softcap: float | None
) -> None:
    leaves = inputs(heads, key_heads, lengths)
    ours = packed(*leaves, lengths, scaling=0.6, sliding_window=window, softcap=softcap)
    theirs = literal(*leaves, lengths, scale=0.6, window=window, softcap=softcap)
    assert torch.allclose(ours, theirs, atol=1e-12)
    seed = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).double()
    found = torch.autograd.grad(ours, leaves, seed)
    expected = torch.autograd.grad(theirs, leaves, seed)
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)


def test_scores_are_scaled_by_the_heads_width_unless_told_otherwise() -> None:
    leaves = inputs(2, 2, UNEQUAL)
    expected = literal(*leaves, UNEQUAL, scale=WIDTH**-0.5)
    assert torch.allclose(packed(*leaves, UNEQUAL), expected, atol=1e-12)


@pytest.mark.parametrize(("heads", "key_heads"), HEADS)
def test_a_rows_result_does_not_depend_on_other_rows(heads: int, key_heads: int) -> None:
    """To the bit where its group is the same; to rounding where the group is larger."""
    leaves = inputs(heads, key_heads, UNEQUAL)
    together = packed(*leaves, UNEQUAL)
    pair = [leaf[:, :, 3:17] for leaf in leaves]  # rows 1 and 2, one group of sevens
    assert torch.equal(packed(*pair, [7, 7]), together[:, 3:17])
    for row, tokens in enumerate(torch.arange(sum(UNEQUAL)).split(UNEQUAL)):
        alone = packed(*(leaf[:, :, tokens] for leaf in leaves), UNEQUAL[row : row + 1])
        assert torch.allclose(alone, together[:, tokens], atol=1e-12)


def test_a_mask_or_sinks_of_a_bases_own_are_refused() -> None:
    q, k, v = inputs(2, 2, EQUAL)
    layout = Layout.of(EQUAL)
    with pytest.raises(BaseModelError, match="mask or sinks"):
        attend(MODULE, q, k, v, torch.zeros(1, 1, 12, 12), layout=layout)
    with pytest.raises(BaseModelError, match="mask or sinks"):
        attend(MODULE, q, k, v, None, layout=layout, s_aux=torch.zeros(2))


@pytest.mark.parametrize("values", [torch.bfloat16, torch.float32])
def test_under_autocast_values_say_the_dtype(values: torch.dtype) -> None:
    """Autocast leaves rotated queries and keys in float32 and makes values bfloat16."""
    leaves = inputs(4, 2, UNEQUAL)
    expected = packed(*leaves, UNEQUAL)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    q, k, v = (leaf.detach().float().requires_grad_() for leaf in leaves)
    with torch.autocast("cpu", torch.bfloat16):
        out = packed(q, k, v.to(values), UNEQUAL)
    assert out.dtype is values
    found = torch.autograd.grad(out.float().square().sum(), [q, k, v])
    for ours, theirs in zip([out, *found], [expected, *wanted], strict=True):
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


KINDS = {
    "as many keys": ("llama", {}),
    "one key for two queries": ("llama", {"num_key_value_heads": 1}),
    "with biases": ("qwen2", {"num_key_value_heads": 1}),
    "a window": ("mistral", {"sliding_window": 3}),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("lengths", [UNEQUAL, EQUAL])
def test_a_base_gives_every_row_what_it_gives_it_alone(kind: str, lengths: list[int]) -> None:
    """Hidden states and gradients of inputs, against Hugging Face's own sdpa a row at a time."""
    architecture, changes = KINDS[kind]
    base = tiny_base(architecture, **changes)
    exact_norms(base)
    base.requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(2, VOCABULARY, (1, sum(lengths)), generator=generator)
    start = base.get_input_embeddings()(tokens).requires_grad_()
    positions = torch.cat([torch.arange(length) for length in lengths])[None]

    def hidden(part: Tensor, **options: object) -> Tensor:
        states: Tensor = base.get_decoder()(inputs_embeds=part, use_cache=False, **options)[0]
        return states

    with packed_attention(base):
        ours = hidden(start, position_ids=positions, layout=Layout.of(lengths))
    theirs = torch.cat([hidden(part) for part in start.split(lengths, dim=1)], dim=1)
    assert torch.allclose(ours, theirs, atol=1e-12)
    seed = torch.randn(ours.shape, generator=generator).double()
    (found,) = torch.autograd.grad(ours, start, seed)
    (expected,) = torch.autograd.grad(theirs, start, seed)
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_bases_own_attention_comes_back_also_after_an_error() -> None:
    base = tiny_base(attn_implementation="eager")
    with packed_attention(base):
        assert base.config._attn_implementation == NAME
        with packed_attention(base):
            pass
        assert base.config._attn_implementation == NAME  # still open further out
    assert base.config._attn_implementation == "eager"

    def fail() -> None:
        with packed_attention(base):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert base.config._attn_implementation == "eager"
