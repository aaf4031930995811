"""How much of what all experts have in common a release keeps, chosen on people stages 1-2 did not train on.

Weights of experts sum to one (eq. 7), so beside what people differ by the experts hold their even mixture,
which everybody gets, also somebody of whom nothing is known: a second stage 1, learned knowing whose answers
they are. On some data that is better than stage 1 and on some it is the pooled people's answers learned by
heart. So after training expert n counts as

    w_n - (1 - kappa) / N,    kappa in `SHARES`: 1 is the paper's sum, 0 makes e_u = 0 exactly stage 1

with the kappa under which newcomers lose least, with as many items as `calibration.lengths` says, without any,
and with all. Half-way between two models often serves better than either end (Wortsman et al., arXiv 2109.01903).
DEVIATION: docs/method.md 1.5 o.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.judging import by_person, held_back_losses
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.trials import lora_settings
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.progress import Steps
from proper_model.settings.profile import StageSettings
from proper_model.stages.inferred_embedding import InferredEmbedding
from proper_model.stages.item_gradients import MOST_ROWS, item_gradients
from proper_model.stages.pooled_users import PooledUser
from proper_model.text.encoding import Encoder

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)


def choose_common_share(
    model: AdaptedModel,
    encoder: Encoder,
    people: Sequence[PooledUser],
    inferred: InferredEmbedding,
    settings: StageSettings,
    *,
    memory_bytes: int | None = None,
    progress: Steps | None = None,
) -> tuple[float, Mapping[str, Any]]:
    """The share kappa, and for reports every share's mean loss; of equally good ones the largest.

    The loss of a person is the mean over lengths of history of the own queries' mean, so that nobody
    with many items or questions counts more.

    Args:
        people: of whom stages 1 and 2 trained on nothing; those without queries say nothing.
        memory_bytes: what the passes may take beside the base; None: what a GPU has free.
    """
    asked = [person for person in people if person.queries]
    cap = settings.group.max_items_per_user
    histories = [person.history[-cap:] for person in asked]
    items = [item for own in histories for item in own]
    free = free_bytes(model.device) if memory_bytes is None else memory_bytes
    cut = within(free, model, encoder, items, MOST_ROWS, lora_settings(settings, epochs=1))
    found = item_gradients(model, encoder, items, cut, progress=progress)
    features = list(found.split([len(own) for own in histories]))
    trained = model.structure
    try:
        losses = torch.stack(
            [
                _losses(model, encoder, asked, features, inferred, settings, cut.tokens_judged, one)
                for one in SHARES
            ]
        )
    finally:
        model.structure = trained
    means = losses.mean(1)
    chosen = SHARES[int(means.argmin())]  # the first, so the largest, of equal ones
    told = {f"{share:g}": float(mean) for share, mean in zip(SHARES, means, strict=True)}
    return chosen, {"chosen": chosen, "losses": told, "people": len(asked)}


def _losses(
    model: AdaptedModel,
    encoder: Encoder,
    people: Sequence[PooledUser],
    features: Sequence[Tensor],
    inferred: InferredEmbedding,
    settings: StageSettings,
    tokens: int,
    share: float,
) -> Tensor:
    """Every person's loss [P] under one share."""
    model.structure = replace(model.structure, common_share=share)
    queries = [(p, query) for p, person in enumerate(people) for query in person.queries]
    total, counted = torch.zeros(2, len(people), dtype=torch.float64)
    for length in (0, *settings.calibration.lengths, None):
        having = [length is None or len(own) >= length for own in features]
        cut = [own if length is None else own[len(own) - length :] for own in features]
        said = [own if has else own[:0] for own, has in zip(cut, having, strict=True)]
        with torch.no_grad():
            embeddings = inferred.of([own[own.isfinite().all(1)] for own in said])
        make_pass = partial(group_pass, embeddings=embeddings)
        losses = held_back_losses(model, encoder, queries, make_pass, tokens)
        present = torch.tensor(having, dtype=torch.float64)
        total += by_person(losses, [p for p, _ in queries]) * present
        counted += present
    mean: Tensor = total / counted
    return mean
