"""Synthetic texts: a small closed language that tells the topic and nothing about the user."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from proper_model.tasks.task import load_task
from simulations.synthetic.films import (
    ADJECTIVES,
    FORMS,
    PLAIN_DOES,
    PLAIN_WHERE,
    PLAIN_WHO,
    TAGS,
    TOPICS,
)
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.settings import KINDS
from simulations.synthetic.text import TIMES
from tests.made_people import all_users, made, query_texts


@pytest.fixture(scope="module")
def films():
    return made("synth_tag")


def topic_words() -> dict[str, frozenset[str]]:
    """Topic name to the words that give it away: those of no other topic and of no filler."""
    everyday = {w for f in FORMS for w in f.split()}
    everyday |= {w for f in (*PLAIN_WHO, *PLAIN_DOES, *PLAIN_WHERE, *ADJECTIVES) for w in f.split()}
    owners: dict[str, set[str]] = {}
    for topic in TOPICS:
        for word in " ".join((*topic.who, *topic.does, *topic.where)).split():
            owners.setdefault(word, set()).add(topic.name)
    return {
        topic.name: frozenset(
            word for word, names in owners.items() if names == {topic.name} and word not in everyday
        )
        for topic in TOPICS
    }


def test_a_description_tells_its_topic_by_two_to_four_words(films):
    own = topic_words()
    for user in all_users(films):
        for text, query in zip(query_texts(films, user), user.queries, strict=True):
            words = set(text.split())
            topic = films.truth["detail"][query.id]["topic"]
            assert 2 <= len(words & own[topic]) <= 4
            assert not any(words & own[other] for other in own if other != topic)


def test_language_is_closed_and_small():
    for kind in KINDS:
        synthetic = make_synthetic(kind)
        task = load_task(kind)
        known = set(synthetic.vocabulary)
        assert len(known) <= 596
        texts = list(synthetic.pretrain_texts)
        for user in all_users(synthetic):
            examples = [task.query_example(q) for q in user.queries]
            examples += [task.history_example(item) for item in user.history]
            texts += [f"{e.prompt} {e.answer}" for e in examples]
        assert {w for text in texts for w in text.split()} <= known
        lengths = [len(text.split()) for text in texts]
        assert max(lengths) <= 30
        # Pretraining has met every word of every prompt and answer.
        assert known == {w for text in synthetic.pretrain_texts for w in text.split()}


def test_pretraining_knows_no_rule():
    """A topic's tags in pretraining hold its rule's tag as often as chance, over ten worlds."""
    shares = []
    for seed in range(10):
        synthetic = make_synthetic("synth_tag", seed=seed, pretrain=1000, users_per_group=1)
        own = topic_words()
        topic_of = {word: topic for topic in own for word in own[topic]}
        for text in synthetic.pretrain_texts:
            said, cue, tag = text.partition(" tag: ")
            if cue:
                topic = next(topic_of[w] for w in said.split() if w in topic_of)
                shares.append(tag == synthetic.truth["rules"][0][topic])
    assert np.mean(shares) == pytest.approx(1 / len(TAGS), abs=0.02)


# No user information in query text (docs/method.md 5.1)


def bag_of_words(synthetic):
    """Word counts of every pooled user's queries `[users, words]`, and the users' groups."""
    words = {word: i for i, word in enumerate(synthetic.vocabulary)}
    counts = np.zeros((len(synthetic.population.pooled), len(words)))
    for row, user in zip(counts, synthetic.population.pooled, strict=True):
        for text in query_texts(synthetic, user):
            for word in text.split():
                row[words[word]] += 1
    return counts, np.array(
        [synthetic.truth["groups"][u.user_id] for u in synthetic.population.pooled]
    )


def classifier_hits(counts, groups):
    """How many users a naive Bayes classifier places right, each left out with a tenth of all."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.naive_bayes import MultinomialNB

    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    return int((cross_val_predict(MultinomialNB(), counts, groups, cv=folds) == groups).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_text_does_not_tell_the_group(kind):
    from scipy.stats import binom

    hits = [classifier_hits(*bag_of_words(made(kind, seed=s))) for s in range(3)]
    # Two-sided at 1 %: a classifier worse than chance would be a leak as well.
    low, high = binom.ppf([0.005, 0.995], 3 * 150, 1 / 5)
    assert low <= sum(hits) <= high


@pytest.mark.parametrize("kind", KINDS)
def test_leaking_text_tells_the_group(kind):
    synthetic = made(kind, leak_text=0.8)
    assert classifier_hits(*bag_of_words(synthetic)) > 0.9 * 150


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_filler_words_by_group(leak):
    """Chi-square of word by group, on words that are drawn independently."""
    from scipy.stats import chi2_contingency

    synthetic = made("synth_text", leak_text=leak)
    counts, groups = bag_of_words(synthetic)
    columns = [synthetic.vocabulary.index(word) for word in TIMES]
    table = np.stack([counts[groups == g][:, columns].sum(0) for g in range(5)])
    p = chi2_contingency(table).pvalue
    assert p < 1e-6 if leak else p > 0.01


def test_length_does_not_tell_the_group(films):
    from scipy.stats import chi2_contingency

    tally = Counter(
        (len(text.split()), films.truth["groups"][user.user_id])
        for user in films.population.pooled
        for text in query_texts(films, user)
    )
    lengths = sorted({length for length, _ in tally})
    assert len(lengths) > 4
    # Rare lengths at both ends are counted together.
    by_group = np.array([[tally[length, g] for length in lengths] for g in range(5)])
    edges = np.vstack([by_group[:, :2].sum(1), by_group[:, 2:-2].T, by_group[:, -2:].sum(1)])
    assert chi2_contingency(edges).pvalue > 0.01
