"""Asking the model: per-row users in generation, gold losses, expected scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from proper_model.answering import batched
from proper_model.answering.batched import Answer, Question, answer_queries, label_starts
from proper_model.errors import MetricError
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.presets import UserRouting
from proper_model.tasks.task import Example
from proper_model.text.encoding import Encoder
from tests.test_encoding import WordTokenizer
from tests.tiny import VOCABULARY, adapted, embeddings_of

WORDS = ["alpha", "beta", "gamma", "delta", "1", "2", "3", "4", "5"]


def make_encoder() -> Encoder:
    tokenizer = WordTokenizer()
    for word in WORDS:
        tokenizer(word)
    return Encoder(tokenizer, max_prompt_tokens=16, max_answer_tokens=6)


class Setting:
    """A model with three noisy users, and passes over it."""

    def __init__(self) -> None:
        self.model = adapted()
        self.embeddings = embeddings_of(self.model, 3)
        self.encoder = make_encoder()

    def make_pass(self, slots: torch.Tensor) -> Pass:
        return personal_pass(
            slots, embeddings=self.embeddings, routing=UserRouting.SUMMED, experts=True
        )

    def answers(self, queries: list[tuple[int, Example]], **knobs: Any) -> list[Answer]:
        limits = knobs.get("limits") or [4] * len(queries)
        return answer_queries(
            self.model,
            self.encoder,
            [
                Question(slot, example, knobs.get("labels", ()), limit)
                for (slot, example), limit in zip(queries, limits, strict=True)
            ],
            self.make_pass,
            tokens_per_step=knobs.get("tokens_per_step", 1000),
        )


QUERIES = [
    (0, Example("a", "alpha beta", "1")),
    (2, Example("b", "gamma delta alpha", "3")),
    (1, Example("c", "beta", "5 4")),
    (0, Example("d", "delta", "2")),
]


def test_logits_are_made_for_few_answers_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a large vocabulary's logits is its largest activation; the answers stay the same."""
    setting = Setting()
    whole = setting.answers(QUERIES, labels=tuple("12345"))
    made: list[int] = []
    real = AdaptedModel.answer_logits

    def watched(model: AdaptedModel, batch: Batch, now: Pass) -> torch.Tensor:
        logits = real(model, batch, now)
        made.append(logits.numel())
        return logits

    monkeypatch.setattr(AdaptedModel, "answer_logits", watched)
    monkeypatch.setattr(batched, "CHUNK", 3 * VOCABULARY)
    cut = setting.answers(QUERIES, labels=tuple("12345"))
    assert len(made) > 1
    assert max(made) <= 3 * VOCABULARY
    for ours, theirs in zip(cut, whole, strict=True):
        assert (ours.output, ours.answer_tokens) == (theirs.output, theirs.answer_tokens)
        assert ours.nll == pytest.approx(theirs.nll, abs=1e-5)
        assert ours.expected == pytest.approx(theirs.expected, abs=1e-5)


def test_a_batch_of_users_equals_one_query_at_a_time() -> None:
    setting = Setting()
    together = setting.answers(QUERIES)
    for query, ours in zip(QUERIES, together, strict=True):
        (alone,) = setting.answers([query])
        assert ours.output == alone.output
        assert ours.nll == pytest.approx(alone.nll, abs=1e-5)
        assert ours.answer_tokens == alone.answer_tokens
    assert [a.output for a in setting.answers(QUERIES, tokens_per_step=12)] == [
        a.output for a in together
    ]


def test_generation_is_greedy_step_by_step() -> None:
    setting = Setting()
    (answer,) = setting.answers(QUERIES[:1])
    tokens = setting.encoder.prompt(QUERIES[0][1].prompt)
    new: list[int] = []
    with setting.model.attached(), torch.no_grad():
        for _ in range(4):
            with setting.model.running(setting.make_pass(torch.tensor([0]))):
                logits = setting.model.base(torch.tensor([tokens + new])).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] == setting.encoder.eos:
                break
    assert answer.output == setting.encoder.decode(new)
    assert answer.output


def test_gold_loss_counts_answer_and_end() -> None:
    setting = Setting()
    (answer,) = setting.answers(QUERIES[2:3])
    sample = setting.encoder.encode(QUERIES[2][1])
    now = setting.make_pass(torch.tensor([1]))
    with torch.no_grad(), setting.model.attached(), setting.model.running(now):
        logits = setting.model.base(torch.tensor([sample.tokens])).logits[0]
    scores = logits.log_softmax(-1)
    expected = -sum(
        float(scores[i - 1, sample.tokens[i]])
        for i in range(sample.prompt_tokens, len(sample.tokens))
    )
    assert answer.nll == pytest.approx(expected, abs=1e-5)
    assert answer.answer_tokens == 3


def test_expected_score_is_the_mean_over_the_label_distribution() -> None:
    setting = Setting()
    labels = ("1", "2", "3", "4", "5")
    (answer,) = setting.answers(QUERIES[:1], labels=labels)
    prompt = setting.encoder.prompt(QUERIES[0][1].prompt)
    now = setting.make_pass(torch.tensor([0]))
    with torch.no_grad(), setting.model.attached(), setting.model.running(now):
        logits = setting.model.base(torch.tensor([prompt])).logits[0, -1]
    words = setting.encoder.tokenizer.words
    weights = [math.exp(float(logits[words[label]])) for label in labels]
    expected = sum(w * float(label) for w, label in zip(weights, labels, strict=True))
    assert answer.expected == pytest.approx(expected / sum(weights), abs=1e-5)
    assert 1 < answer.expected < 5


def test_labels_that_start_alike_cannot_be_told_apart_at_one_position() -> None:
    with pytest.raises(MetricError, match="different tokens"):
        Setting().answers(QUERIES[:1], labels=("1 2", "1 3", "4"))


def test_an_answer_does_not_depend_on_other_questions_limits() -> None:
    setting = Setting()
    alone = [setting.answers([query], limits=[2])[0].output for query in QUERIES]
    mixed = setting.answers(QUERIES, limits=[2, 5, 2, 2])
    assert [mixed[i].output for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]


def test_labels_behind_a_common_token_are_read_where_they_part() -> None:
    """Many tokenizers write " 5" as a space token and a digit token."""
    setting = Setting()
    example = Example("a", "alpha beta", "gamma 2")
    labels = ("gamma 1", "gamma 2", "gamma 3")
    found = label_starts(setting.encoder, example, labels)
    words = setting.encoder.tokenizer.words
    assert found.prefix == 1
    assert found.tokens == tuple(words[digit] for digit in "123")
