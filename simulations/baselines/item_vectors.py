"""What a frozen base makes of people's items: one vector an item, for methods that compare people.

An item is its prompt and its answer. Its vector is the last block's mean output over the prompt's
tokens beside that over the answer's, whose tokens have seen the prompt: what was asked, and what
this person made of it.

Letters: M tokens, d hidden width, n a person's items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.kernels import Batch, Encoded, budget_chunks
from proper_model.model import AdaptedModel, base_pass
from proper_model.text import Encoder


@torch.no_grad()
def item_vectors(
    model: AdaptedModel, encoder: Encoder, people: Sequence[Sequence[Encoded]], tokens: int
) -> list[Tensor]:
    """`[n, 2 d]` of every person's items, in their order; `tokens`: most of one pass."""
    items = [item for own in people for item in own]
    width = 2 * model.base.get_output_embeddings().weight.shape[1]
    found = torch.zeros(len(items), width, device=model.device)
    for chunk in budget_chunks([len(item.tokens) for item in items], tokens):
        batch = encoder.batch([items[i] for i in chunk], [0] * len(chunk), device=model.device)
        hidden = model.hidden_states(batch, base_pass(batch.slots)).float()
        at = torch.tensor(chunk, device=model.device)
        parts = [_row_means(hidden, batch, batch.prompt_mask)]
        parts.append(_row_means(hidden, batch, ~batch.prompt_mask))
        found[at] = torch.cat(parts, dim=1)
    return list(found.split([len(own) for own in people]))


def _row_means(values: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
    """Every row's mean of values [M, d] over the tokens where `chosen [M]`: [R, d]."""
    rows, share = batch.layout.rows, chosen.to(values.dtype)
    counts = values.new_zeros(len(batch.slots)).index_add(0, rows, share)
    sums = values.new_zeros(len(batch.slots), values.shape[1])
    return sums.index_add(0, rows, values * share[:, None]) / counts[:, None]
