"""Asking the model: greedy answers, answer loss, and the expected score over labels.

Every row of a batch uses its own user's slot, in decoding too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proper_model.cohort import Progress
from proper_model.encoding import Encoded, Encoder, token_budget_chunks
from proper_model.errors import MetricError
from proper_model.model import AdaptedModel, answer_logits, sequence_nll
from proper_model.passes import Pass
from proper_model.tasks import Example

# Decoding keeps keys and values of all rows; a bound on rows keeps that small on a CPU.
MAX_ROWS = 64


@dataclass(frozen=True)
class Answer:
    """One query's greedy output, summed gold loss in nats, gold tokens, expected score."""

    output: str
    nll: float
    answer_tokens: int
    expected: float | None


def answer_queries(
    model: AdaptedModel,
    encoder: Encoder,
    queries: Sequence[tuple[int, Example]],
    make_pass: Callable[[Tensor], Pass],
    *,
    labels: Sequence[Sequence[str] | None],
    max_new_tokens: int,
    tokens_per_step: int,
    progress: Progress | None = None,
) -> list[Answer]:
    """Answer (slot, example) pairs.

    Args:
        labels: per query, the numeric labels to take the expected score over, or None.
        max_new_tokens: longest answer, end included.
    """
    samples = [encoder.encode(example) for _, example in queries]
    slots = [slot for slot, _ in queries]
    answers: dict[int, Answer] = {}
    lengths = [len(sample.tokens) + max_new_tokens for sample in samples]
    for wide in token_budget_chunks(lengths, tokens_per_step):
        for start in range(0, len(wide), MAX_ROWS):
            chunk = wide[start : start + MAX_ROWS]
            rows = [samples[i] for i in chunk]
            own = [slots[i] for i in chunk]
            outputs = _generate(model, encoder, rows, own, make_pass, max_new_tokens)
            names = [labels[i] or () for i in chunk]
            starts = [
                label_starts(encoder, queries[i][1], own_names) if own_names else []
                for i, own_names in zip(chunk, names, strict=True)
            ]
            losses, scores = _judge_gold(model, encoder, rows, own, make_pass, starts)
            for k, i in enumerate(chunk):
                score = _expected(names[k], scores[k])
                answers[i] = Answer(outputs[k], losses[k], samples[i].answer_tokens, score)
            if progress:
                progress(len(answers), len(queries))
    return [answers[i] for i in range(len(queries))]


@torch.no_grad()
def _generate(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[Encoded],
    slots: Sequence[int],
    make_pass: Callable[[Tensor], Pass],
    max_new_tokens: int,
) -> list[str]:
    # A prompt is a sample whose answer is empty: no label, nothing to leak.
    prompts = [Encoded(s.tokens[: s.prompt_tokens], s.prompt_tokens) for s in samples]
    batch = encoder.batch(prompts, slots, device=model.device)
    now = make_pass(batch.slots)
    now.prompt_mask = batch.prompt_mask
    with model.attached(), model.running(now):
        tokens = model.base.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=encoder.pad,
            eos_token_id=encoder.eos,
        )
    return [encoder.decode(row) for row in tokens[:, batch.input_ids.shape[1] :].tolist()]


@torch.no_grad()
def _judge_gold(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[Encoded],
    slots: Sequence[int],
    make_pass: Callable[[Tensor], Pass],
    first_tokens: Sequence[Sequence[int]],
) -> tuple[list[float], list[list[float]]]:
    """Summed loss of the gold answers, and log-probabilities of given tokens as answer starts."""
    batch = encoder.batch(samples, slots, device=model.device)
    now = make_pass(batch.slots)
    now.prompt_mask = batch.prompt_mask
    logits, labels = answer_logits(model, batch, now)
    losses = [float(loss) for loss in sequence_nll(logits, labels)]
    starts = []
    for row, tokens in enumerate(first_tokens):
        position = logits.shape[1] - 1 - samples[row].answer_tokens
        scores = logits[row, position].double().log_softmax(-1)
        starts.append([float(scores[token]) for token in tokens])
    return losses, starts


def label_starts(encoder: Encoder, example: Example, labels: Sequence[str]) -> list[int]:
    """The first answer token of every label; they must differ to tell labels apart.

    Raises MetricError otherwise: the expected score reads one position only.
    """
    starts = []
    for label in labels:
        sample = encoder.encode(Example(example.id, example.prompt, label))
        starts.append(sample.tokens[sample.prompt_tokens])
    if len(set(starts)) != len(starts):
        raise MetricError(
            f"{len(starts)} labels start with only {len(set(starts))} different tokens, so "
            "mae_expected cannot be read off one position",
            hint="leave mae_expected out of the task's metrics for this base",
        )
    return starts


def _expected(labels: Sequence[str], scores: Sequence[float]) -> float | None:
    """`sum_k k P(k)`, P renormalized over the numeric labels."""
    if not labels:
        return None
    values = torch.tensor([float(label) for label in labels], dtype=torch.float64)
    return float(torch.tensor(scores, dtype=torch.float64).softmax(0) @ values)
