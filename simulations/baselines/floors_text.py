"""A floor that reads the text as a bag of words: TF-IDF, logistic regression, own class prior.

The regression learns P(k | text) from pooled users. The person's own label frequencies then take the
place of the pooled ones, P(k | text, u) ~ P(k | text) P_u(k) / P(k): exact where people differ in how
often they give a label and not in what a text of that label looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulations.baselines.floors import LEAST, Answers, Array, Guess, Person
from simulations.baselines.floors_counts import own_frequencies, pooled_frequencies

# Inverse penalties that are tried; the one with the least loss on people held back is kept.
_PENALTIES = (0.3, 1.0, 3.0, 10.0)
_HELD_BACK = 5  # every fifth pooled person
_MOST_WORDS = 30_000


def tfidf(answers: Answers) -> list[Guess]:
    """Probabilities from text and own label frequencies."""
    classify = _fitted(answers.pooled, len(answers.names))
    prior, own = pooled_frequencies(answers), own_frequencies(answers)
    found = []
    for row, person in zip(own, answers.users, strict=True):
        weights = classify(person.asked) * (row / prior)
        found.append(Guess(weights / weights.sum(1, keepdims=True)))
    return found


def _fitted(people: Sequence[Person], labels: int) -> _Classifier:
    people = [person for person in people if person.labels]
    judges = people[_HELD_BACK - 1 :: _HELD_BACK]
    learners = [p for place, p in enumerate(people) if (place + 1) % _HELD_BACK]
    if not judges:
        return _Classifier(people, labels, 1.0)
    texts = [text for person in judges for text in person.texts]
    golds = [label for person in judges for label in person.labels]
    losses = {}
    for penalty in _PENALTIES:
        rows = _Classifier(learners, labels, penalty)(texts)
        losses[penalty] = -float(np.log(rows[np.arange(len(golds)), golds]).mean())
    return _Classifier(people, labels, min(losses, key=losses.__getitem__))


class _Classifier:
    """From texts to P(k | text), [T, K]; a label that nobody gave has the least probability."""

    def __init__(self, people: Sequence[Person], labels: int, penalty: float) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        texts = [text for person in people for text in person.texts]
        golds = [label for person in people for label in person.labels]
        self._labels, self._known = labels, sorted(set(golds))
        # A pattern that any text matches: one-letter words and digits are words, too.
        words = TfidfVectorizer(
            sublinear_tf=True, max_features=_MOST_WORDS, token_pattern=r"\w+|[^\w\s]"
        )
        self._words: Any = None
        if len(self._known) > 1:
            found = words.fit_transform(texts)
            self._words = words
            self._model = LogisticRegression(C=penalty, max_iter=1000, tol=1e-3).fit(found, golds)

    def __call__(self, texts: Sequence[str]) -> Array:
        rows = np.full((len(texts), self._labels), LEAST)
        if self._words is None:
            rows[:, self._known] = 1.0
        elif texts:
            rows[:, self._known] = self._model.predict_proba(self._words.transform(texts))
        rows = np.maximum(rows, 1e-6)
        return np.asarray(rows / rows.sum(1, keepdims=True))
