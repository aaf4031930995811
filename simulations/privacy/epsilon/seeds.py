"""The curve over several seeds and promises: each pair trained once and kept, then summed up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from proper_model.progress import Progress
from simulations.privacy.epsilon.people import draw_roles
from simulations.privacy.epsilon.plan import Plan
from simulations.privacy.epsilon.summary import summed_up
from simulations.privacy.epsilon.trained import Outcome, Promise, Trainer
from simulations.privacy.results.epsilon_schema import EpsilonResult
from simulations.privacy.results.kept import kept_rows


def epsilon_of(plan: Plan, *, out: Path, cache: Path, progress: Progress) -> EpsilonResult:
    """Train every pair of seed and promise that is not kept in OUT, and sum up all."""

    def make(seed: int, promise: Promise) -> list[Outcome]:
        progress(f"seed {seed}, epsilon {promise.name}", 0, 0)
        roles = draw_roles(len(plan.people.users), plan.newcomers, seed)
        trainer = Trainer(
            plan.people,
            roles,
            plan.structure,
            plan.settings,
            seed,
            plan.canaries,
            cache,
            progress,
        )
        return [trainer.train(promise)]

    found: dict[str, list[Outcome]] = {promise.name: [] for promise in plan.promises}
    for seed in plan.seeds:
        for promise in plan.promises:
            (outcome,) = kept_rows(
                out / f"epsilon-{promise.name}",
                seed,
                plan.digest(promise),
                partial(make, seed, promise),
                write=Outcome.to_row,
                read=Outcome.from_row,
            )
            found[promise.name].append(outcome)
    return summed_up(plan, found)
