"""Gradient matching: search the text whose gradient is the uploaded one (DLG, arXiv 1906.08935).

Every place of a text holds a softmax over the vocabulary instead of a token, so that its embedding is a
mixture of rows and the answer a soft target. Adam moves the logits until the gradient of that text has the
direction of the uploaded one; the likeliest token of every place is what was found. The attacker knows
the parameters, the length of prompt and answer, and the first and the last token, which all texts share.

That takes derivatives of gradients, which the hand-written gradients of training do not have: the model is
copied in float64 and computes by plain PyTorch (`Backend.REFERENCE`, Hugging Face's eager attention).

Letters: R texts at once, T their longest length, V vocabulary, D numbers of an upload.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.kernels import Backend, Encoded
from proper_model.model import AdaptedModel
from simulations.privacy.inversion.uploads import Upload

STEPS, RATE = 150, 0.1
CERTAIN = 30.0  # logit of a token that is known
SPREAD = 0.1  # of the logits at the start

GradientOf = Callable[[Tensor], Tensor]
"""From softmaxes [R, T, V] to the gradient of each text, [R, D], differentiable."""


def match(
    gradient_of: GradientOf,
    wanted: Tensor,
    start: Tensor,
    fixed: Tensor,
    *,
    steps: int = STEPS,
) -> Tensor:
    """Softmaxes [R, T, V] whose gradients point as `wanted` [R, D] does.

    Args:
        start: [R, T, V] logits; where `fixed` [R, T] is true they stay.
    """
    logits = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    free = (~fixed)[..., None].to(start)
    for _ in range(steps):
        found = gradient_of(logits.softmax(-1))
        # Texts share no number, so the sum trains each on its own.
        loss = (1 - torch.cosine_similarity(found, wanted, dim=1)).sum()
        (step,) = torch.autograd.grad(loss, [logits])
        optimizer.zero_grad()
        logits.grad = step * free
        optimizer.step()
    return logits.detach().softmax(-1)


def plain_copy(base: Any) -> Any:
    """A base whose gradients can be differentiated again."""
    plain = copy.deepcopy(base).double()
    plain.set_attn_implementation("eager")
    return plain


def make_plain(model: AdaptedModel) -> AdaptedModel:
    """Adapters of a `plain_copy`, computing by what autograd differentiates twice."""
    model.double()
    model.backend = Backend.REFERENCE
    return model


def gradient_of_texts(
    upload: Upload, records: Sequence[Encoded], slots: Sequence[int]
) -> GradientOf:
    """The gradient of texts as long as `records` are; of the records themselves only lengths are read."""
    model = upload.model
    table = model.base.get_input_embeddings().weight

    def gradient(soft: Tensor) -> Tensor:
        now, leaves = upload.place(slots)
        with model.attached(), model.running(now):
            logits = model.base(inputs_embeds=soft @ table, use_cache=False).logits
        losses = []
        for row, record in enumerate(records):
            begin, end = record.prompt_tokens, len(record.tokens)
            told = logits[row, begin - 1 : end - 1].log_softmax(-1)
            losses.append(-(soft[row, begin:end] * told).sum(-1).mean())
        found = torch.autograd.grad(torch.stack(losses).sum(), leaves, create_graph=True)
        return torch.cat([one.flatten(1) for one in found], dim=1)

    return gradient


def start_of(
    records: Sequence[Encoded], prior: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits [R, T, V] before the first step, and which places are known, [R, T].

    Every place begins at how often tokens occur (`prior` [V], counts), and a little chance.
    """
    longest = max(len(record.tokens) for record in records)
    likely = (prior.double() + 1).log()
    noise = torch.randn(len(records), longest, len(prior), generator=generator, dtype=torch.float64)
    logits = likely + SPREAD * noise
    fixed = torch.zeros(len(records), longest, dtype=torch.bool)
    for row, record in enumerate(records):
        # Behind its end a row is never read: attention is causal and loss is on answers.
        fixed[row, len(record.tokens) :] = True
        for place in (0, len(record.tokens) - 1):
            fixed[row, place] = True
            logits[row, place] = 0
            logits[row, place, record.tokens[place]] = CERTAIN
    return logits, fixed


def tokens_of(soft: Tensor, records: Sequence[Encoded]) -> list[list[int]]:
    """The likeliest token of every place of every text."""
    best = soft.argmax(-1)
    return [best[row, : len(record.tokens)].tolist() for row, record in enumerate(records)]
