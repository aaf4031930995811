"""From outcomes of all seeds to the result: intervals over people, audits over all coins.

Runs of different seeds are independent and each coin is of one run, so the coins of all seeds are those of
one run with as many canaries, and one bound is of all of them (parallel composition).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from proper_model.evaluation import holm
from simulations.privacy.epsilon.plan import Plan
from simulations.privacy.epsilon.sentences import sentences
from simulations.privacy.epsilon.trained import UNCLIPPED, Outcome, Promise
from simulations.privacy.results.epsilon_schema import (
    Bound,
    EpsilonNumbers,
    EpsilonResult,
    EpsilonRow,
    Terms,
)
from simulations.privacy.results.rates import Rate
from simulations.privacy.results.schema import Measured
from simulations.privacy.results.seeded import facts_of
from simulations.privacy.statistics.measures import Scored, joined, measure, pooled
from simulations.privacy.statistics.one_run_audit import audit, even_plan
from simulations.privacy.statistics.shares import DRAWS, p_against, ratio, rng_of, share

Floats = NDArray[np.float64]
Outcomes = Sequence[Outcome]
NOTES = (
    "newcomers are drawn by seed and never train; every other person trains by a fair coin of its own, "
    "thrown before training, and keeps an empty place otherwise",
    "under every promise the same people, coins, draws of users and noise but for its size; draws and noise "
    "follow from the seed so that the curve repeats, while a release for others draws them from the system",
    "inf: the same mechanism without noise; unclipped: stages 1 and 2 as they are without privacy, with epochs, "
    "early stopping and people held back, and without those whose coin fell out",
    "people: an attacker with everybody's texts, the release and the public base; score: how much lower the "
    "release's loss is, under an embedding of the own items",
    "crafted: the mechanism alone, with users whose gradients are one number of their own each; at inf nearly "
    "all guesses must be right, and a bound above the stated epsilon means that the mechanism is broken",
    "bounds hold with 95%, over the coins of all seeds; 0 means that this audit saw nothing, not that there is "
    "nothing",
    "no setting was chosen by these people's results with a budget of its own: rates, clipping and steps are "
    "as given",
    "intervals draw people, each with all seeds; p is of the gain over the public base against 0, corrected "
    "(Holm) over all rows",
)


def summed_up(plan: Plan, found: Mapping[str, Outcomes]) -> EpsilonResult:
    """The result, a row a promise, in the plan's order."""
    reference = found[UNCLIPPED]
    numbers = {
        promise.name: _numbers(promise, found[promise.name], reference, plan.delta)
        for promise in plan.promises
    }
    p = {name: p_against(n.gain.value, n.gain.low, n.gain.high, 0.0) for name, n in numbers.items()}
    corrected = p | holm(p)
    rows = [
        EpsilonRow(
            thing=promise.name,
            epsilon=promise.epsilon if math.isfinite(promise.epsilon) else None,
            noise_multiplier=None if promise.privacy is None else promise.privacy.z,
            per_seed=[
                _numbers(promise, [one], [other], plan.delta)
                for one, other in zip(found[promise.name], reference, strict=True)
            ],
            pooled=numbers[promise.name],
            p=p[promise.name],
            p_holm=corrected[promise.name],
        )
        for promise in plan.promises
    ]
    public, owner = _all(reference, "public"), _all(reference, "newcomer").astype(np.int64)
    terms = next(one.privacy for one in plan.promises if one.privacy is not None)
    candidates = len(plan.people.users) - plan.newcomers
    negative = pooled([Scored(one.untrained, one.inside, one.candidate) for one in reference])
    positive = pooled(
        [Scored(one.overfit, one.overfit_inside, one.overfit_owner) for one in reference]
    )
    said = Terms(**{name: getattr(terms, name) for name in Terms.model_fields})
    return EpsilonResult(
        **facts_of(plan.people, plan.structure, plan.settings, plan.seeds, NOTES),
        candidates=candidates,
        newcomers=plan.newcomers,
        terms=said,
        accountant=plan.accountant,
        public=Rate.of(share(public, owner, rng=rng_of("public"))),
        negative=_measured(negative, "negative"),
        positive=_measured(positive, "positive"),
        rows=rows,
        sentences=sentences(rows, candidates, said.delta),
    )


def _numbers(
    promise: Promise, outcomes: Outcomes, reference: Outcomes, delta: float
) -> EpsilonNumbers:
    """Over these seeds; `reference` is the same seeds' without clipping."""
    owner = _all(outcomes, "newcomer").astype(np.int64)
    public, stage1, stage2 = (_all(outcomes, name) for name in ("public", "stage1", "stage2"))
    whole = _all(reference, "public") - _all(reference, "stage2")

    def mean(name: str, values: Floats) -> Rate:
        return Rate.of(share(values, owner, rng=rng_of(f"{promise.name}/{name}")))

    people = [Scored(one.score, one.inside, one.candidate) for one in outcomes]
    crafted = [
        Scored(one.crafted, one.crafted_inside, np.arange(len(one.crafted)))
        for one in outcomes
        if len(one.crafted)
    ]
    kept = ratio(public - stage2, whole, owner, rng=rng_of(f"{promise.name}/kept"))
    return EpsilonNumbers(
        stage1=mean("stage1", stage1),
        stage2=mean("stage2", stage2),
        gain=mean("gain", public - stage2),
        kept=Rate.of(kept),
        membership=_measured(pooled(people), f"{promise.name}/membership"),
        people=_bound(pooled(people), delta, f"{promise.name}/people"),
        # Of one scale, as mechanism and noise are the same under every seed.
        crafted=_bound(joined(crafted), delta, f"{promise.name}/crafted") if crafted else None,
    )


def _bound(scored: Scored, delta: float, name: str) -> Bound:
    plan = even_plan(len(scored.score))
    found = audit(scored.score, scored.member, plan, delta=delta, rng=rng_of(name))
    return Bound(
        epsilon=found.epsilon,
        ceiling=found.ceiling,
        guesses=found.guesses.number,
        correct=found.correct,
        canaries=found.canaries,
    )


def _measured(scored: Scored, name: str) -> Measured:
    return Measured(**asdict(measure(scored, rng=rng_of(name), draws=DRAWS)))


def _all(outcomes: Outcomes, name: str) -> Floats:
    return np.concatenate([getattr(one, name) for one in outcomes])
