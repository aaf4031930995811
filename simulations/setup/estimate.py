"""What a run will cost, told before it starts: time, memory and disk, each at least and at most.

Tokens are counted in the user data that the run would read; passes follow from the profile; speed
is measured (`costs`). The low end assumes that early stopping ends every training as soon as it
may, the high end that nothing stops early and the machine is busy. Source: docs/performance.md 2
(costs beside the frozen base), docs/method.md 1.3 (parameter counts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from client.person.arms import BELOW
from client.terminal.tables import Table, to_markdown
from proper_model.base.sizes import BaseShape
from proper_model.checks import FoundBase
from proper_model.settings import StageSettings, Structure, UserRouting
from proper_model.stages import pooled_users
from proper_model.tasks import Example, HistoryItem, Population, Task, User
from proper_model.text import Encoder

# Cost beside the frozen base's own forward and backward: adapters and, where they run, experts.
LORA_FACTOR, EXPERT_FACTOR = 1.3, 1.8
SLOWEST, FASTEST = 1.6, 0.8  # another load on the machine, or better batches than the probe's
SAMPLE_USERS = 40  # tokenizing all of a file of gigabytes would itself take minutes
PROCESS_BYTES = 900 * 2**20  # Python with torch and transformers
FLOWER_BYTES = 400 * 2**20  # Flower in the coordinator, and the process that started it


@dataclass(frozen=True)
class Speed:
    """Tokens a second through the frozen base, one process."""

    forward: float
    training: float  # forward and backward


@dataclass(frozen=True)
class Tokens:
    """Tokens of one pass over each part of the data."""

    pooled_queries: float
    pooled_history: float  # capped as stage 2 caps it
    cohort_history: float
    test_history: float
    test_queries: float
    row: int  # a typical sample
    calibrating_history: float = 0.0  # of all lengths together


@dataclass(frozen=True)
class Shape:
    """What of a base model its cost depends on."""

    layers: int
    hidden: int
    ffn: int
    base: BaseShape

    @classmethod
    def of(cls, base: FoundBase) -> Shape:
        """Of a base whose weights need not be there."""
        return cls(base.layers, base.hidden, base.ffn, base.shape)

    @property
    def user_lora(self) -> int:
        """Rank-one parameters of a LoRA on gate, up and down; times rank is a user's (1.3)."""
        return (3 * self.hidden + 3 * self.ffn) * self.layers


@dataclass(frozen=True)
class Range:
    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        return Range(factor * self.low, factor * self.high)


@dataclass(frozen=True)
class Estimate:
    """Seconds by phase, bytes of memory of all processes together, bytes of disk in OUT.

    `exceeding_bytes` is what the longest sample of one user takes, where that is more than the
    memory budget: training goes on with it all the same. 0 where the budget holds it.
    """

    seconds: dict[str, Range]
    memory_bytes: Range
    disk_bytes: Range
    exceeding_bytes: float = 0.0

    @property
    def total_seconds(self) -> Range:
        return sum(self.seconds.values(), Range(0.0, 0.0))

    def __str__(self) -> str:
        return to_markdown(as_table(self))

    def times(self, folds: int) -> Estimate:
        """The same for several runs one after another, each with its own folder."""
        seconds = {name: part * folds for name, part in self.seconds.items()}
        return replace(self, seconds=seconds, disk_bytes=self.disk_bytes * folds)


def count_tokens(
    population: Population, task: Task, encoder: Encoder, settings: StageSettings
) -> Tokens:
    """Exact for up to SAMPLE_USERS users, extrapolated from evenly spaced ones beyond."""
    cap = settings.group.max_items_per_user

    def tokens_of(examples: Iterable[Example]) -> int:
        return sum(len(encoder.encode(example).tokens) for example in examples)

    def history(users: Sequence[User], limit: int | None) -> float:
        def recent(user: User) -> Sequence[HistoryItem]:
            return user.history[-limit:] if limit else user.history

        return _sampled(users, lambda u: tokens_of(map(task.history_example, recent(u))))

    def queries(users: Sequence[User]) -> float:
        return _sampled(users, lambda u: tokens_of(map(task.query_example, u.queries)))

    pooled_history, test_history = history(population.pooled, cap), history(population.test, None)
    pooled_queries, test_queries = queries(population.pooled), queries(population.test)
    cohort = min(1.0, settings.router.cohort / max(1, len(population.pooled)))
    calibrating = _calibrating_share(population, settings) * pooled_history
    samples = sum(len(u.history) + len(u.queries) for u in population.test)
    row = int((test_history + test_queries) / max(1, samples)) or 1
    return Tokens(
        pooled_queries,
        pooled_history,
        cohort * pooled_history,
        test_history,
        test_queries,
        row,
        calibrating,
    )


def _calibrating_share(population: Population, settings: StageSettings) -> float:
    """Items that calibration trains on, all lengths together, as a share of the pooled history."""
    pooled, own = population.pooled, settings.calibration
    able = sum(bool(user.history and user.queries) for user in pooled)
    people = pooled_users.calibrating_people(able, settings)
    if not people:
        return 0.0
    cap = settings.group.max_items_per_user
    counts = [len(user.history) for user in pooled]
    items = sum(n for count in counts for n in own.lengths if n <= count)
    return people / len(pooled) * items / max(1, sum(min(count, cap) for count in counts))


def _sampled(users: Sequence[User], count: Callable[[User], int]) -> float:
    step = max(1, len(users) // SAMPLE_USERS)
    chosen = users[::step]
    total = sum(count(user) for user in chosen)
    return total * len(users) / max(1, len(chosen))


def estimate(
    tokens: Tokens,
    server: Speed,
    node: Speed,
    shape: Shape,
    structure: Structure,
    settings: StageSettings,
    *,
    arms: Sequence[str],
    users: int,
    processes: int,
    dtype_bytes: int = 4,
    embed_base: bool = True,
    training_bytes: int | None = None,
) -> Estimate:
    """Costs of a whole run without any cached phase.

    Args:
        server: speed of the pooled stages.
        node: speed of each of `processes` node hosts, which work side by side.
        training_bytes: what training may take in one process beside the base; None: no limit.
    """
    seconds = {
        "stage 1": _stage1(tokens, server, settings),
        "stage 2": _stage2(tokens, server, structure, settings),
        "router": _router(tokens, server, structure, settings),
        "calibration": _calibration(tokens, server, settings),
        "stage 3": _embedding(tokens, node, structure, settings, arms, processes)
        + _stage3(tokens, node, settings, arms, processes),
        "predictions": _predictions(tokens, node, settings, arms, processes),
        "start and end": Range(15.0, 60.0),
    }
    memory = _memory(shape, settings, processes, dtype_bytes, training_bytes)
    disk = _disk(shape, structure, users=users, processes=processes, embed_base=embed_base)
    least = _longest(settings) * _token_bytes(shape, dtype_bytes)
    exceeding = least if training_bytes is not None and least > training_bytes else 0.0
    return Estimate(seconds, memory, disk, exceeding)


def _training(passes: float, tokens: float, factor: float, speed: Speed, least: float) -> Range:
    one = tokens * factor / speed.training
    return Range(FASTEST * min(least, passes) * one, SLOWEST * passes * one)


def _stage1(tokens: Tokens, speed: Speed, settings: StageSettings) -> Range:
    stage = settings.population
    seen = tokens.pooled_queries + (tokens.pooled_history if stage.use_history else 0.0)
    return _training(stage.epochs, seen, LORA_FACTOR, speed, stage.patience + 1)


def _stage2(tokens: Tokens, speed: Speed, structure: Structure, settings: StageSettings) -> Range:
    if structure.population_only:
        return Range(0.0, 0.0)
    seen = tokens.pooled_queries + tokens.pooled_history
    return _training(settings.group.epochs, seen, EXPERT_FACTOR, speed, settings.group.patience + 1)


def _router(tokens: Tokens, speed: Speed, structure: Structure, settings: StageSettings) -> Range:
    if not structure.has_lora_router:
        return Range(0.0, 0.0)
    rounds = 2 if structure.user_routing is UserRouting.LORA_AWARE else 1
    user, seen = settings.user, tokens.cohort_history * rounds
    loras = _training(user.epochs, seen, EXPERT_FACTOR, speed, user.patience + 1)
    return loras + _training(settings.router.epochs, seen, EXPERT_FACTOR, speed, 1)


def _embedding(
    tokens: Tokens,
    speed: Speed,
    structure: Structure,
    settings: StageSettings,
    arms: Sequence[str],
    processes: int,
) -> Range:
    """A fit of a few numbers, or one pass over the items where an embedding is inferred."""
    if "stage3" not in arms or not structure.reads_user:
        return Range(0.0, 0.0)
    once = structure.infers_user
    epochs, least = settings.user.embedding_epochs, settings.user.patience + 1
    history = tokens.test_history / processes
    return _training(1 if once else epochs, history, EXPERT_FACTOR, speed, 1 if once else least)


def _stage3(
    tokens: Tokens, speed: Speed, settings: StageSettings, arms: Sequence[str], processes: int
) -> Range:
    user, history = settings.user, tokens.test_history / processes
    tried = history * len(user.learning_rates)
    if tokens.calibrating_history:
        return _calibrated(history, speed, settings, arms)
    fits: list[tuple[int, float, float]] = []
    if "stage3" in arms:
        fits += [(user.epochs, tried, EXPERT_FACTOR)]
    if "oppu-mlp" in arms:
        fits += [(user.epochs, tried, LORA_FACTOR)]
    costs = (_training(*fit, speed, user.patience + 1) for fit in fits)
    return sum(costs, Range(0.0, 0.0))


def _calibrated(
    history: float, speed: Speed, settings: StageSettings, arms: Sequence[str]
) -> Range:
    """Devices train once: not at all, or for all epochs of the schedule and once more to confirm."""
    once = Range(0.0, 0.0)
    for arm, factor in (("stage3", EXPERT_FACTOR), ("oppu-mlp", LORA_FACTOR)):
        if arm in arms:
            most = 2 * settings.calibration.epochs
            once += _training(most, history, factor, speed, 0)
    return once


def _calibration(tokens: Tokens, speed: Speed, settings: StageSettings) -> Range:
    """Common starts of both arms, then every way of training at every length of history."""
    own = settings.calibration
    if not tokens.calibrating_history:
        return Range(0.0, 0.0)
    # A common start is tried at one rate.
    rates = len(own.learning_rates or settings.user.learning_rates) + (own.start_rounds > 0)
    ways = rates * len(own.shrinkages)
    rounds = own.start_rounds * own.start_epochs
    total = Range(0.0, 0.0)
    for factor in (EXPERT_FACTOR, LORA_FACTOR):
        total += _training(rounds, tokens.cohort_history, factor, speed, rounds)
        # One training of what was chosen, and judging, beside the ways.
        passes = (ways + 2) * own.epochs
        total += _training(passes, tokens.calibrating_history, factor, speed, passes)
    return total


def _predictions(
    tokens: Tokens, speed: Speed, settings: StageSettings, arms: Sequence[str], processes: int
) -> Range:
    # One pass for the loss; decoding adds up to one step an answer token, each as costly as a row
    # of a few dozen tokens because the batch is narrow.
    once = tokens.test_queries / processes / speed.forward * EXPERT_FACTOR
    decoding = 1 + settings.max_answer_tokens / 4
    # An arm that a calibration mixes with another takes both passes.
    most = len(arms) + (sum(arm in BELOW for arm in arms) if tokens.calibrating_history else 0)
    return Range(FASTEST * len(arms) * once, SLOWEST * most * once * decoding)


def _memory(
    shape: Shape,
    settings: StageSettings,
    processes: int,
    dtype_bytes: int,
    training_bytes: int | None,
) -> Range:
    # The server trains stage 1 over the full base, which transformers may hold twice while it loads;
    # a node holds it as the profile says, read a tensor at a time.
    full = shape.base.numbers * dtype_bytes
    held = shape.base.held_bytes(settings.base_weights, dtype_bytes)
    loading = shape.base.loading_bytes(settings.base_weights, dtype_bytes)
    a_token = _token_bytes(shape, dtype_bytes)
    activations = settings.tokens_per_step * a_token
    if training_bytes is not None:
        # However small the budget, the longest sample must go through.
        activations = min(activations, max(training_bytes, _longest(settings) * a_token))
    nodes = processes * (PROCESS_BYTES + max(held, loading))
    return Range(
        FLOWER_BYTES + PROCESS_BYTES + min(held, full) + 0.3 * activations,
        FLOWER_BYTES + PROCESS_BYTES + 2 * full + nodes + (processes + 0.5) * activations,
    )


def _token_bytes(shape: Shape, dtype_bytes: int) -> int:
    """Kept for the backward pass: about 16 rows of the hidden width and 6 of the FFN's a layer."""
    return shape.layers * (16 * shape.hidden + 6 * shape.ffn) * dtype_bytes


def _longest(settings: StageSettings) -> int:
    return settings.max_prompt_tokens + settings.max_answer_tokens


def _disk(
    shape: Shape, structure: Structure, *, users: int, processes: int, embed_base: bool
) -> Range:
    lora = 4 * shape.user_lora * structure.rank
    experts = 0 if structure.population_only else structure.experts
    bundle = experts * lora + (4 * shape.base.numbers if embed_base else 0)
    states = users * 2 * lora  # two arms keep a private state; a second generation doubles it
    low = bundle * 2 + states
    return Range(low, bundle * (4 + processes) + 2 * states + 20 * 2**20)


def as_table(result: Estimate) -> Table:
    """Phases, then totals, in units a person reads."""
    rows = [(name, _time(part.low), _time(part.high)) for name, part in result.seconds.items()]
    total = result.total_seconds
    rows.append(("time in all", _time(total.low), _time(total.high)))
    memory, disk = result.memory_bytes, result.disk_bytes
    if result.exceeding_bytes:
        least = _size(result.exceeding_bytes)
        rows.append(("over the memory budget: one sample", least, least))
    rows.append(("memory", _size(memory.low), _size(memory.high)))
    rows.append(("disk", _size(disk.low), _size(disk.high)))
    return Table("Estimate", ("", "at least", "at most"), tuple(rows))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
