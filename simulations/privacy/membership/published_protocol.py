"""A published protocol of membership beside ours: what choosing members by similarity does to the number.

PriME (arXiv 2503.18008) merges adapters of the people most similar to a new one, calls those members and all
others non-members, and compares summed losses under the merged adapter. Members are then like the person and
the others are not, so a model of the person alone, which saw none of them, tells the two apart as well: what
its AUC is above .5 is the protocol's bias, not a leak. Long answers also have larger sums.

Here a few newcomers each have an adapter that is trained on other newcomers' items, chosen by similarity or
drawn at random (PriME merges adapters instead of training one; who is a member is the same).

    published     members by similarity, minus the summed loss
    randomised    members at random, loss of a token minus the public base's

The negative control of both is an adapter of the person's own items, in which no member is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from proper_model.kernels import Encoded
from simulations.privacy.membership.attacked import Attacked, Row, State
from simulations.privacy.membership.found import Flags, Floats, Found, Truth, log_p
from simulations.privacy.membership.targets import TokenView, train_on, train_overfit
from simulations.privacy.results.schema import MERGED, PUBLISHED, RANDOMISED
from simulations.privacy.statistics.shares import Control

ASKING = 4  # newcomers who have an adapter of others' items
OVERFIT = 2  # of those, for the positive control
CHOSEN_SHARE = 0.25  # of the other newcomers


def on_merged(attacked: Attacked) -> list[Found]:
    """Both protocols on adapters of others' items, and on adapters that saw none of them."""
    people = attacked.newcomers
    asking = min(ASKING, len(people))
    records = [attacked.known.encoded_of(who) for who in people]
    chosen = {
        PUBLISHED: most_similar(_texts(attacked, people), asking),
        RANDOMISED: at_random(len(people), asking, attacked.seed),
    }
    attacked.progress("adapters of several people", 0, 0)
    trained, own, overfit = _adapters(attacked, records, chosen)
    pairs = [(slot, who) for slot in range(asking) for who in range(len(people)) if who != slot]
    asked = [(pair, record) for pair in pairs for record in records[pair[1]]]
    rows: list[Row] = [(slot, record) for (slot, _), record in asked]
    owner = np.array([people[who] for (_, who), _ in asked], dtype=np.int64)
    public = attacked.public_views([record for _, record in rows])
    alone = attacked.personal_views(own, rows)
    found: list[Found] = []
    for name, picked in chosen.items():
        truth = Truth(np.array([picked[pair] for pair, _ in asked], dtype=np.bool_), owner)
        views: dict[Control, Sequence[TokenView]] = {
            "none": attacked.personal_views(trained[name], rows),
            "negative": alone,
        }
        for control, said in views.items():
            score = protocol_score(name, said, public)
            found.append(Found(MERGED, name, "record", control, truth.scored(score)))
    few = [place for place, (slot, _) in enumerate(rows) if slot < len(overfit)]
    said = attacked.personal_views(overfit, [rows[place] for place in few])
    score = protocol_score(RANDOMISED, said, [public[place] for place in few])
    member = np.array([chosen[RANDOMISED][asked[place][0]] for place in few], dtype=np.bool_)
    positive = Truth(member, owner[few]).scored(score)
    return [*found, Found(MERGED, RANDOMISED, "record", "positive", positive)]


def protocol_score(name: str, views: Sequence[TokenView], public: Sequence[TokenView]) -> Floats:
    """What each protocol compares, larger for what looks like a member: [n]."""
    if name == PUBLISHED:
        return np.array([view.log_prob.sum() for view in views])
    return log_p(views) - log_p(public)


def most_similar(texts: Sequence[str], asking: int) -> Flags:
    """For the first so many, who of the others is nearest by cosine of word weights: [asking, people]."""
    weights = TfidfVectorizer().fit_transform(texts)
    likeness = (weights @ weights.T).toarray()[:asking]
    return _highest(likeness, asking)


def at_random(people: int, asking: int, seed: int) -> Flags:
    """For the first so many, as many of the others by seed: [asking, people]."""
    return _highest(np.random.default_rng([seed, people, asking]).random((asking, people)), asking)


def _highest(likeness: Floats, asking: int) -> Flags:
    """Of every row the share that is chosen; nobody chooses himself."""
    people = likeness.shape[1]
    chosen = np.zeros((asking, people), dtype=np.bool_)
    for place, row in enumerate(likeness):
        order = [who for who in np.argsort(-row, kind="stable") if who != place]
        chosen[place, order[: max(1, round(CHOSEN_SHARE * (people - 1)))]] = True
    return chosen


def _texts(attacked: Attacked, people: Sequence[int]) -> list[str]:
    """Everybody's known items as one text each."""
    task = attacked.candidates.task
    examples = [[task.history_example(item) for item in attacked.draw.known[who]] for who in people]
    return [" ".join(f"{one.prompt} {one.answer}" for one in own) for own in examples]


def _adapters(
    attacked: Attacked, records: Sequence[Sequence[Encoded]], chosen: dict[str, Flags]
) -> tuple[dict[str, Sequence[State]], Sequence[State], Sequence[State]]:
    """Adapters of those who ask: by protocol, on own items alone, and overfit on those drawn at random."""
    learner, user = attacked.learner, attacked.settings.user
    asking = len(chosen[PUBLISHED])

    def union(picked: Flags, slot: int) -> list[Encoded]:
        return [record for who in np.flatnonzero(picked[slot]) for record in records[int(who)]]

    sets = [union(picked, slot) for picked in chosen.values() for slot in range(asking)]
    sets += [list(records[slot]) for slot in range(asking)]
    mean = attacked.release.mean_embedding[None]
    states = train_on(
        learner,
        sets,
        mean.repeat(len(sets), 1, 1),
        seed=attacked.seed,
        epochs=user.epochs,
        rate=max(user.learning_rates),
    )
    by_name: dict[str, Sequence[State]] = {
        name: states[place * asking : (place + 1) * asking] for place, name in enumerate(chosen)
    }
    few = [union(chosen[RANDOMISED], slot) for slot in range(min(OVERFIT, asking))]
    overfit = train_overfit(learner, few, mean.repeat(len(few), 1, 1), seed=attacked.seed)
    return by_name, states[len(chosen) * asking :], overfit
