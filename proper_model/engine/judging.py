"""Loss on held-back items, by which learning rate, epochs and embeddings are chosen.

Two models are mixed in probability, token by token: `p = w p_above + (1 - w) p_below`. From what both
give the right tokens every weight can be read off; a temperature needs the whole vocabulary.

Letters: K answer tokens, V vocabulary, T temperatures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proper_model.engine.memory import in_parts
from proper_model.kernels.packing import Batch, Encoded, budget_chunks
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import mixed
from proper_model.model.passes import Pass
from proper_model.text.encoding import Encoder


def held_back_losses(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[tuple[int, Encoded]],
    make_pass: Callable[[Tensor], Pass],
    tokens: int,
) -> Tensor:
    """Loss per answer token of (slot, sample) pairs, without dropout or gradient: [len(samples)].

    `tokens`: most tokens of one pass.
    """
    losses = torch.zeros(len(samples), dtype=torch.float64)

    def judge(chunk: Sequence[int], batch: Batch) -> None:
        losses[list(chunk)] = model.answer_loss(batch, make_pass(batch.slots)).double().cpu()

    _each_pass(model, encoder, samples, tokens, judge)
    return losses


def held_back_log_probs(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[tuple[int, Encoded]],
    make_pass: Callable[[Tensor], Pass],
    tokens: int,
) -> list[Tensor]:
    """As `held_back_losses`, token by token: of every sample log p of its answer's tokens, [K]."""
    found = [torch.zeros(0)] * len(samples)

    def judge(chunk: Sequence[int], batch: Batch) -> None:
        values = -model.answer_nll(batch, make_pass(batch.slots)).double().cpu()
        for i, own in zip(chunk, values.split(list(batch.answer_tokens)), strict=True):
            found[i] = own

    _each_pass(model, encoder, samples, tokens, judge)
    return found


def tempered_losses(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[tuple[int, Encoded]],
    passes: tuple[Callable[[Tensor], Pass], Callable[[Tensor], Pass]],
    weights: Sequence[float],
    temperatures: Sequence[float],
    tokens: int,
) -> Tensor:
    """Losses of two models mixed, at every temperature: [samples, T].

    Args:
        passes: of the model above, then of that below.
        weights: of the model above, one a sample.
    """
    losses = torch.zeros(len(samples), len(temperatures), dtype=torch.float64)

    def judge(chunk: Sequence[int], batch: Batch) -> None:
        above, below = (
            model.answer_logits(batch, make(batch.slots)).double().log_softmax(-1)
            for make in passes
        )
        own = above.new_tensor([weights[i] for i in chunk])[batch.answer_rows]
        both = mixed(above, below, own[:, None])
        counts = torch.tensor(batch.answer_tokens, device=above.device)
        for column, temperature in enumerate(temperatures):
            sharp = (both / temperature).log_softmax(-1)
            nll = -sharp.gather(1, batch.answers[:, None])[:, 0]
            losses[list(chunk), column] = (batch.by_row(nll) / counts).cpu()

    _each_pass(model, encoder, samples, tokens, judge)
    return losses


def _each_pass(
    model: AdaptedModel,
    encoder: Encoder,
    samples: Sequence[tuple[int, Encoded]],
    tokens: int,
    judge: Callable[[Sequence[int], Batch], None],
) -> None:
    """`judge` every pass of at most so many tokens: numbers of its samples, and its batch."""

    def run(chunk: Sequence[int]) -> None:
        rows = [samples[i] for i in chunk]
        batch = encoder.batch(
            [sample for _, sample in rows], [slot for slot, _ in rows], device=model.device
        )
        judge(chunk, batch)

    lengths = [len(sample.tokens) for _, sample in samples]
    with torch.no_grad():
        for chunk in budget_chunks(lengths, tokens):
            in_parts(chunk, run, model.device)


def by_person(losses: Tensor, owners: Sequence[int]) -> Tensor:
    """Every person's mean of the losses [I] that are theirs, persons in the order of `owners`: [P]."""
    _, places = torch.unique(torch.tensor(list(owners), dtype=torch.long), return_inverse=True)
    people = int(places.max()) + 1 if len(places) else 0
    sums = torch.zeros(people, dtype=losses.dtype).index_add_(0, places, losses)
    return sums / torch.bincount(places, minlength=people)
