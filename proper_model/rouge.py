"""ROUGE-1 and ROUGE-L F-measure as LaMP computes them (METHOD 4.3).

Lower case, everything but a-z and 0-9 separates tokens, no stemming, F with equal weight of
precision and recall. Casing, punctuation, accents and emoji are invisible to it. Google's
rouge-score is the test oracle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_TOKEN = re.compile(r"[a-z0-9]+")


def rouge_tokens(text: str) -> list[str]:
    """Tokens as ROUGE sees them."""
    return _TOKEN.findall(text.lower())


def rouge_1(gold: str, output: str) -> float:
    """F-measure of the unigram overlap, 0 if either text has no token."""
    expected, got = rouge_tokens(gold), rouge_tokens(output)
    overlap = (Counter(expected) & Counter(got)).total()
    return _f_measure(overlap, len(expected), len(got))


def rouge_l(gold: str, output: str) -> float:
    """F-measure of the longest common subsequence, 0 if either text has no token."""
    expected, got = rouge_tokens(gold), rouge_tokens(output)
    return _f_measure(_common_subsequence(expected, got), len(expected), len(got))


def _f_measure(matched: int, expected: int, got: int) -> float:
    return 2 * matched / (expected + got) if matched else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(b) + 1)
    for left in a:
        diagonal = 0
        for j, right in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if left == right else max(above, row[j - 1])
            diagonal = above
    return row[-1]
