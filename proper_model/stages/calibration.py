"""Calibration: what a device may change at each length of history, found once per release.

Pooled people whom stages 1 and 2 never saw are personalized as newcomers, each with the newest n of the
own items, and judged on the own queries: stage 3, and the private LoRA alone so that the two are compared
fairly (docs/method.md 1.11). Three passes an arm:

1. every way of training (start, rate, shrinkage), all people and lengths stacked, judged after every
   epoch, so that epochs cost nothing more (`choose_training`);
2. once more with what was chosen, for the adapters themselves, whose B is then scaled; from what both
   models give the right tokens every weight of their mixture can be read off (`choose_amounts`);
3. the mixture over the whole vocabulary at every temperature (`choose_temperature`).

The ways run one after another: all at once would hold the best state of each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, beside
from proper_model.engine.folds import embedding_split
from proper_model.engine.judging import held_back_log_probs, tempered_losses
from proper_model.engine.memory import free_bytes
from proper_model.engine.memory_budget import within
from proper_model.engine.trials import (
    Trial,
    TrialResult,
    TrialSettings,
    fit_settings,
    lora_settings,
)
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.mixture import mixed
from proper_model.progress import Steps
from proper_model.settings.calibration import Calibrated, Calibration
from proper_model.settings.presets import UserRouting
from proper_model.settings.profile import StageSettings
from proper_model.stages.calibration_choice import (
    Amount,
    Curves,
    Training,
    Way,
    amounts,
    choose_amounts,
    choose_start,
    choose_temperature,
    choose_training,
)
from proper_model.stages.inferred_embedding import InferredEmbedding, infer_embeddings
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import Factors, LoraTrials
from proper_model.stages.user_embedding import fit_embeddings
from proper_model.text.encoding import Encoder

ARMS = ("stage3", "oppu-mlp")


@dataclass(frozen=True)
class Newcomer:
    """One person with a history cut to the newest `length` items."""

    person: int
    length: int
    items: tuple[Encoded, ...]
    queries: tuple[Encoded, ...]
    seed: int


@dataclass(frozen=True)
class Found:
    """What calibration came to.

    Attributes:
        starts: arms whose common start helps.
        notes: losses a length, for reports; no user data.
    """

    calibration: Calibration
    starts: tuple[str, ...]
    notes: Mapping[str, Any]


def newcomers(people: Sequence[PooledUser], settings: StageSettings, seed: int) -> list[Newcomer]:
    """Everybody at every length of history that they have; lengths of too few people are left out."""
    judged = [(p, one) for p, one in enumerate(people) if one.queries]
    found: list[Newcomer] = []
    for length in settings.calibration.lengths:
        having = [(p, one) for p, one in judged if len(one.history) >= length]
        if len(having) >= settings.group.prototype_min_users:
            found += [
                Newcomer(p, length, one.history[-length:], one.queries, mix_seed(seed, p, length))
                for p, one in having
            ]
    return found


def calibrate(
    model: AdaptedModel,
    encoder: Encoder,
    people: Sequence[PooledUser],
    *,
    mean: Tensor,
    prototypes: Tensor,
    inferred: InferredEmbedding | None = None,
    starts: Mapping[str, Factors],
    settings: StageSettings,
    seed: int,
    memory_bytes: int | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Steps | None = None,
) -> Found:
    """The calibration of a frozen model; empty where too few people have any of the lengths.

    Args:
        mean, prototypes: of the pooled users' embeddings, [tables, e] and [K, tables, e].
        inferred: what gives a newcomer's embedding; None: each fits it.
        starts: common starts by arm, as far as there are.
        memory_bytes: what training may take beside the base; None: what a GPU has free.
    """
    members = newcomers(people, settings, seed)
    if not members:
        return Found(Calibration(), (), {})
    free = free_bytes(model.device) if memory_bytes is None else memory_bytes
    items = [sample for one in members for sample in (*one.items, *one.queries)]

    def room(own: TrialSettings) -> TrialSettings:
        return within(free, model, encoder, items, len(members), own, prior=True)

    fit = room(fit_settings(settings, epochs=settings.user.embedding_epochs))
    how: dict[str, Any] = {"mean": mean, "prototypes": prototypes, "inferred": inferred}
    place = beside(checkpoint, ".embedding")
    embeddings = _newcomer_embeddings(
        model, encoder, members, settings, fit, **how, checkpoint=place, progress=progress
    )
    rows, used, notes = {}, [], {}
    # Without experts the two arms are one.
    arms = ARMS[:1] if model.structure.population_only else ARMS
    for arm in arms:
        experts = arm == "stage3"
        stage = LoraTrials(
            model,
            encoder,
            embeddings if experts else None,
            model.structure.user_routing if experts else UserRouting.USER_AWARE,
            experts,
            room(schedule(settings)),
            None,
            progress,
        )
        own = _Arm(stage, members, starts.get(arm), settings, beside(checkpoint, f".{arm}"))
        rows[arm], common, notes[arm] = own.calibrate()
        used += [arm] if common else []
    if arms != ARMS:
        rows["oppu-mlp"], used = rows["stage3"], list(ARMS) if used else []
    return Found(Calibration(rows["stage3"], rows["oppu-mlp"]), tuple(used), notes)


def _newcomer_embeddings(
    model: AdaptedModel,
    encoder: Encoder,
    members: Sequence[Newcomer],
    settings: StageSettings,
    fit: TrialSettings,
    *,
    mean: Tensor,
    prototypes: Tensor,
    inferred: InferredEmbedding | None,
    checkpoint: Checkpoint | None,
    progress: Steps | None,
) -> Tensor:
    """The newcomers' embeddings [M, tables, e], found as a device finds its own."""
    if inferred is not None:
        return infer_embeddings(
            model,
            encoder,
            inferred,
            [one.items for one in members],
            fit,
            progress=progress,
        )[0]
    return fit_embeddings(
        model,
        encoder,
        [embedding_split(one.items, settings.user, seed=one.seed) for one in members],
        mean=mean,
        prototypes=prototypes,
        learning_rate=settings.user.embedding_learning_rate,
        settings=fit,
        checkpoint=checkpoint,
        progress=progress,
    )[0]


def schedule(settings: StageSettings) -> TrialSettings:
    """How a calibrated private LoRA trains: a device stops part of the way, as its row says."""
    epochs = settings.calibration.epochs
    own = lora_settings(settings, epochs=epochs)
    return dataclasses.replace(own, patience=epochs + 1, refit=False)


@dataclass(frozen=True)
class _Arm:
    """One arm's calibration. `stage` has no starts of its own."""

    stage: LoraTrials
    members: Sequence[Newcomer]
    common: Factors | None
    settings: StageSettings
    checkpoint: Checkpoint | None

    def calibrate(self) -> tuple[tuple[Calibrated, ...], bool, list[dict[str, float]]]:
        """Rows by length, whether they begin at the common start, and numbers for reports."""
        curves = self._curves()
        common = choose_start(curves)
        training = choose_training({w: own for w, own in curves.items() if w.common == common})
        adapters = self._adapters(training, common=common)
        choices = amounts(self.scales(), self.settings.calibration.weights)
        losses = self._losses(adapters, choices)
        chosen = choose_amounts(losses, choices)
        tempered = self._tempered(adapters, chosen)
        rows, notes = [], []
        for length, one in training.items():
            amount, own = chosen[length], tempered[length]
            temperature = choose_temperature(own, self.settings.calibration.temperatures)
            rows.append(_row(length, one, amount, temperature))
            at = self.settings.calibration.temperatures.index(temperature)
            notes.append(
                {
                    "items": length,
                    "people": len(own),
                    "loss_below": float(losses[length][:, 0].mean()),
                    "loss_adapted": float(losses[length][:, choices.index(_whole(choices))].mean()),
                    "loss_chosen": float(own[:, at].mean()),
                }
            )
        return tuple(rows), common, notes

    def scales(self) -> tuple[float, ...]:
        """What B may be multiplied by. W_l B A x would be, too, and an adapter routed otherwise than
        it was trained, so where experts are routed by it it is used as it is or not at all.
        """
        if self.stage.experts and self.stage.model.structure.reads_lora:
            return (0.0, 1.0)
        return self.settings.calibration.scales

    def _curves(self) -> Curves:
        """Losses of every person before training and after each epoch, in every way.

        The common start is tried at the rate that most lengths chose without it.
        """
        own = self.settings.calibration
        rates = own.learning_rates or self.settings.user.learning_rates
        curves = {
            way: self._curve(way)
            for way in itertools.starmap(Way, itertools.product([False], rates, own.shrinkages))
        }
        if self.common is not None:
            chosen = [one.way.learning_rate for one in choose_training(curves).values()]
            rate = max(sorted(set(chosen)), key=chosen.count)
            curves |= {
                way: self._curve(way) for way in (Way(True, rate, p) for p in own.shrinkages)
            }
        return curves

    def _curve(self, way: Way) -> dict[int, Tensor]:
        """Losses in one way by length, [P, 1 + E]."""
        rate, pull = way.learning_rate, way.shrinkage
        results, _ = self._train(
            [Trial(one.items, one.queries, rate, one.seed, prior=pull) for one in self.members],
            common=way.common,
            checkpoint=beside(self.checkpoint, f".{int(way.common)}-{rate!r}-{pull!r}"),
        )
        epochs = self.settings.calibration.epochs
        return self._by_length([_losses_of(result, epochs) for result in results])

    def _adapters(self, training: Mapping[int, Training], *, common: bool) -> list[Tensor]:
        """Everybody's adapter under what was chosen: A of every site, then B, each [M, ...]."""
        trials = [
            Trial(
                one.items,
                (),
                training[one.length].way.learning_rate,
                one.seed,
                stop_epoch=training[one.length].epochs,
                prior=training[one.length].way.shrinkage,
            )
            for one in self.members
        ]
        place = beside(self.checkpoint, ".chosen")
        return self._train(trials, common=common, checkpoint=place)[1]

    def _train(
        self, trials: Sequence[Trial], *, common: bool, checkpoint: Checkpoint | None
    ) -> tuple[list[TrialResult], list[Tensor]]:
        begin = [self.common] * len(trials) if common and self.common is not None else None
        stage = dataclasses.replace(self.stage, starts=begin)
        return stage.run(trials, range(len(trials)), checkpoint)

    def _losses(self, adapters: Sequence[Tensor], choices: Sequence[Amount]) -> dict[int, Tensor]:
        """By length, every person's loss under every amount, [P, C]."""
        table = torch.zeros(len(self.members), len(choices), dtype=torch.float64)
        for chunk in self._chunks():
            below = self._log_probs(chunk, above=False)
            table[chunk, 0] = self._means(chunk, [-own.mean() for own in below])
            for scale in sorted({choice.scale for choice in choices if not choice.is_none}):
                self._hold(adapters, chunk, [scale] * len(chunk))
                above = self._log_probs(chunk, above=True)
                for c, choice in enumerate(choices):
                    if not choice.is_none and choice.scale == scale:
                        both = zip(above, below, strict=True)
                        losses = [-mixed(a, b, choice.weight).mean() for a, b in both]
                        table[chunk, c] = self._means(chunk, losses)
        return self._by_length(list(table))

    def _tempered(
        self, adapters: Sequence[Tensor], chosen: Mapping[int, Amount]
    ) -> dict[int, Tensor]:
        """By length, every person's loss under the chosen mixture at every temperature, [P, T]."""
        temperatures = self.settings.calibration.temperatures
        table = torch.zeros(len(self.members), len(temperatures), dtype=torch.float64)
        for chunk in self._chunks():
            own = [chosen[self.members[m].length] for m in chunk]
            self._hold(adapters, chunk, [amount.scale for amount in own])
            samples = self._samples(chunk)
            embeddings = self._embeddings(chunk)
            losses = tempered_losses(
                self.stage.model,
                self.stage.encoder,
                samples,
                (
                    lambda rows, e=embeddings: self.stage.personal(rows, e),  # type: ignore[misc]
                    lambda rows, e=embeddings: self.stage.below(rows, e),  # type: ignore[misc]
                ),
                [own[slot].weight for slot, _ in samples],
                temperatures,
                self.stage.settings.tokens_judged,
            )
            for column in range(len(temperatures)):
                table[chunk, column] = self._means(chunk, list(losses[:, column]))
        return self._by_length(list(table))

    def _chunks(self) -> list[list[int]]:
        """Members in as many at once as train at once."""
        size = self.stage.settings.slots or len(self.members)
        everyone = list(range(len(self.members)))
        return [everyone[begin : begin + size] for begin in range(0, len(everyone), size)]

    def _hold(self, adapters: Sequence[Tensor], chunk: Sequence[int], scales: list[float]) -> None:
        self.stage.hold([[stack[m] for stack in adapters] for m in chunk], scales)

    def _log_probs(self, chunk: Sequence[int], *, above: bool) -> list[Tensor]:
        embeddings = self._embeddings(chunk)
        make = self.stage.personal if above else self.stage.below
        return held_back_log_probs(
            self.stage.model,
            self.stage.encoder,
            self._samples(chunk),
            lambda rows: make(rows, embeddings),
            self.stage.settings.tokens_judged,
        )

    def _samples(self, chunk: Sequence[int]) -> list[tuple[int, Encoded]]:
        """(slot, query) of the members of a chunk."""
        return [(slot, query) for slot, m in enumerate(chunk) for query in self.members[m].queries]

    def _embeddings(self, chunk: Sequence[int]) -> Tensor | None:
        own = self.stage.embeddings
        return None if own is None else own[list(chunk)]

    def _means(self, chunk: Sequence[int], losses: Sequence[Tensor]) -> Tensor:
        """Losses of the members' queries, in that order, to each member's mean."""
        counts = [len(self.members[m].queries) for m in chunk]
        return torch.stack([own.mean() for own in torch.stack(list(losses)).split(counts)])

    def _by_length(self, rows: Sequence[Tensor]) -> dict[int, Tensor]:
        """One row a member to [P, ...] a length."""
        found: dict[int, list[Tensor]] = {}
        for one, row in zip(self.members, rows, strict=True):
            found.setdefault(one.length, []).append(row)
        return {length: torch.stack(own) for length, own in found.items()}


def _whole(choices: Sequence[Amount]) -> Amount:
    """The most that may be chosen."""
    return max(choices, key=lambda one: (one.scale * one.weight, one.weight))


def _row(length: int, training: Training, amount: Amount, temperature: float) -> Calibrated:
    """What a device reads; where nothing of an adapter is used none is trained."""
    return Calibrated(
        items=length,
        learning_rate=training.way.learning_rate,
        epochs=0 if amount.is_none else training.epochs,
        shrinkage=training.way.shrinkage,
        scale=amount.scale,
        weight=amount.weight,
        temperature=temperature,
    )


def _losses_of(result: TrialResult, epochs: int) -> Tensor:
    """Losses before training and after every epoch; not a number from where it diverged."""
    losses = torch.full((epochs + 1,), float("nan"), dtype=torch.float64)
    losses[: len(result.losses)] = torch.tensor(result.losses, dtype=torch.float64)
    return losses
