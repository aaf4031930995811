"""Decoding, a token of every row at a time, by one pass or by two in step.

Each pass keeps keys and values of its own: what it thinks of a token depends on its own adapters.
Both read the same tokens: the most probable of the mixture (`model.mixture`), whose temperature does
not change which one that is, or drawn from it (`sampling`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from proper_model.answering.sampling import Sampling
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import MakePass, Mixture
from proper_model.text.encoding import Encoder


@torch.no_grad()
def decoding_steps(
    model: AdaptedModel,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Next tokens [R] and the logits they were chosen by [R, V], until every row has ended.

    Without `sampling` the most probable ones. Behind a row's end of sequence stand pads. The model is attached between two steps as well;
    close the iterator to let it go.
    """
    # A prompt is a sample whose answer is empty: no label, nothing to leak.
    asked = [Encoded(tuple(prompt), len(prompt)) for prompt in prompts]
    batch = encoder.padded(asked, slots, device=model.device)
    rows = Mixture.of(make_pass).over(batch.slots).with_prompts(batch.prompt_mask)
    caches: list[Any] = [None] * len(rows.passes)
    ids, mask, positions = batch.input_ids, batch.attention_mask, batch.position_ids
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    with model.attached(), _flat_head(model):
        for _ in range(max_new_tokens):
            found = []
            for place, now in enumerate(rows.passes):
                with model.running(now):
                    output = model.base(
                        input_ids=ids,
                        attention_mask=mask,
                        position_ids=positions,
                        past_key_values=caches[place],
                        use_cache=True,
                        logits_to_keep=1,
                    )
                caches[place] = output.past_key_values
                found.append(output.logits[:, -1])
            logits = rows.logits(found)
            chosen = logits.argmax(-1) if sampling is None else sampling.draw(logits)
            tokens = chosen.masked_fill(ended, encoder.pad)
            yield tokens, logits
            ended |= tokens == encoder.eos
            if bool(ended.all()):
                return
            ids = tokens[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1


def _in_one_piece(_: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in given)


@contextmanager
def _flat_head(model: AdaptedModel) -> Iterator[None]:
    """Have the head read its input as one matrix while open.

    The last position of every row is a strided part of all positions. PyTorch multiplies such an input row
    by row, and in bfloat16 on a CPU it copies the head's weights once a row for that.
    """
    head = model.base.get_output_embeddings()
    hook = head.register_forward_pre_hook(_in_one_piece)
    try:
        yield
    finally:
        hook.remove()


def greedy(
    model: AdaptedModel,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
    with_logits: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Greedy answers of all prompts at once: tokens [R, T] and, if asked for, logits [R, T, V]."""
    tokens, logits = [], []
    for chosen, scores in decoding_steps(
        model, encoder, prompts, slots, make_pass, max_new_tokens=max_new_tokens
    ):
        tokens.append(chosen)
        if with_logits:
            logits.append(scores)
    return torch.stack(tokens, dim=1), torch.stack(logits, dim=1) if with_logits else None
