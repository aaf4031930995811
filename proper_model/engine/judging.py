"""Loss on held-back items, by which learning rate, epochs and embeddings are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proper_model.engine.memory import in_parts
from proper_model.kernels.packing import Encoded, budget_chunks
from proper_model.model.adapted_model import AdaptedModel
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
    lengths = [len(sample.tokens) for _, sample in samples]

    def judge(chunk: Sequence[int]) -> None:
        rows = [samples[i] for i in chunk]
        batch = encoder.batch(
            [sample for _, sample in rows], [slot for slot, _ in rows], device=model.device
        )
        losses[list(chunk)] = model.answer_loss(batch, make_pass(batch.slots)).double().cpu()

    with torch.no_grad():
        for chunk in budget_chunks(lengths, tokens):
            in_parts(chunk, judge, model.device)
    return losses


def by_person(losses: Tensor, owners: Sequence[int]) -> Tensor:
    """Every person's mean of the losses [I] that are theirs, persons in the order of `owners`: [P]."""
    _, places = torch.unique(torch.tensor(list(owners), dtype=torch.long), return_inverse=True)
    people = int(places.max()) + 1 if len(places) else 0
    sums = torch.zeros(people, dtype=losses.dtype).index_add_(0, places, losses)
    return sums / torch.bincount(places, minlength=people)
