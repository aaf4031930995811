"""Prompts, answers, left-padded batches, the order of an epoch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proper_model.errors import BaseModelError
from proper_model.kernels.packing import Encoded
from proper_model.tasks.task import Example
from proper_model.text.encoding import Encoder, epoch_order, padded_chunks


class WordTokenizer:
    """One id a word, a BOS in front, as a Llama tokenizer with spaces as boundaries."""

    eos_token_id = 1
    pad_token_id = 0
    chat_template: str | None = None

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [self.words.setdefault(w, len(self.words) + 10) for w in text.split()]
        return {"input_ids": ([2] if add_special_tokens else []) + ids}

    def decode(self, tokens: list[int], *, skip_special_tokens: bool) -> str:
        names = {v: k for k, v in self.words.items()}
        return (
            " "
            + " ".join(names.get(t, f"#{t}") for t in tokens if t >= 10 or not skip_special_tokens)
            + " "
        )

    def apply_chat_template(
        self, turns: Any, *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        return f"<user> {turns[0]['content']} <bot> "


def make(**limits: int) -> Encoder:
    return Encoder(WordTokenizer(), **{"max_prompt_tokens": 20, "max_answer_tokens": 5, **limits})


def test_prompt_answer_end() -> None:
    encoder = make()
    sample = encoder.encode(Example("1", "tag of this film:", "dark comedy"))
    assert sample.prompt_tokens == 5  # BOS and four words
    assert sample.answer_tokens == 3  # two words and the end
    assert sample.tokens[-1] == 1
    assert encoder.decode(list(sample.tokens[5:])) == "dark comedy"
    assert list(sample.tokens[:5]) == encoder.prompt("tag of this film:")


def test_long_prompts_keep_their_start_and_their_cue() -> None:
    encoder = make(max_prompt_tokens=9)
    words = [f"w{i}" for i in range(30)]
    ids = encoder.prompt(" ".join(words))
    assert len(ids) == 9
    whole = make(max_prompt_tokens=100)
    whole.tokenizer = encoder.tokenizer
    full = whole.prompt(" ".join(words))
    assert ids == full[:6] + full[-3:]


def test_long_answers_keep_their_end_token() -> None:
    sample = make().encode(Example("1", "p", "a b c d e f g h"))
    assert sample.answer_tokens == 5
    assert sample.tokens[-1] == 1


def test_a_chat_base_is_asked_through_its_template_without_a_second_bos() -> None:
    tokenizer = WordTokenizer()
    tokenizer.chat_template = "yes"
    encoder = Encoder(tokenizer, max_prompt_tokens=20, max_answer_tokens=5)
    sample = encoder.encode(Example("1", "question", "answer"))
    assert sample.tokens[: sample.prompt_tokens] == tuple(
        tokenizer.words[w] for w in ("<user>", "question", "<bot>")
    )


def test_a_tokenizer_without_end_is_refused() -> None:
    tokenizer = WordTokenizer()
    tokenizer.eos_token_id = None  # type: ignore[assignment]
    with pytest.raises(BaseModelError, match="end-of-sequence"):
        Encoder(tokenizer, max_prompt_tokens=20, max_answer_tokens=5)


def test_batches_are_left_padded_and_only_answers_carry_loss() -> None:
    batch = make().padded([Encoded((5, 6, 7, 1), 2), Encoded((8, 9, 1), 1)], [4, 2])
    assert batch.input_ids.tolist() == [[5, 6, 7, 1], [0, 8, 9, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]
    assert batch.labels.tolist() == [[-100, -100, 7, 1], [-100, -100, 9, 1]]
    assert batch.prompt_mask.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert batch.slots.tolist() == [4, 2]
    assert batch.answer_width == 2


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(10, 120))
def test_chunks_cover_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    chunks = list(padded_chunks(lengths, budget))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        longest = max(lengths[i] for i in chunk)
        assert len(chunk) == 1 or len(chunk) * longest <= budget


def test_rows_of_very_different_lengths_are_cut_apart() -> None:
    lengths = [200, 20, 21, 200, 19, 20, *[20] * 9]
    assert list(padded_chunks(lengths, 10_000)) == [sorted(range(15), key=lengths.__getitem__)]
    apart = list(padded_chunks(lengths, 10_000, fill=0.9))
    assert [sorted(lengths[i] for i in chunk) for chunk in apart] == [
        [19, *[20] * 11, 21],
        [200, 200],
    ]
    # A handful of tokens is not worth a pass of its own.
    assert len(list(padded_chunks([20, 200], 10_000, fill=0.9))) == 1


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    assert sorted(epoch_order(9, seed=1, epoch=0)) == list(range(9))
    assert epoch_order(9, seed=1, epoch=0) == epoch_order(9, seed=1, epoch=0)
    assert epoch_order(9, seed=1, epoch=0) != epoch_order(9, seed=1, epoch=1)
    assert epoch_order(9, seed=1, epoch=0) != epoch_order(9, seed=2, epoch=0)
