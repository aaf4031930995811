"""Figure 3: one person's texts as points, and what every stage answers.

The paper embeds sentences by SBERT; here it is the base's own mean hidden states, which need no
further model and see less of meaning. Points and distances are numbers; the texts themselves are shown
for synthetic people, or on request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from proper_model.evaluation import Prediction
from proper_model.tasks import Task, User
from simulations.experiments.benchmark import Measured
from simulations.experiments.benchmark_schema import Texts
from simulations.experiments.routing_views import hidden_means, neighbours

TRAINING, TEST = "training", "test"
LEAST_TEXTS = 4
MOST_ITEMS = 200
NOTE = (
    "texts are embedded by the base's own mean hidden states; the paper uses SBERT, which this "
    "program does not bring"
)


def texts_of(measured: Measured) -> Texts | None:
    """The person with most items of the first cell; None where there are too few texts."""
    variant = measured.plan.variants[0]
    cell = measured.first(variant)
    person = max(cell.users, key=lambda user: len(user.history))
    outputs: dict[str, list[str]] = {}
    for arm in variant.arms:
        finished = cell.store.arm(arm)
        assert finished is not None  # run before
        outputs[arm] = outputs_of(person, finished.predictions)
    written = own_texts(measured.source.task, person, outputs)
    kinds = [kind for kind, texts in written.items() for _ in texts]
    flat = [text for texts in written.values() for text in texts]
    if len(flat) < LEAST_TEXTS:
        return None
    points = hidden_means(cell.stages.release, flat)
    cell.stages.forget()
    return Texts(
        kinds=kinds,
        points=neighbours(points, seed=measured.plan.seeds[0]),
        distances=distances(points, kinds),
    )


def outputs_of(person: User, predictions: Sequence[Prediction]) -> list[str]:
    """What was answered to one person's queries, in their order."""
    answered = {row.query_id: row.output for row in predictions if row.user_id == person.user_id}
    return [answered[query.id] for query in person.queries]


def own_texts(
    task: Task, person: User, outputs: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Answers of the items, the person's answers to the queries, and each arm's."""
    items = [task.history_example(item).answer for item in person.history[-MOST_ITEMS:]]
    asked = [query.gold for query in person.queries]
    return {TRAINING: items, TEST: asked, **{arm: list(own) for arm, own in outputs.items()}}


def distances(points: NDArray[np.float64], kinds: Sequence[str]) -> dict[str, float]:
    """Mean cosine distance of each kind's points to the centre of what the person wrote."""
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    own = unit[[kind == TRAINING for kind in kinds]]
    if not len(own):
        return {}
    centre = own.mean(0) / max(float(np.linalg.norm(own.mean(0))), 1e-12)
    return {
        kind: float(1 - (unit[[k == kind for k in kinds]] @ centre).mean())
        for kind in dict.fromkeys(kinds)
    }
