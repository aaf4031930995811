"""Asking the model: greedy answers, answer loss, and the expected score over labels.

Every row of a batch uses its own user's slot, in decoding too. Where two passes are mixed, output,
loss and expected score are those of the mixture (docs/method.md 1.9).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from proper_model.answering.decoding import greedy
from proper_model.engine.memory import in_parts
from proper_model.errors import MetricError
from proper_model.kernels.packing import Encoded, token_nll
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import CHUNK
from proper_model.model.mixture import MakePass, Mixture
from proper_model.progress import Steps
from proper_model.tasks.task import Example
from proper_model.text.encoding import FILL, Encoder, padded_chunks

# Decoding keeps keys and values of all rows; a bound on rows keeps that small on a CPU.
MAX_ROWS = 64


@dataclass(frozen=True)
class Answer:
    """One query's greedy output, summed gold loss in nats, gold tokens, expected score."""

    output: str
    nll: float
    answer_tokens: int
    expected: float | None


@dataclass(frozen=True)
class Question:
    """One example to answer.

    Attributes:
        slot: whose user state answers it.
        labels: numeric labels to take the expected score over, or empty.
        max_new_tokens: longest answer, end included. A question's own, so that an answer never
            depends on what else is in the batch.
    """

    slot: int
    example: Example
    labels: tuple[str, ...]
    max_new_tokens: int


def answer_queries(
    model: AdaptedModel,
    encoder: Encoder,
    questions: Sequence[Question],
    make_pass: MakePass | Mixture,
    *,
    tokens_per_step: int,
    progress: Steps | None = None,
) -> list[Answer]:
    """Answer questions, each by its own user; `make_pass` turns row slots into a pass.

    Of a mixture, people who need both passes are asked apart from those who need one.
    """
    mixture = Mixture.of(make_pass)
    samples = [encoder.encode(question.example) for question in questions]
    asked_first = {q.labels: q for q in reversed(questions) if q.labels}
    starts = {
        labels: label_starts(encoder, question.example, labels)
        for labels, question in asked_first.items()
    }
    answers: dict[int, Answer] = {}
    lengths = [
        len(sample.tokens) + question.max_new_tokens
        for sample, question in zip(samples, questions, strict=True)
    ]

    def answer(chunk: Sequence[int]) -> None:
        rows = [samples[i] for i in chunk]
        asked = [questions[i] for i in chunk]
        outputs = _generate(model, encoder, rows, asked, mixture)
        positions = [starts.get(question.labels, LabelStarts(0, ())) for question in asked]
        losses, scores = _judge_gold(model, encoder, rows, asked, mixture, positions)
        for k, i in enumerate(chunk):
            score = _expected(asked[k].labels, scores[k])
            answers[i] = Answer(outputs[k], losses[k], rows[k].answer_tokens, score)
        if progress:
            progress(len(answers), len(questions))

    alike: dict[tuple[bool, bool], list[int]] = {}
    for i, question in enumerate(questions):
        alike.setdefault(mixture.needs(question.slot), []).append(i)
    for group in alike.values():
        for wide in padded_chunks([lengths[i] for i in group], tokens_per_step, fill=FILL):
            for begin in range(0, len(wide), MAX_ROWS):
                chunk = [group[place] for place in wide[begin : begin + MAX_ROWS]]
                in_parts(chunk, answer, model.device)
    return [answers[i] for i in range(len(questions))]


def _generate(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[Encoded],
    questions: Sequence[Question],
    mixture: Mixture,
) -> list[str]:
    tokens, _ = greedy(
        model,
        encoder,
        [s.tokens[: s.prompt_tokens] for s in samples],
        [q.slot for q in questions],
        mixture,
        max_new_tokens=max(q.max_new_tokens for q in questions),
    )
    return [
        encoder.decode(row[: question.max_new_tokens])
        for row, question in zip(tokens.tolist(), questions, strict=True)
    ]


@torch.no_grad()
def _judge_gold(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[Encoded],
    questions: Sequence[Question],
    mixture: Mixture,
    starts: Sequence[LabelStarts],
) -> tuple[list[float], list[list[float]]]:
    """Summed loss of the gold answers, and log-probabilities of the tokens that tell labels apart."""
    losses: list[float] = []
    scores: list[list[float]] = []
    for part in _within_logits(samples, len(model.base.get_output_embeddings().weight)):
        batch = encoder.batch(samples[part], [q.slot for q in questions[part]], device=model.device)
        logits = mixture.over(batch.slots).answer_logits(model, batch)
        losses += batch.by_row(token_nll(logits, batch.answers)).tolist()
        for own, start in zip(logits.split(batch.answer_tokens), starts[part], strict=True):
            # The gold answer is a label, so it shares the tokens before that one.
            found = own[start.prefix].double().log_softmax(-1)
            scores.append([float(found[token]) for token in start.tokens])
    return losses, scores


def _within_logits(samples: Sequence[Encoded], vocabulary: int) -> Iterator[slice]:
    """Consecutive samples whose answers need at most CHUNK logits together; one at least."""
    start = logits = 0
    for end, sample in enumerate(samples):
        own = sample.answer_tokens * vocabulary
        if end > start and logits + own > CHUNK:
            yield slice(start, end)
            start, logits = end, 0
        logits += own
    yield slice(start, len(samples))


@dataclass(frozen=True)
class LabelStarts:
    """How many answer tokens all labels share, and each label's first own token."""

    prefix: int
    tokens: tuple[int, ...]


def label_starts(encoder: Encoder, example: Example, labels: Sequence[str]) -> LabelStarts:
    """Where labels part: many tokenizers put a token for the space before every digit.

    Raises MetricError if two labels cannot be told apart at that one position.
    """
    answers = []
    for label in labels:
        sample = encoder.encode(replace(example, answer=label))
        answers.append(sample.tokens[sample.prompt_tokens :])
    prefix = 0
    while all(len(a) > prefix + 1 and a[prefix] == answers[0][prefix] for a in answers):
        prefix += 1
    tokens = tuple(answer[prefix] for answer in answers)
    if len(set(tokens)) != len(tokens):
        raise MetricError(
            f"{len(labels)} labels part into only {len(set(tokens))} different tokens, so "
            "mae_expected cannot be read off one position",
            hint="leave mae_expected out of the task's metrics for this base",
        )
    return LabelStarts(prefix, tokens)


def _expected(labels: Sequence[str], scores: Sequence[float]) -> float | None:
    """`sum_k k P(k)`, P renormalized over the numeric labels."""
    if not labels:
        return None
    values = torch.tensor([float(label) for label in labels], dtype=torch.float64)
    return float(torch.tensor(scores, dtype=torch.float64).softmax(0) @ values)
