"""Packed batches: one by hand, rows found again from tokens, and the cut into passes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from proper_model.kernels.packing import Encoded, budget_chunks, pack

# A prompt of two tokens and an answer of two, one and one (nothing but the end), three and one.
ROWS = (Encoded((5, 6, 7, 1), 2), Encoded((8, 1), 1), Encoded((9, 10, 11, 1), 3))


def test_a_batch_by_hand() -> None:
    batch = pack(ROWS, [4, 2, 4], seeds=[70, 71, 72])
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 8, 1, 9, 10, 11, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3]]
    assert batch.prompt_mask.int().tolist() == [1, 1, 0, 0, 1, 0, 1, 1, 1, 0]
    assert batch.slots.tolist() == [4, 2, 4]
    assert batch.layout.lengths == (4, 2, 4)
    assert batch.answers.tolist() == [7, 1, 1, 1]
    assert batch.answer_at.tolist() == [1, 2, 4, 8]
    assert batch.answer_rows.tolist() == [0, 0, 1, 2]
    assert batch.answer_tokens == (2, 1, 1)
    assert batch.seeds == (70, 71, 72)


def test_sums_are_over_a_rows_own_answer() -> None:
    sums = pack(ROWS, [0, 0, 0]).by_row(torch.tensor([1.0, 20.0, 300.0, 4000.0]))
    assert sums.tolist() == [21.0, 300.0, 4000.0]


def test_a_row_without_an_answer_sums_to_nothing() -> None:
    batch = pack((ROWS[0], Encoded((3, 4), 2)), [0, 1])
    assert batch.answer_rows.tolist() == [0, 0]
    assert batch.answer_tokens == (2, 0)
    assert batch.by_row(torch.ones(2)).tolist() == [2.0, 0.0]


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    tokens = tuple(draw(st.lists(st.integers(2, 99), min_size=2, max_size=6)))
    return Encoded(tokens, draw(st.integers(1, len(tokens) - 1)))


@given(rows=st.lists(encoded(), min_size=1, max_size=6))
def test_every_row_is_found_again(rows: list[Encoded]) -> None:
    batch = pack(rows, list(range(len(rows))))
    assert batch.seeds is None
    together = zip(
        batch.input_ids[0].split(batch.layout.lengths),
        batch.position_ids[0].split(batch.layout.lengths),
        batch.prompt_mask.split(batch.layout.lengths),
        batch.answers.split(batch.answer_tokens),
        strict=True,
    )
    for row, (tokens, positions, prompt, answer) in zip(rows, together, strict=True):
        assert tuple(tokens.tolist()) == row.tokens
        assert positions.tolist() == list(range(len(row.tokens)))
        assert tuple(tokens[prompt].tolist()) == row.tokens[: row.prompt_tokens]
        assert tuple(answer.tolist()) == row.tokens[row.prompt_tokens :]
    # A logit predicts the token behind it, which is of the same row.
    assert torch.equal(batch.input_ids[0, batch.answer_at + 1], batch.answers)
    assert torch.equal(batch.layout.rows[batch.answer_at], batch.answer_rows)


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(10, 120))
def test_chunks_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    chunks = list(budget_chunks(lengths, budget))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in chunk) for chunk in chunks]
    for chunk, size in zip(chunks, sizes, strict=True):
        assert len(chunk) == 1 or size <= budget
    # Shortest first, and no pass ends before it is full.
    order = [lengths[i] for chunk in chunks for i in chunk]
    assert order == sorted(lengths)
    for size, after in zip(sizes, chunks[1:], strict=False):
        assert size + lengths[after[0]] > budget


def test_equal_lengths_keep_their_order_and_a_long_row_goes_alone() -> None:
    assert list(budget_chunks([4, 9, 4, 30, 4, 2], 12)) == [[5, 0, 2], [4], [1], [3]]
    assert list(budget_chunks([], 12)) == []
