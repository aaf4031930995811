"""What needs no language model: probabilities over a task's labels, made from counts of answers.

A floor reads texts (the prompts that the models are asked, blanks and case folded), the labels of
pooled users' items and queries, and a test user's own items. It gives every query one probability a
label, and the rest follows from these, so that a floor stands in one table with the models:

    output         the most probable label, as a model's greedy answer is
    expected       sum_k k P(k), ordinal tasks only
    nll            -log P(gold): the loss of the gold answer's tokens and the end of sequence, summed
    answer_tokens  how many tokens that are, by the release's own tokenizer

The third is what the model's sum is: the tokens of a label of any length and its end have by the
chain rule the probability of the answer as a whole, and a floor has all its mass on answers that are
labels, ended where they end; for labels of one token the fourth is 2. A floor that names points (own
median) has these as `expected`, and the label nearest to them as `output`. The gold answers of test users are blanked before a floor is called, and only turn
up where its probabilities are scored. Generation has no labels, so no floor is defined for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import DataError, MetricError, TaskError
from proper_model.evaluation import Prediction
from proper_model.tasks import Example, Query, Task, User, short_id
from simulations.baselines.arm import Benchmark, blind

Array = NDArray[np.float64]
Places = NDArray[np.intp]  # indices of items
# A probability below this is a fault of a floor's, not knowledge: it bounds the loss at 27.6 nats.
LEAST = 1e-12


@dataclass(frozen=True)
class Person:
    """One person's answers: texts and label indices, oldest first, and the texts asked about."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What a floor may know.

    Attributes:
        names: the labels; of an ordinal task in ascending order of value.
        values: what the labels are worth, [K]; empty unless the task is ordinal.
        pooled: everything pooled users answered, items and queries; they are asked nothing.
        users: the test users' own items, and what they are asked.
    """

    names: tuple[str, ...]
    values: Array
    pooled: tuple[Person, ...]
    users: tuple[Person, ...]

    def counts(self, people: Sequence[Person]) -> Array:
        """How often each of them gave each label, [people, K]."""
        found = np.zeros((len(people), len(self.names)))
        for row, person in zip(found, people, strict=True):
            np.add.at(row, list(person.labels), 1.0)
        return found


@dataclass(frozen=True)
class Guess:
    """A floor's answer to one person's queries.

    Attributes:
        probabilities: [Q, K], rows sum to 1.
        points: [Q], scores that are named and not averaged over the probabilities; None: none.
    """

    probabilities: Array
    points: Array | None = None


# A floor: from what is known to one guess a test user.
Floor = Callable[[Answers], list[Guess]]


@dataclass(frozen=True)
class FloorArm:
    """A floor as an arm.

    Attributes:
        ordinal: it needs labels that are numbers.
    """

    name: str
    floor: Floor
    ordinal: bool = False

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query.

        Raises TaskError if the task has no labels, or no numbers where the floor needs them;
        DataError if pooled users answered nothing, or nothing that the floor can use.
        """
        task = given.task
        reason = no_floor(task.kind, ordinal=self.ordinal)
        if reason is not None:
            raise TaskError(f"{self.name}: {reason}", hint="leave this arm out for this task")
        answers = read_answers(task, given.pooled, given.users)
        guesses = self.floor(answers)
        encoder = given.release.encoder()
        return [
            _prediction(task, answers, user, query, row, point, tokens)
            for user, guess in zip(given.users, guesses, strict=True)
            for query, row, point, tokens in zip(
                user.queries,
                guess.probabilities,
                [None] * len(user.queries) if guess.points is None else guess.points,
                [encoder.encode(task.query_example(q)).answer_tokens for q in user.queries],
                strict=True,
            )
        ]


def no_floor(kind: str, *, ordinal: bool) -> str | None:
    """Why there is no floor for a kind of task; None if there is."""
    if kind == "generation":
        return "a task that generates text has no labels to give probabilities to"
    if ordinal and kind != "ordinal":
        return "labels that are no numbers have no mean"
    return None


def read_answers(task: Task, pooled: Sequence[User], users: Sequence[User]) -> Answers:
    """What floors may know of these users; the golds of `users` are not read.

    Items whose answer is no label of the task (those of LaMP-1) say nothing and are left out.
    Raises DataError if no answer of a pooled user is left.
    """
    asked = [query for user in (*pooled, *users) for query in user.queries]
    listed = dict.fromkeys(label for query in asked for label in task.labels_for(query))
    names = tuple(dict.fromkeys((*(task.labels or ()), *listed)))
    if task.kind == "ordinal":
        names = tuple(sorted(names, key=float))
    places = {name: place for place, name in enumerate(names)}
    answers = Answers(
        names=names,
        values=np.array([float(name) for name in names] if task.kind == "ordinal" else []),
        pooled=tuple(_person(task, user, places, pooled=True) for user in pooled),
        users=tuple(_person(task, blind(user), places, pooled=False) for user in users),
    )
    if not any(person.labels for person in answers.pooled):
        raise DataError(
            "no answer of a pooled user is one of the task's labels, so there is nothing to count",
            hint="pool users with items or queries of this task, or leave the floors out",
        )
    return answers


def normalized(text: str) -> str:
    """A text as it is compared: case and blanks folded."""
    return " ".join(text.casefold().split())


def _person(task: Task, user: User, places: dict[str, int], *, pooled: bool) -> Person:
    examples: list[Example] = [task.history_example(item) for item in user.history]
    asked = [task.query_example(query) for query in user.queries]
    known = [
        (normalized(example.prompt), places[example.answer.strip()])
        for example in (examples + asked if pooled else examples)
        if example.answer.strip() in places
    ]
    return Person(
        texts=tuple(text for text, _ in known),
        labels=tuple(label for _, label in known),
        asked=() if pooled else tuple(normalized(example.prompt) for example in asked),
    )


def _prediction(
    task: Task,
    answers: Answers,
    user: User,
    query: Query,
    row: Array,
    point: float | None,
    tokens: int,
) -> Prediction:
    """One query's row over all labels, restricted to those it lists, as a prediction."""
    listed = task.labels_for(query)
    own = [answers.names.index(label) for label in listed]
    probabilities = np.maximum(row[own], LEAST)
    probabilities /= probabilities.sum()
    gold = query.gold.strip()
    if gold not in listed:
        raise MetricError(f"query {short_id(query.id)}: the gold answer is not a label")
    chosen, expected = int(probabilities.argmax()), None
    if len(answers.values):
        values = answers.values[own]
        expected = float(probabilities @ values if point is None else point)
        if point is not None:
            chosen = int(np.abs(values - point).argmin())
    return Prediction(
        user_id=user.user_id,
        query_id=query.id,
        output=listed[chosen],
        nll=-float(np.log(probabilities[listed.index(gold)])),
        answer_tokens=tokens,
        expected=expected,
    )
