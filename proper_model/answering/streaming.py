"""Greedy decoding of one prompt, piece by piece, to be read while it is written.

The same steps as batched generation takes (`decoding`). Text comes out as soon as no later token can
change it: tokenizers spell one character with several tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from proper_model.answering.decoding import greedy_steps
from proper_model.errors import TrainingError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import MakePass, Mixture
from proper_model.text.encoding import Encoder

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character


@dataclass(frozen=True)
class Ended:
    """How a generation ended: whether the model was done, and how many tokens it made."""

    done: bool
    tokens: int


def stream(
    model: AdaptedModel,
    encoder: Encoder,
    prompt: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
) -> Generator[str, None, Ended]:
    """Pieces that join to `encoder.decode` of all tokens, then how it ended.

    The model is attached between two pieces as well; close the generator to let it go.
    """
    seen: list[int] = []
    said = ""
    tokens = stream_tokens(model, encoder, prompt, make_pass, max_new_tokens=max_new_tokens)
    done = False
    while True:
        try:
            seen.append(next(tokens))
        except StopIteration as end:
            done = bool(end.value)
            break
        text = encoder.decode(seen)
        # The end may yet change: a space is stripped, a cut character becomes another one.
        if not text.endswith(UNFINISHED) and text.startswith(said) and text != said:
            yield text[len(said) :]
            said = text
    rest = encoder.decode(seen)
    if rest.startswith(said) and rest != said:
        yield rest[len(said) :]
    return Ended(done, len(seen))


def stream_tokens(
    model: AdaptedModel,
    encoder: Encoder,
    prompt: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
) -> Generator[int, None, bool]:
    """Token ids after the prompt, without the end of sequence; then whether that was reached."""
    steps = greedy_steps(model, encoder, [prompt], [0], make_pass, max_new_tokens=max_new_tokens)
    with closing(steps):
        for tokens, scores in steps:
            token = int(tokens[0])
            if not torch.isfinite(scores[0, token]):
                raise TrainingError(
                    "the model's scores are no numbers any more, so there is no answer",
                    hint="adapt again; if it happens without an adapter (--stage 1), the release "
                    "is at fault: tell its publisher",
                )
            if token == encoder.eos:
                return True
            yield token
    return False
