"""What a common start of private LoRAs tells about the cohort that it was made of.

Members are the pooled people whose LoRAs the start is an average of (`stages.common_lora`), the router cohort;
the others are as much part of stages 1 and 2. A release ships a start only where calibration finds that it
helps. The worst case is that it does, so one is made here by the coordinator's own code, of that cohort over
that release, with embeddings as the preset has them: inferred from items, or found as a device finds them.

    loss-minus-without    what the start, as an adapter, takes off the loss of the person's texts
    tracing               d_u (D - c m): what the person's own training does to the factors, d_u, along what the
                          release's start did, D, beyond what everybody's training does, m; c = D m / m m

Every training begins where the start began, which follows from the seed that a release carries. The second is
the attack of Dwork et al. 2015 on published means (Robust Traceability from Trace Amounts).

The positive controls are a start that saw the cohort's texts far too often, and one whose D is the mean of the
very d_u of the cohort. The negative ones ask without a start, and about one of as many people who were never pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from proper_model.engine import Trial, lora_settings
from proper_model.errors import TrainingError
from proper_model.kernels import Encoded
from proper_model.release.contents import start_letters
from proper_model.stages import Factors, LoraTrials, common_lora
from simulations.privacy.membership.attacked import Attacked, Records, State
from simulations.privacy.membership.found import Floats, Found, Level, Truth, log_p, of_people
from simulations.privacy.membership.targets import overfit_together, untrained
from simulations.privacy.statistics.shares import Control

START = "common-start"
TINY = 1e-300  # where nobody's training moves anything


def on_start(attacked: Attacked) -> list[Found]:
    """Attacks on a common start of the cohort, by people's known items and by fresh ones."""
    attacked.progress("a common start", 0, 0)
    people, cohort = attacked.trained, attacked.target.cohort
    inside = [who for who in people if cohort[who]]
    start = made_start(attacked, inside)
    elsewhere = made_start(attacked, attacked.newcomers[: len(inside)])
    found: list[Found] = []
    if {"record", "person"} & set(attacked.levels):
        found += _on_records(attacked, attacked.known, start, elsewhere, fresh=False)
    if "fresh" in attacked.levels:
        found += _on_records(attacked, attacked.fresh, start, elsewhere, fresh=True)
    return found


def made_start(attacked: Attacked, people: Sequence[int]) -> Factors:
    """The start of stage 3 that the coordinator makes of these people. Raises TrainingError for too few."""
    settings, model = attacked.release.settings, attacked.learner.model
    users = attacked.pooled_users(people)
    own = [list(user.capped(settings.group.max_items_per_user)) for user in users]
    start = common_lora.common_start(
        model,
        attacked.encoder,
        users,
        attacked.own_embeddings(own),
        settings,
        seed=attacked.seed,
    )
    if start is None:
        raise TrainingError(
            f"no common start of {len(people)} people: the profile tries none, or too few could train",
            hint="take more --people, or another --profile",
        )
    return start


def _on_records(
    attacked: Attacked, records: Records, start: Factors, elsewhere: Factors, *, fresh: bool
) -> list[Found]:
    """Attacks by one list of records, of everybody who trained stages 1 and 2, with both controls."""
    people, cohort, learner = attacked.trained, attacked.target.cohort, attacked.learner
    sets = [records.encoded_of(who) for who in people]
    places = records.of(people)
    rows = [(people.index(int(records.owner[i])), records.encoded[i]) for i in places]
    owner = records.owner[places]
    truth = Truth(np.array([cohort[who] for who in owner], dtype=np.bool_), owner)
    embeddings = attacked.own_embeddings(sets)
    seen = [record for (_, record), member in zip(rows, truth.member, strict=True) if member]
    overfit = overfit_together(learner, seen, seed=attacked.seed)

    without = log_p(attacked.personal_views(untrained(learner, embeddings), rows))
    states = [{**_tensors(attacked, start), "embedding": own.cpu()} for own in embeddings]
    alike = [(0, record) for _, record in rows]  # it was trained under the mean embedding
    gains: dict[Control, Floats] = {
        "none": log_p(attacked.personal_views(states, rows)) - without,
        "positive": log_p(attacked.personal_views([overfit], alike)) - without,
        "negative": without,
    }
    found = [
        one
        for control, gain in gains.items()
        for one in of_people(START, {"loss-minus-without": gain}, truth, control, fresh=fresh)
    ]
    member = np.array([cohort[who] for who in people], dtype=np.bool_)
    persons = Truth(member, np.array(people, dtype=np.int64))
    begin, moved = trained_alike(attacked, sets, embeddings)
    published: Mapping[Control, Sequence[Tensor]] = {
        "none": _minus(start, begin),
        "positive": [
            factor[torch.from_numpy(member).to(factor.device)].mean(0) for factor in moved
        ],
        "negative": _minus(elsewhere, begin),
    }
    level: Level = "fresh" if fresh else "person"
    return found + [
        Found(START, "tracing", level, control, persons.scored(tracing(moved, change)))
        for control, change in published.items()
    ]


def trained_alike(
    attacked: Attacked, sets: Sequence[Sequence[Encoded]], embeddings: Tensor
) -> tuple[Factors, list[Tensor]]:
    """Where the start began, and by how much training on each set moves the factors, [sets, ...] each.

    Everybody trains as often as a member of the cohort does, without dropout.
    """
    settings, model = attacked.release.settings, attacked.learner.model
    calibration = settings.calibration
    epochs = calibration.start_rounds * calibration.start_epochs
    how = replace(lora_settings(settings, epochs=epochs), dropout=0.0)
    kind = model, attacked.encoder, embeddings, model.structure.user_routing, True, how
    begin = LoraTrials(*kind, None, None).fresh(attacked.seed)
    rate = min(calibration.learning_rates or settings.user.learning_rates)
    trials = [Trial(tuple(own), (), rate, attacked.seed + n) for n, own in enumerate(sets)]
    stage = LoraTrials(*kind, [begin] * len(sets), None)
    _, ended = stage.run(trials, range(len(sets)), None)
    return begin, _minus(ended, begin)


def _minus(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    return [new.detach().to(old) - old for new, old in zip(after, before, strict=True)]


def tracing(moved: Sequence[Tensor], published: Sequence[Tensor]) -> Floats:
    """d_u (D - c m) of each person, from all factors' d_u [P, ...] and D [...]: [P]."""
    toward, common = np.zeros(len(moved[0])), np.zeros(len(moved[0]))
    for own, said in zip(moved, published, strict=True):
        rows = own.detach().flatten(1).double()
        toward += torch.einsum("pn,n->p", rows, said.detach().flatten().double()).cpu().numpy()
        common += torch.einsum("pn,n->p", rows, rows.mean(0)).cpu().numpy()
    return np.asarray(toward - common * (toward.mean() / max(common.mean(), TINY)))


def _tensors(attacked: Attacked, start: Factors) -> State:
    """A start as an adapter, by its names on disk."""
    model = attacked.learner.model
    letters = start_letters(model.structure, "stage3")
    names = [f"lora.{site.path}.{letter}" for letter in letters for site in model.sites]
    return {name: factor.detach().cpu() for name, factor in zip(names, start, strict=True)}
