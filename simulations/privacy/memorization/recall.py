"""How likely a model answers a question with a given text: ranks of secrets, and what is produced.

Exposure (`statistics.exposure`) is a secret's rank among R candidates of its kind, which no model was trained
on. Two things follow from the probabilities of a text's tokens after the tokens before, so that nothing
needs to be generated:

    greedy    whether the model's likeliest tokens are the text: what it answers at temperature 0
    sampled   1 - (1 - p)^S for a text of probability p, the chance that one of S answers drawn at
              temperature 1 begins with it: (n, p)-discoverable extraction (arXiv 2410.19482)

The end of the answer belongs to neither. Letters: n texts, R candidates, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from proper_model.kernels import budget_chunks
from proper_model.model import AdaptedModel, MakePass
from proper_model.tasks import Example
from proper_model.text import Encoder
from simulations.privacy.statistics.exposure import exposure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Recall:
    """What a target says of texts as answers: `[n]` each.

    Attributes:
        log_prob: of the whole text, in nats.
        tokens: how many it has.
        greedy: whether the target answers so at temperature 0.
    """

    log_prob: Floats
    tokens: Integers
    greedy: NDArray[np.bool_]

    def sampled(self, samples: int) -> Floats:
        """Chance that one of so many answers begins with the text: [n]."""
        with np.errstate(divide="ignore"):
            missed = samples * np.log1p(-np.exp(np.minimum(self.log_prob, 0.0)))
        return np.asarray(-np.expm1(missed))


def exposures(own: Floats, candidates: Floats) -> Floats:
    """Of log-probabilities `[n]` each among its candidates' `[n, R]`: [n], in bits."""
    pairs = zip(own, candidates, strict=True)
    return np.concatenate([exposure(-one[None], -others) for one, others in pairs])


# Whatever is attacked: from (whose, question and answer) to what it says of the answers.
Target = Callable[[Sequence[tuple[int, Example]]], Recall]


def model_target(model: AdaptedModel, encoder: Encoder, make_pass: MakePass, tokens: int) -> Target:
    """A model as a target; `tokens`: most of one pass."""

    @torch.no_grad()
    def recall(asked: Sequence[tuple[int, Example]]) -> Recall:
        encoded = [encoder.encode(example) for _, example in asked]
        found = Recall(
            np.zeros(len(asked)), np.zeros(len(asked), np.int64), np.zeros(len(asked), np.bool_)
        )
        for chunk in budget_chunks([len(one.tokens) for one in encoded], tokens):
            batch = encoder.batch(
                [encoded[i] for i in chunk], [asked[i][0] for i in chunk], device=model.device
            )
            logits = model.answer_logits(batch, make_pass(batch.slots)).float()
            own = logits.log_softmax(-1).gather(1, batch.answers[:, None])[:, 0].double().cpu()
            top = (logits.argmax(-1) == batch.answers).cpu()
            lengths = list(batch.answer_tokens)
            parts = zip(chunk, own.split(lengths), top.split(lengths), strict=True)
            for place, log_p, right in parts:
                found.log_prob[place] = float(log_p[:-1].sum())  # the last token ends the answer
                found.tokens[place] = max(1, len(log_p) - 1)
                found.greedy[place] = len(right) > 1 and bool(right[:-1].all())
        return found

    return recall
