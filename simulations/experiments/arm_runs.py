"""Running the arms of one cell: PROPER's own in shared passes, rivals by their protocol.

Each finished arm is stored at once (`arm_store`); one that is there is not computed again. The release
is trained, or read from the cache of phases, only if an arm is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from client.person.adapting import adapt_users
from client.person.arms import STATEFUL_ARMS, predict
from client.person.state import PersonalState
from proper_model.errors import DataError, TaskError
from proper_model.evaluation import Prediction
from proper_model.federation.step_clock import StepClock, read_seconds
from proper_model.progress import Progress
from proper_model.release.contents import Release
from proper_model.storage.files import make_private_folder
from proper_model.tasks import User
from simulations.baselines.arm import Arm, Benchmark, cut
from simulations.experiments.arm_store import CellStore, Finished, ReleaseFacts
from simulations.experiments.benchmark_plan import SHUFFLED
from simulations.experiments.common import Meter, train_release
from simulations.experiments.release_sizes import parameters
from simulations.experiments.schema import Costs
from simulations.outcome import environment
from simulations.outcome.controls import shuffled_states
from simulations.setup.options import OneRun
from simulations.setup.sources import Source

PHASES = ("population", "group", "router", "starts", "calibration")
PHASES_FILE = "phases.json"
States = dict[str, PersonalState]
Made = TypeVar("Made")


class PooledStages:
    """A cell's release, trained or read from the cache when it is first asked for."""

    def __init__(self, run: OneRun, source: Source, store: CellStore, progress: Progress) -> None:
        self.run, self.source, self.store, self.progress = run, source, store, progress

    @cached_property
    def release(self) -> Release:
        """The release; its phases' seconds and what they noted are stored."""
        path = make_private_folder(self.store.folder) / PHASES_FILE
        with StepClock(path) as clock:
            told = clock.watch(self.progress, PHASES, rest="rest")
            release = train_release(self.run, self.source, told)
        seconds = {name: s for name, s in read_seconds(path).items() if name in PHASES}
        self.store.keep_release(ReleaseFacts(dict(release.notes), parameters(release), seconds))
        return release

    def forget(self) -> None:
        """Free the release, of which a benchmark has many."""
        self.__dict__.pop("release", None)

    def facts(self) -> ReleaseFacts:
        """What is known of the release, made if need be."""
        found = self.store.release()
        if found is None:
            _ = self.release
            found = self.store.release()
            assert found is not None
        return found


@dataclass(frozen=True)
class Cell:
    """One variant with one seed and one fold: its people over its release."""

    run: OneRun
    users: Sequence[User]
    pooled: Sequence[User]
    stages: PooledStages
    store: CellStore
    progress: Progress

    @classmethod
    def of(cls, run: OneRun, source: Source, store: CellStore, progress: Progress) -> Cell:
        """A cell with stages of its own. `source` has the variant's settings."""
        people = source.population
        stages = PooledStages(run, source, store, progress)
        return cls(run, people.test, people.pooled, stages, store, progress)

    def at_length(self, items: int) -> Cell:
        """The same people over the same release, with only the newest items of every history."""
        return replace(
            self,
            users=cut(self.users, items),
            store=CellStore(self.store.folder / f"newest-{items}"),
        )

    @property
    def memory_bytes(self) -> int | None:
        """What training and answering may take beside the base."""
        return self.run.machinery.memory_bytes

    def run_own(self, arms: Sequence[str]) -> None:
        """PROPER's arms; `stage2` reads what was fitted for `stage3` where both are asked for."""
        for arm in arms:
            if self.store.arm(arm) is None:
                answering = "stage3" if arm == SHUFFLED else arm
                trained = "stage3" if answering == "stage2" and "stage3" in arms else answering
                self._own(arm, answering, trained)

    def _own(self, arm: str, answering: str, trained: str) -> None:
        states = self.states(trained) if answering in STATEFUL_ARMS else {}
        if arm == SHUFFLED:
            states = shuffled_states(self.users, states, seed=self.run.training.seed)
        release = self.stages.release
        predictions, costs = self._metered(
            lambda: predict(
                release,
                self.users,
                answering,
                states,
                memory_bytes=self.memory_bytes,
                progress=self.progress,
            )
        )
        training = self.store.training(trained) if arm == trained else None
        self.store.finish(arm, Finished(predictions, training, costs, environment.commit()))

    def states(self, arm: str) -> States:
        """What everybody's training under an arm ended with."""
        stored = self.store.states(arm, self.users)
        if stored is not None:
            return stored
        checkpoint = self.store.scratch(arm)
        release = self.stages.release
        adapted, costs = self._metered(
            lambda: adapt_users(
                release,
                self.users,
                arms=(arm,),
                bundle_id="experiment",
                seed=self.run.training.seed,
                checkpoint=checkpoint,
                memory_bytes=self.memory_bytes,
                progress=self.progress,
            )
        )
        states = {user: state for (_, user), state in adapted.items()}
        self.store.keep_states(arm, self.users, states, costs)
        return states

    def run_rivals(self, names: Sequence[str], made: Callable[[str], Arm]) -> None:
        """Other methods. What they learn and what they answer is one cost.

        One that says it does not fit these data is left out, and why is stored.
        """
        for name in names:
            if self.store.arm(name) is not None or self.store.left_out(name) is not None:
                continue
            self.progress(name, 0, 0)
            try:
                predictions, costs = self._metered(partial(self._rival, made(name)))
            except (DataError, TaskError) as error:
                self.store.leave_out(name, error.message.removeprefix(f"{name}: "))
                continue
            self.store.finish(name, Finished(predictions, None, costs, environment.commit()))

    def _rival(self, method: Arm) -> list[Prediction]:
        return method.predict(
            Benchmark(
                release=self.stages.release,
                pooled=self.pooled,
                users=self.users,
                seed=self.run.training.seed,
                folder=make_private_folder(self.store.scratch(method.name)),
                memory_bytes=self.memory_bytes,
                progress=self.progress,
                states=self.states,
            )
        )

    def _metered(self, work: Callable[[], Made]) -> tuple[Made, Costs]:
        """What a piece of work made, and what went through the base meanwhile."""
        meter = Meter(self.stages.release.base)
        with meter.over("work"):
            made = work()
        return made, meter.costs["work"]
