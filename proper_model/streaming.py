"""Greedy decoding of one prompt, piece by piece, for a reader who is waiting.

The same tokens as batched generation gives (`scoring`), one at a time. Text comes out as soon as
no later token can change it: tokenizers spell one character with several tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from proper_model.encoding import Encoder
from proper_model.model import AdaptedModel
from proper_model.passes import Pass

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character


@torch.no_grad()
def stream_tokens(
    model: AdaptedModel,
    encoder: Encoder,
    prompt: Sequence[int],
    make_pass: Callable[[Tensor], Pass],
    *,
    max_new_tokens: int,
) -> Iterator[int]:
    """Token ids after the prompt, without the end of sequence.

    The model is attached between two tokens as well; close the iterator to let it go.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    now = make_pass(torch.zeros(1, dtype=torch.long, device=model.device))
    now.prompt_mask = torch.ones_like(ids, dtype=torch.bool)
    past = None
    with model.attached(), model.running(now):
        for _ in range(max_new_tokens):
            output = model.base(input_ids=ids, past_key_values=past, use_cache=True)
            past = output.past_key_values
            token = int(output.logits[0, -1].argmax())
            if token == encoder.eos:
                return
            yield token
            ids = torch.tensor([[token]], device=model.device)


def pieces(encoder: Encoder, tokens: Iterator[int]) -> Iterator[str]:
    """Text of a token stream, in pieces that join to `encoder.decode` of all tokens."""
    seen: list[int] = []
    said = ""
    for token in tokens:
        seen.append(token)
        text = encoder.decode(seen)
        # A space at the end may yet be stripped, a cut character may yet become another one.
        if text.endswith(UNFINISHED) or not text.startswith(said):
            continue
        if text != said:
            yield text[len(said) :]
            said = text
    rest = encoder.decode(seen)
    if rest.startswith(said) and rest != said:
        yield rest[len(said) :]
