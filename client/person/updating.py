"""Going on from adapters with new items, for one person and for many alike.

New items train together with as many old ones. New items that were held back judge, and whoever
does not gain by that keeps the adapter there was; so does whoever loses on old items that this update
did not train on, so that a few new items cannot unlearn many old ones. The embedding stays.
Source: docs/method.md 1.9 (drift, continual refit).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.person.adapting import task_seed
from client.person.learner import Learner, finite, lora_report, samples_report
from client.person.state import PersonalState, TaskState, utc_now
from proper_model.data import date_key
from proper_model.engine import Fold, Samples, split_items
from proper_model.errors import ConfigError
from proper_model.kernels import Encoded, mix_seed
from proper_model.stages import Factors, LoraFit
from proper_model.tasks import HistoryItem

# Old items that are trained again beside every new one, so that an update does not unlearn them.
REHEARSAL = 1.0
LEAST_REHEARSED = 8
# Old items that an update does not train on judge it: at most so many, which bounds the time.
MOST_OLD_JUDGES = 64
# By how much their loss per answer token may rise. The adapter learned them once and now hears fewer of
# them, so a little is no harm: a tenth is exp(-0.1), answers that are a tenth less likely. An update that
# turns answers around takes whole units.
OLD_LOSS_TOLERANCE = 0.1
# With fewer new items than MANY each judges once, in FOLDS groups: a fifth of them would be an item
# or two, too few to decide by.
MANY, FOLDS = 10, 5


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes:
        new_items: how many it was about, with those that earlier updates could not use.
        judged: whether there were enough of them to judge by; if not, nothing was trained.
        kept: whether the adapter went on; if not, the new items wait for the next update.
        harmed: whether new items gained by it and old ones lost too much, so that it was not kept.
        loss_before, loss_after: per answer token on new items that were held back.
        old_judged: how many old items judged: none where the new ones had refused it already.
        old_loss_before, old_loss_after: per answer token on these, NaN without any.
    """

    new_items: int
    rehearsed: int
    judged: bool
    kept: bool
    harmed: bool
    loss_before: float
    loss_after: float
    old_judged: int
    old_loss_before: float
    old_loss_after: float
    state: PersonalState


def update(learner: Learner, state: PersonalState, name: str, grown: TaskState) -> Update:
    """As `update_all`, for one person."""
    (done,) = update_all(learner, [state], name, [grown])
    return done


def update_all(
    learner: Learner,
    states: Sequence[PersonalState],
    name: str,
    grown: Sequence[TaskState],
    *,
    tolerance: float = OLD_LOSS_TOLERANCE,
) -> list[Update]:
    """Go on from everybody's adapter of a task with items it has not seen; each keeps what helps.

    See `update_samples` for what trains and what judges. The items are in the new state in either
    case; those that did not help, or a single one, wait and count as new again next time. All
    train in shared passes.

    Args:
        grown: everybody's task with its new items, as `with_items` makes it.
        tolerance: by how much the loss of old items may rise; infinite: new items alone judge.

    Raises ConfigError if somebody has no adapter or no new item.
    """
    begun = [begin(learner, *one, name) for one in zip(states, grown, strict=True)]
    ended = go_on(learner, [start for _, start in begun], tolerance=tolerance)
    return [_end(learner, *one, name, done) for one, done in zip(begun, ended, strict=True)]


@dataclass(frozen=True)
class Start:
    """One adapter that goes on: its factors, the person's embedding [tables, e], the samples.

    `rehearsed` of these are old items; `old_judges` are old items too, and none of the samples.
    """

    factors: Factors
    embedding: Tensor
    samples: Samples
    rehearsed: int = 0
    old_judges: tuple[Encoded, ...] = ()


def begin(
    learner: Learner, state: PersonalState, grown: TaskState, name: str
) -> tuple[PersonalState, Start]:
    """The state with its new items waiting, and what goes on from there."""
    before = state.tasks[name]
    unseen = len(grown.items) > len(before.items)
    if not unseen or state.embedding is None or not before.adapter:
        raise ConfigError(
            "there is nothing to go on from" if unseen else "there is no new item to go on with",
            hint="run proper adapt with the whole history",
        )
    # Counted: in a data set's histories an id may occur twice.
    trained = Counter(item.id for item in before.items) - Counter(before.waiting)
    old: list[HistoryItem] = []
    new: list[HistoryItem] = []
    for item in grown.items:
        (old if trained[item.id] > 0 else new).append(item)
        trained[item.id] -= 1
    task = before.task()
    samples, rehearsed, old_judges = update_samples(
        learner.encode(new, task, history=grown.items),
        learner.encode(old, task, history=grown.items),
        seed=mix_seed(task_seed(state.seed, name), len(grown.items)),
        fraction=learner.settings.user.held_back_fraction,
    )
    factors = learner.factors(before.adapter)
    start = Start(factors, state.embedding, samples, rehearsed, old_judges)
    waiting = tuple(item.id for item in new)
    return state.with_task(name, replace(grown, waiting=waiting)), start


def _end(learner: Learner, state: PersonalState, start: Start, name: str, done: WentOn) -> Update:
    """What became of one person's task."""
    grown = state.tasks[name]
    kept = grown
    if done.kept:
        state = replace(state, base_weights=learner.release.chosen_weights)
        counts = samples_report(start.samples) | {"items": len(grown.items)}
        kept = replace(
            grown,
            adapter=done.adapter,
            report={**grown.report, **finite(lora_report(done.fit)), **counts},
            adapted_at=utc_now(),
            waiting=(),
        )
    return Update(
        new_items=len(grown.waiting),
        rehearsed=start.rehearsed,
        judged=bool(start.samples.folds),
        kept=done.kept,
        harmed=done.harmed,
        loss_before=done.fit.loss_before,
        loss_after=done.fit.loss_after,
        old_judged=len(start.old_judges) if done.helps else 0,
        old_loss_before=done.old_before,
        old_loss_after=done.old_after,
        state=state.with_task(name, kept),
    )


@dataclass(frozen=True)
class WentOn:
    """What became of it: `lora.<site>.A|B`, and how it was chosen on held-back items.

    `old_before` and `old_after`: loss per answer token on old items that judged, NaN without any;
    it may rise by `tolerance`.
    """

    adapter: Mapping[str, Tensor]
    fit: LoraFit
    old_before: float = math.nan
    old_after: float = math.nan
    tolerance: float = OLD_LOSS_TOLERANCE

    @property
    def helps(self) -> bool:
        """Whether new items that were held back gained."""
        return self.fit.epochs > 0 and not self.fit.failed

    @property
    def harmed(self) -> bool:
        """Whether it helps the new items and costs the old ones more than they may lose."""
        return self.helps and self.old_after > self.old_before + self.tolerance

    @property
    def kept(self) -> bool:
        """Whether training helped and did no harm; if not, `adapter` is the one there was."""
        return self.helps and not self.harmed


def go_on(
    learner: Learner, starts: Sequence[Start], *, tolerance: float = OLD_LOSS_TOLERANCE
) -> list[WentOn]:
    """Train every adapter from where it stands, all in shared passes; each keeps what helps it.

    What helps and costs old items more than `tolerance` is not kept either.
    """
    embeddings = torch.stack([start.embedding for start in starts]).to(learner.model.device)
    lora, fits = learner.train_loras(
        [start.samples for start in starts],
        embeddings,
        phase="update",
        starts=[start.factors for start in starts],
    )
    ended = [WentOn(learner.lora_tensors(lora, place), fit) for place, fit in enumerate(fits)]
    judges = [
        start.old_judges if done.helps else () for start, done in zip(starts, ended, strict=True)
    ]
    # As they would be stored: after the last training, on all new items.
    after = learner.losses_of([done.adapter for done in ended], embeddings, judges)
    begun = [learner.named(start.factors) for start in starts]
    before = learner.losses_of(begun, embeddings, judges)
    judged = [
        replace(done, old_before=old, old_after=new, tolerance=tolerance)
        for done, old, new in zip(ended, before, after, strict=True)
    ]
    return [
        replace(done, adapter=adapter) if done.harmed else done
        for done, adapter in zip(judged, begun, strict=True)
    ]


def update_samples(
    new: Sequence[Encoded], old: Sequence[Encoded], *, seed: int, fraction: float
) -> tuple[Samples, int, tuple[Encoded, ...]]:
    """What an update trains and is judged on, how many old items it rehearses, which old ones judge.

    Only new items choose how long to train: the adapter was trained on the old ones, so that by them
    no change would do better. Of many the newest `fraction` judges; of a few each judges once, against
    training without it. One alone cannot do both: no fold, and nothing trains. Old items that are not
    rehearsed, `fraction` of all at least where there are two, say whether the result harms them.
    """
    order = torch.randperm(len(old), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = min(max(0, len(old) - 1), max(1, round(fraction * len(old))))
    count = min(max(LEAST_REHEARSED, round(REHEARSAL * len(new))), len(old) - aside)
    kept = tuple(old[i] for i in sorted(order[:count]))
    judges = tuple(old[i] for i in sorted(order[count : count + MOST_OLD_JUDGES]))
    cuts = split_items(
        new, fraction=fraction, folds=1 if len(new) >= MANY else FOLDS, minimum=2, seed=seed
    )
    folds = tuple(Fold((*kept, *fold.train), fold.held_back) for fold in cuts.folds)
    return Samples((*kept, *new), folds, seed), len(kept), judges


def with_items(task_state: TaskState, items: Sequence[HistoryItem]) -> TaskState:
    """The task with those items added that it does not know, in time order."""
    known = {item.id for item in task_state.items}
    unseen = [item for item in items if item.id not in known]
    return replace(task_state, items=in_time((*task_state.items, *unseen)))


def in_time(items: Sequence[HistoryItem]) -> tuple[HistoryItem, ...]:
    """Oldest first where all have a date, of one day as they stand; else all as they stand."""
    keys = [date_key(item.date) for item in items]
    dated = [(key, place) for place, key in enumerate(keys) if key is not None]
    if len(dated) < len(items):
        return tuple(items)
    return tuple(items[place] for _, place in sorted(dated))
