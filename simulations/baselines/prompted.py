"""Arms that put something of the person before every question.

    ICL            k random own items, drawn anew for every question
    RAG            the k own items that BM25 finds (docs/method.md 4.2)
    PAG            a profile of the person (`profiles`), then the one item that BM25 finds
    full history   all own items, oldest first; the newest where not all fit

Each is answered by the merged base of stage 1, or under a private state of PROPER's own arms (`stage3`,
`oppu-mlp`), which was trained with nothing before its items, or with what BM25 found. Source: OPPU,
docs/method.md 2.3; an item's line is the task's own.

A prompt has room for as many lines as the arm wants, each as long as a question and its answer may be,
at most `MOST_TOKENS` and what the base has positions for. Somebody without items is asked as by `stage1`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from client.person.adapting import adapt_users
from client.person.arms import STATEFUL_ARMS, predict
from client.person.state import PersonalState
from proper_model.evaluation import Prediction
from proper_model.release.contents import Release
from proper_model.tasks import (
    ALL,
    Depth,
    Example,
    HistoryItem,
    OwnItems,
    Query,
    Room,
    Task,
    User,
    lines_before,
)
from simulations.baselines.arm import Benchmark, blind, blind_query

MOST_TOKENS = 2048  # OPPU's longest example

# From a question to what stands before it.
Lines = Callable[[Query], str]
# Profiles of all users, in their order, from what the arm is given and the release with room for them.
ProfileWriter = Callable[[Benchmark, Release, Sequence[User]], list[str]]


@dataclass(frozen=True)
class Asked:
    """A person who is asked.

    Attributes:
        task: says how many items stand before a question.
        user: without the answers to queries.
        room: what items may take; a profile's share is taken off.
    """

    task: Task
    user: User
    room: Room
    seed: int

    def retrieved(self) -> Lines:
        """Lines of the items that BM25 finds, or of all."""
        own = OwnItems(self.task, self.user.history, self.room)
        return lambda query: own.query_example(query).lines

    def drawn(self) -> Lines:
        """Lines of items drawn at random, in time order."""

        def lines(query: Query) -> str:
            items = drawn_items(
                self.user.history, self.task.retrieve, f"{self.seed}/{self.user.user_id}/{query.id}"
            )
            question = self.task.query_example(query).prompt
            return lines_before(self.task, items, question, self.room)

        return lines


@dataclass(frozen=True)
class PromptedArm:
    """One of the above.

    Attributes:
        before: how many items stand before a question, `all` for the whole history.
        lines: how they are chosen.
        profile: who writes what stands before them; None: there is no profile.
        under: the arm of PROPER's that answers.
        trained_so: its state is trained with items before items, too.
    """

    name: str
    before: Depth
    lines: Callable[[Asked], Lines] = Asked.retrieved
    profile: ProfileWriter | None = None
    under: str = "stage1"
    trained_so: bool = False

    def predict(self, given: Benchmark) -> list[Prediction]:
        """One prediction a query. Raises as `client.person.arms.predict`."""
        release = with_room(given.release, self.before)
        return predict(
            release,
            given.users,
            self.under,
            self._states(given, release),
            asked_as=self._asked_as(given, release),
            memory_bytes=given.memory_bytes,
            progress=given.progress,
        )

    def prompts(self, given: Benchmark, *, positions: int | None = None) -> list[list[str]]:
        """Of every user the prompts of all queries, as text: what whoever runs the model is sent.

        Args:
            positions: tokens that the model has room for; None: as many as the release's base.
        """
        asked_as = self._asked_as(given, with_room(given.release, self.before, positions=positions))
        return [
            [asked_as(slot, query).asked for query in user.queries]
            for slot, user in enumerate(given.users)
        ]

    def _asked_as(self, given: Benchmark, release: Release) -> Callable[[int, Query], Example]:
        """How a query of the user at a place is asked; no answer to a query is read."""
        users = [blind(user) for user in given.users]
        profiles = (
            [""] * len(users) if self.profile is None else self.profile(given, release, users)
        )
        room = release.encoder().room
        lines = [
            self.lines(Asked(release.task, user, _beside(room, profile), given.seed))
            for user, profile in zip(users, profiles, strict=True)
        ]

        def asked_as(slot: int, query: Query) -> Example:
            found = profiles[slot] + lines[slot](blind_query(query))
            return replace(release.task.query_example(query), lines=found)

        return asked_as

    def _states(self, given: Benchmark, release: Release) -> Mapping[str, PersonalState]:
        """By user id: the states of the arm that answers, trained here or known already."""
        if self.under not in STATEFUL_ARMS:
            return {}
        if given.states is not None and not self.trained_so:
            return given.states(self.under)
        states = adapt_users(
            release if self.trained_so else given.release,
            [blind(user) for user in given.users],
            arms=(self.under,),
            bundle_id="experiment",
            seed=given.seed,
            checkpoint=given.folder / "training",
            memory_bytes=given.memory_bytes,
            progress=given.progress,
        )
        return {user: state for (_, user), state in states.items()}


def with_room(release: Release, before: Depth, *, positions: int | None = None) -> Release:
    """The release, asked with so many items before a question, and with the room for them.

    Args:
        positions: tokens that a model has room for; None: as many as the base.
    """
    settings = release.settings
    question = settings.max_prompt_tokens + settings.max_answer_tokens
    if positions is None:
        positions = int(release.base.config.get_text_config().max_position_embeddings)
    most = max(0, min(positions, MOST_TOKENS) - question)
    wanted = most if before == ALL else before * question
    return release.retrieving(before, tokens=min(wanted, most))


def drawn_items(items: Sequence[HistoryItem], count: Depth, seed: str) -> list[HistoryItem]:
    """So many items drawn without replacement, in their order; all where there are fewer."""
    most = len(items) if count == ALL else min(count, len(items))
    places = random.Random(seed).sample(range(len(items)), most)
    return [items[place] for place in sorted(places)]


def _beside(room: Room, profile: str) -> Room:
    """The room that a profile leaves to lines; the question keeps its own."""
    if not profile:
        return room
    return replace(room, prompt=max(room.question, room.prompt - room.line_tokens(profile)))
