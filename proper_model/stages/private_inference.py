"""What infers embeddings where stage 2 is private: directions that owe nothing to anybody's items.

The analysis of variance (`inferred_embedding`) reads every pooled item without noise. Under privacy its
place is taken by numbers that depend on the base, which is private already, and on chance:

    c = 0,    P = the first D of a sketch's coordinates / sigma,    m = PRIOR_ITEMS,    V diagonal

sigma is the root mean square of the features of *made* items, tokens drawn evenly from the vocabulary. The
sketch's coordinates are random mixtures of all sites as it is, so the first D are as good as any D. V and
m are then trained with the experts under noise. DEVIATION from docs/method.md 1.5 f, argued in 1.12.

Letters: F features, D directions, e embedding width.
"""

from __future__ import annotations

import math
import random

import torch

from proper_model.base.config import text_config
from proper_model.engine.trials import TrialSettings
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.stages.inferred_embedding import DIRECTIONS, SPREAD, InferredEmbedding
from proper_model.stages.item_gradients import FEATURES, item_gradients
from proper_model.text.encoding import Encoder

PRIOR_ITEMS = 20.0  # m of every direction
MADE_ITEMS, MADE_PROMPT, MADE_ANSWER = 32, 32, 8
MADE_SEED = 0


def fixed_inference(
    model: AdaptedModel, encoder: Encoder, settings: TrialSettings
) -> InferredEmbedding:
    """An inference that no item of a person entered; `settings` as of `item_gradients`."""
    width = model.structure.embedding_dim
    features = item_gradients(model, encoder, made_items(model), settings)
    sigma = float(features.double().square().mean().sqrt().clamp(min=1e-12))
    directions = min(max(DIRECTIONS, width), FEATURES)
    project = torch.zeros(FEATURES, directions)
    project.diagonal().fill_(1 / sigma)
    # Of a person with m items the posterior mean has variance 1 / (2 m), where the prior holds.
    weight = torch.zeros(directions, width)
    weight.diagonal().fill_(SPREAD * math.sqrt(2 * PRIOR_ITEMS))
    items = torch.full((directions,), PRIOR_ITEMS)
    return InferredEmbedding(torch.zeros(FEATURES), project, items, weight)


def made_items(model: AdaptedModel) -> list[Encoded]:
    """Items of nobody: prompt and answer of tokens drawn evenly."""
    draw, words = random.Random(MADE_SEED), int(text_config(model.base.config).vocab_size)
    length = MADE_PROMPT + MADE_ANSWER
    return [
        Encoded(tuple(draw.randrange(words) for _ in range(length)), MADE_PROMPT)
        for _ in range(MADE_ITEMS)
    ]
