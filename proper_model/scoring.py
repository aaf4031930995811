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
from proper_model.model import AdaptedModel, Pass, answer_loss_sum
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
            losses = _gold_losses(model, encoder, rows, own, make_pass)
            expected = _expected_scores(
                model, encoder, [queries[i][1] for i in chunk], [labels[i] for i in chunk], own,
                make_pass, tokens_per_step,
            )
            for i, output, loss, score in zip(chunk, outputs, losses, expected, strict=True):
                answers[i] = Answer(output, loss, samples[i].answer_tokens, score)
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
def _gold_losses(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[Encoded],
    slots: Sequence[int],
    make_pass: Callable[[Tensor], Pass],
) -> list[float]:
    batch = encoder.batch(samples, slots, device=model.device)
    now = make_pass(batch.slots)
    now.prompt_mask = batch.prompt_mask
    return [float(loss) for loss in answer_loss_sum(model, batch, now)]


@torch.no_grad()
def _expected_scores(
    model: AdaptedModel,
    encoder: Encoder,
    examples: Sequence[Example],
    labels: Sequence[Sequence[str] | None],
    slots: Sequence[int],
    make_pass: Callable[[Tensor], Pass],
    tokens_per_step: int,
) -> list[float | None]:
    """`sum_k k P(k)` with P the softmax over the numeric labels' log-likelihoods, end included."""
    rows = [
        (query, label, encoder.encode(Example(e.id, e.prompt, label)))
        for query, (e, names) in enumerate(zip(examples, labels, strict=True))
        for label in names or ()
    ]
    scores = torch.zeros(len(rows), dtype=torch.float64)
    for chunk in token_budget_chunks([len(s.tokens) for _, _, s in rows], tokens_per_step):
        batch = encoder.batch(
            [rows[i][2] for i in chunk], [slots[rows[i][0]] for i in chunk], device=model.device
        )
        now = make_pass(batch.slots)
        now.prompt_mask = batch.prompt_mask
        scores[chunk] = -answer_loss_sum(model, batch, now).double().cpu()
    result: list[float | None] = []
    position = 0
    for names in labels:
        if not names:
            result.append(None)
            continue
        own = scores[position : position + len(names)]
        position += len(names)
        values = torch.tensor([float(name) for name in names], dtype=torch.float64)
        result.append(float(own.softmax(0) @ values))
    return result
