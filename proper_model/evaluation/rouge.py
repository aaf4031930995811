"""ROUGE-1 and ROUGE-L F-measure as LaMP computes them (docs/method.md 4.3).

Google's rouge-score with its defaults: no stemmer, lower case, everything but a-z and 0-9 separates
tokens. Casing, punctuation, accents and emoji are invisible to it.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


def rouge_1(gold: str, output: str) -> float:
    """F-measure of the unigram overlap, 0 if either text has no token."""
    return float(_scorer().score(gold, output)["rouge1"].fmeasure)


def rouge_l(gold: str, output: str) -> float:
    """F-measure of the longest common subsequence, 0 if either text has no token."""
    return float(_scorer().score(gold, output)["rougeL"].fmeasure)
