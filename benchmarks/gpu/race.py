"""All contenders of one setting, over one base, taking turns round by round."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from benchmarks.contenders.measure import (
    Stopwatch,
    memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
)
from benchmarks.contenders.ours import Limit, Ours, Steady
from benchmarks.contenders.rival_stacked import StackedLoop
from benchmarks.contenders.specs import SEQUENTIAL, Spec
from benchmarks.contenders.workload import Counts, User, make_users
from benchmarks.contenders.world import Contender, World, packed_steps, settings_of
from benchmarks.gpu.budget import Budget, OutOfTimeError
from benchmarks.gpu.document import Entry, RaceSetting
from benchmarks.gpu.flops import useful
from benchmarks.gpu.plan import Planned
from benchmarks.gpu.variants import Variant
from benchmarks.kinds import Shape
from benchmarks.measuring.processes import cause_of
from proper_model.engine.memory import MemoryModel, free_bytes, release_memory
from proper_model.engine.memory_budget import memory_model

DTYPE = "bfloat16"
BATCHES = (1, 4)  # samples of a user in an optimizer step, the same for the engine and its rivals
RIVAL_USERS = 4  # whom a loop trains: its rate does not depend on how many there are
MOST_TOKENS = 16384  # of a shared pass; a larger one is no quicker
COMPILING = 0.2  # of the budget: a rival that is not compiled by then races as it is
NEXT = 1.3  # times the last round a next one may take

Say = Callable[[str], None]


@dataclasses.dataclass
class Racer:
    """A contender at one setting and what is noted of it."""

    entry: Entry
    spec: Spec
    variant: Variant | None = None
    world: World | None = None
    contender: Contender | None = None
    memory: MemoryModel | None = None
    last_s: float = 0.0

    @classmethod
    def of(cls, spec: Spec, name: str | None = None, variant: Variant | None = None) -> Racer:
        """One that is not built yet."""
        same = {"dtype": Spec.dtype, "tokens_per_step": Spec.tokens_per_step}  # for everybody
        label = dataclasses.replace(spec, **same).label  # type: ignore[arg-type]
        if name is not None:
            label = label.replace(spec.kind, name, 1)
        return cls(Entry(label, spec.kind, name, spec.batch, spec.compile), spec, variant)

    @property
    def loop(self) -> bool:
        """Whether it trains one user after another."""
        return self.spec.kind in SEQUENTIAL

    def fail(self, error: BaseException) -> None:
        """Note why it races no more; rounds that are done count unless an error of its own ended it."""
        if isinstance(error, OutOfTimeError) and self.entry.rounds:
            return
        self.entry.status = "skipped" if isinstance(error, OutOfTimeError) else "failed"
        self.entry.cause, self.entry.rounds = cause_of(error), []


class Race:
    """One setting. `base` is everybody's, and as before when `run` returns."""

    def __init__(
        self,
        plan: Planned,
        shape: Shape,
        base: Any,
        variants: Mapping[str, Variant],
        budget: Budget,
        *,
        rounds: int,
        compiled: bool,
        peak_flops: float,
        say: Say,
        publish: Callable[[], None],
    ) -> None:
        self.plan, self.shape, self.base, self.budget = plan, shape, base, budget
        self.rounds, self.compiled, self.peak_flops = rounds, compiled, peak_flops
        self.say, self.publish = say, publish
        self.device = torch.device(base.device)
        self.users = make_users(plan.work, shape.vocabulary)
        work = plan.work
        assert work.lengths in ("fixed", "ragged")
        self.setting = RaceSetting(
            size=work.size,
            users=work.users,
            samples=work.samples,
            tokens=work.tokens,
            lengths="fixed" if work.lengths == "fixed" else "ragged",
            dropout=plan.dropout,
            tokens_per_step=MOST_TOKENS,
            base_bytes=sum(p.numel() * p.element_size() for p in base.parameters()),
        )
        ours = Spec("ours-moe", dtype=DTYPE, tokens_per_step=MOST_TOKENS)
        stacked = Spec("stacked-loop", dtype=DTYPE, compile=compiled)
        self.racers = [
            Racer.of(dataclasses.replace(ours, batch=batch), name, variant)
            for batch in BATCHES
            for name, variant in variants.items()
            if not variant.part or (batch == 1 and work.lengths == "fixed")
        ]
        self.racers.append(Racer.of(dataclasses.replace(ours, kind="limit")))
        if plan.rivals:
            self.racers += [Racer.of(dataclasses.replace(stacked, batch=b)) for b in BATCHES]
        self.setting.entries = [racer.entry for racer in self.racers]

    def run(self) -> None:
        """Build, warm up, race; `setting` holds what came of it at any time."""
        loops = [racer for racer in self.racers if racer.loop]
        alone = [racer for racer in self.racers if not racer.loop]
        if loops and self.compiled:
            torch.compiler.reset()  # programs of another base are no use, and their number is limited
        try:
            self._each(self.racers, self._build)
            self._settle()
            self._each(alone, self._first)
            if loops:
                # Whatever compiling takes, the engine has a result.
                self._each(alone, self._round)
                self._each(loops, self._first)
            for number in range(self.rounds):
                self.say(f"round {number + 1} of {self.rounds}")
                self._each(self.racers, self._round)
        finally:
            for racer in self.racers:
                racer.contender = racer.world = None
            release_memory(self.device)

    def _each(self, racers: Sequence[Racer], act: Callable[[Racer], None]) -> None:
        """One after another, as long as there is time. What goes wrong with one is noted of it."""
        for racer in racers:
            if self.budget.left <= 0:
                return
            if racer.entry.status != "failed":
                self._guarded(racer, act)
        self.publish()

    def _guarded(self, racer: Racer, act: Callable[[Racer], None]) -> None:
        compiles = racer.spec.compile and racer.entry.first_s is None
        limit = COMPILING * self.budget.seconds if compiles else float("inf")
        try:
            with self.budget.at_most(limit):
                act(racer)
            return
        except Exception as error:  # noqa: BLE001 - a contender's failure is a result
            racer.fail(error)
            self.say(f"{racer.entry.label}: {cause_of(error)}")
        # Outside the handler: the exception holds what the failed round had in memory.
        release_memory(self.device)
        if compiles and racer.contender is not None and act == self._first:
            self._uncompiled(racer)

    def _uncompiled(self, racer: Racer) -> None:
        """A rival that could not be compiled races as it is: a slower one says more than none."""
        racer.contender, racer.entry.status = None, "failed"
        plain = Racer.of(dataclasses.replace(racer.spec, compile=False))
        self.racers.append(plain)
        self.setting.entries.append(plain.entry)
        self._each([plain], self._build)
        self._each([plain], self._first)

    def _build(self, racer: Racer) -> None:
        users: list[User] = self.users[:RIVAL_USERS] if racer.loop else self.users
        settings = settings_of(racer.spec, self.plan.dropout)
        world = World(racer.spec, self.base, users, self.plan.work.seed, settings)
        if racer.variant is not None:
            engine = Steady(world, experts=True)
            racer.variant.configure(engine)
            racer.contender = engine
            racer.memory = self._memory_of(engine)
        elif racer.loop:
            racer.contender = StackedLoop(world)
        else:
            racer.contender = Limit(world)
        racer.world = world
        racer.entry.flops = useful((s for user in users for s in user.samples), self.shape)

    def _memory_of(self, engine: Ours) -> MemoryModel:
        world = engine.world
        samples = (sample for user in world.users for sample in user.samples)
        longest = max(samples, key=lambda sample: len(sample.tokens))
        with engine.around():
            return memory_model(engine.model, world.encoder, longest, world.settings)

    def _settle(self) -> None:
        """Users and tokens of a pass as memory allows, the same for the engine and its limit."""
        models = [racer.memory for racer in self.racers if racer.memory is not None]
        budget = free_bytes(self.device)
        tokens, users = MOST_TOKENS, len(self.users)
        if models and budget is not None:
            # The greediest decides, so that all have the same passes.
            model = max(models, key=lambda one: one.token_bytes)
            longest = max(len(s.tokens) for user in self.users for s in user.samples)
            users, tokens = model.fit(budget, trials=users, tokens=tokens, least_tokens=longest)
        if users < len(self.users):
            self.say(f"memory has room for {users} of {len(self.users)} users")
            self.users = self.users[:users]
        self.setting.users, self.setting.tokens_per_step = users, tokens
        for racer in self.racers:
            world = racer.world
            if world is None or racer.loop:
                continue
            world.users = self.users
            world.settings = dataclasses.replace(world.settings, tokens_per_step=tokens)
            samples = (sample for user in self.users for sample in user.samples)
            racer.entry.flops = useful(samples, self.shape)
            if racer.memory is not None:
                largest = max(
                    sum(len(row.sample.tokens) for row in rows)
                    for rows in packed_steps(world.users, world.settings)
                )
                racer.entry.memory_predicted_bytes = racer.memory.peak(users, largest, 0)

    def _first(self, racer: Racer) -> None:
        """A round that does not count: libraries load, kernels are chosen and compiled."""
        began = self.budget.elapsed
        self._trained(racer)
        racer.last_s = self.budget.elapsed - began
        racer.entry.first_s = racer.last_s
        self.say(f"{racer.entry.label}: first round {racer.last_s:.1f} s")

    def _round(self, racer: Racer) -> None:
        if racer.entry.first_s is None:
            return
        if racer.entry.rounds and NEXT * racer.last_s > self.budget.left:
            raise OutOfTimeError("no time for another round")
        began = self.budget.elapsed
        self._trained(racer, counts=True)
        racer.last_s = self.budget.elapsed - began
        self.say(self._in_words(racer.entry))

    def _trained(self, racer: Racer, *, counts: bool = False) -> None:
        world, contender, entry = racer.world, racer.contender, racer.entry
        assert world is not None
        assert contender is not None
        clock, world.encoder.counts = Stopwatch(self.device), Counts()
        before = memory_bytes(self.device)
        reset_peak_memory(self.device)
        contender.round(clock)
        peak = peak_memory_bytes(self.device)
        if not counts:
            return
        found = world.encoder.counts
        entry.users, entry.samples, entry.tokens = len(world.users), found.samples, found.tokens
        entry.padded_tokens, entry.passes = found.padded_tokens, found.passes
        entry.answers = found.logit_positions
        entry.rounds.append(clock.seconds())
        entry.status, entry.cause = "measured", None
        most = entry.taken_bytes
        if before is not None and peak is not None and (most is None or peak - before > most):
            entry.memory_before_bytes, entry.memory_peak_bytes = before, peak

    def _in_words(self, entry: Entry) -> str:
        rate = statistics.median(entry.a_second(entry.flops))
        return (
            f"{entry.label}: {entry.tokens_a_second:,.0f} tokens/s, "
            f"{rate / self.peak_flops:.1%} of the peak, {entry.rounds[-1].wall_s:.2f} s"
        )
