"""Attacks on an uploaded vector: which text it is of, and which words that text has.

`Defence` is what a participant does before uploading: clip the vector to a norm C, add Gaussian noise of
standard deviation z C to every number. `candidate_found` compares an upload with those that candidate
texts would give, by cosine. `read_tokens` learns on uploads of texts that the attacker has, under the same
defence, which token makes which change, and reads others by it.

Letters: n uploads, D numbers of one, C candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PENALTIES = tuple(10.0**power for power in range(-4, 4))


@dataclass(frozen=True)
class Defence:
    """Clipping, and how much noise is added for it.

    Attributes:
        clips: whether vectors are cut to the norm C.
        noise: z, the noise's standard deviation a number over C; needs clipping.
    """

    clips: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf") or (self.noise and not self.clips):
            raise MetricError(f"noise {self.noise} needs clipping and a finite number from 0 on")

    @property
    def name(self) -> str:
        """How a table calls it."""
        if not self.clips:
            return "no defence"
        return f"clipped, noise {self.noise:g}" if self.noise else "clipped"

    def applied(self, uploads: Floats, norm: float, *, rng: np.random.Generator) -> Floats:
        """[n, D] as they are sent, for C = `norm`."""
        if not self.clips:
            return uploads
        length = np.linalg.norm(uploads, axis=-1, keepdims=True)
        cut = uploads * np.minimum(1.0, norm / np.maximum(length, 1e-30))
        return np.asarray(cut + rng.normal(scale=self.noise * norm, size=cut.shape))


def candidate_found(upload: Floats, candidates: Floats, right: int) -> tuple[float, float]:
    """Whether the nearest candidate is one of the first `right`, and the best place of one of them.

    Args:
        upload: [D].
        candidates: [C, D] what each candidate alone would give.
    """
    length = np.linalg.norm(candidates, axis=1)
    dots = candidates @ upload
    score = np.divide(dots, length, out=np.full_like(dots, -np.inf), where=length > 0)
    best = score[:right].max()
    above, equal = int((score[right:] > best).sum()), int((score[right:] == best).sum())
    return (above == 0) / (1 + equal), 1 + above + equal / 2


def read_tokens(known: Floats, has: Flags, uploads: Floats) -> Floats:
    """[n, V] how surely each token is in the text of an upload [n, D].

    A ridge regression of `has` [N, V] on `known` [N, D]; the penalty by generalized cross-validation.
    """
    from sklearn.linear_model import RidgeCV

    scale = np.sqrt(np.mean(np.sum(known**2, axis=1))) or 1.0
    model = RidgeCV(alphas=PENALTIES).fit(known / scale, has.astype(np.float64))
    return np.asarray(model.predict(uploads / scale)).reshape(len(uploads), -1)


def recovered(scores: Floats, truth: Sequence[frozenset[int]]) -> Floats:
    """[n] share of a text's k distinct tokens among the k that score highest; scores are [n, V].

    A row that is -inf everywhere names nothing. Raises MetricError for a text without tokens.
    """
    if not all(truth):
        raise MetricError("a text without tokens has nothing to be recovered")
    found = []
    for row, tokens in zip(scores, truth, strict=True):
        order = np.argsort(-row, kind="stable")[: len(tokens)]
        named = {int(token) for token in order if np.isfinite(row[token])}
        found.append(len(named & tokens) / len(tokens))
    return np.array(found)


def frequencies(truth: Sequence[frozenset[int]], vocabulary: int) -> Floats:
    """[V] in how many texts each token is: what whoever has no upload would name first."""
    counts = np.zeros(vocabulary)
    for tokens in truth:
        counts[list(tokens)] += 1
    return counts
