"""Decoding of one prompt, piece by piece, to be read while it is written.

The same steps as batched generation takes (`decoding`). Text comes out as soon as no later token can
change it: tokenizers spell one character with several tokens, and what may be the beginning of a stop
text waits until it is none.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from proper_model.answering.decoding import decoding_steps
from proper_model.answering.sampling import Sampling
from proper_model.errors import TrainingError
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import MakePass, Mixture
from proper_model.text.encoding import Encoder

UNFINISHED = "\ufffd"  # what a decoder writes for the first bytes of a character


@dataclass(frozen=True)
class Ended:
    """How a generation ended: whether the model was done or a stop text came, and how many tokens it made."""

    done: bool
    tokens: int


def stream(
    model: AdaptedModel,
    encoder: Encoder,
    prompt: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
) -> Generator[str, None, Ended]:
    """Pieces that join to `encoder.decode` of all tokens, then how it ended.

    The answer ends before the first of the `stop` texts, none of them empty, that comes up in it. White
    space before an answer is no part of it: it completes a stop text, such as a line's end and a speaker's
    name, and is none by itself. It also ends before one of the tokens `ends`. The model is attached between two pieces as well; close the generator to let it go.
    """
    seen: list[int] = []
    said = ""
    steps = stream_tokens(
        model,
        encoder,
        prompt,
        make_pass,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        ends=ends,
    )
    with closing(steps) as tokens:
        done = False
        while True:
            try:
                seen.append(next(tokens))
            except StopIteration as end:
                done = bool(end.value)
                break
            written = encoder.written(seen)
            lead = len(written) - len(written.lstrip())
            cut = _first(stop, written, lead)
            if cut < len(written):
                return (yield from _rest(said, written[:cut].strip(), Ended(True, len(seen))))
            text = written[: len(written) - _begun(stop, written)].strip()
            # The end may yet change: a space is stripped, a cut character becomes another one.
            if not text.endswith(UNFINISHED) and text.startswith(said) and text != said:
                yield text[len(said) :]
                said = text
    return (yield from _rest(said, encoder.decode(seen), Ended(done, len(seen))))


def _rest(said: str, text: str, ended: Ended) -> Generator[str, None, Ended]:
    if text.startswith(said) and text != said:
        yield text[len(said) :]
    return ended


def _first(stop: Sequence[str], text: str, lead: int) -> int:
    """Where the first of the stop texts that ends behind the first `lead` letters begins, or the text's length."""
    places = (text.find(one, max(0, lead - len(one) + 1)) for one in stop)
    return min((place for place in places if place >= 0), default=len(text))


def _begun(stop: Sequence[str], text: str) -> int:
    """How many letters at the text's end are the beginning of a stop text."""
    return max(
        (
            n
            for one in stop
            for n in range(1, min(len(one), len(text) + 1))
            if text.endswith(one[:n])
        ),
        default=0,
    )


def stream_tokens(
    model: AdaptedModel,
    encoder: Encoder,
    prompt: Sequence[int],
    make_pass: MakePass | Mixture,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    ends: Sequence[int] = (),
) -> Generator[int, None, bool]:
    """Token ids after the prompt, without the end of sequence or one of `ends`; then whether that was reached."""
    steps = decoding_steps(
        model,
        encoder,
        [prompt],
        [0],
        make_pass,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
    )
    with closing(steps):
        for tokens, scores in steps:
            token = int(tokens[0])
            if not torch.isfinite(scores[0, token]):
                raise TrainingError(
                    "the model's scores are no numbers any more, so there is no answer",
                    hint="adapt again; if it happens without an adapter (--stage 1), the release "
                    "is at fault: tell its publisher",
                )
            if token == encoder.eos or token in ends:
                return True
            yield token
    return False
