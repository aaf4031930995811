"""What a group of users holds, as numbers, collected user by user, and warnings about it.

Keeps counts, lengths and ids; no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proper_model.tasks.records import HistoryItem, Place, Query, Report, User, counted
from proper_model.tasks.task import Task


@dataclass(frozen=True)
class Lengths:
    """Smallest, median and largest of a list of counts; all 0 if it is empty."""

    low: int
    median: int
    high: int


@dataclass(frozen=True)
class GroupSummary:
    """The pooled or the test users.

    Attributes:
        items, queries: totals over users.
        items_a_user, queries_a_user: their spread over users.
        question_words, answer_words: whitespace words of a prompt under the task's template, and
            of a gold answer.
        gold_labels, history_labels: how often each of the task's labels is the answer.
    """

    users: int
    items: int
    queries: int
    items_a_user: Lengths
    queries_a_user: Lengths
    question_words: Lengths
    answer_words: Lengths
    gold_labels: Mapping[str, int]
    history_labels: Mapping[str, int]


class Collector:
    """Collects one group of users as they stream by; keeps numbers and ids, no text."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.items: list[int] = []
        self.queries: list[int] = []
        self.question_words: list[int] = []
        self.answer_words: list[int] = []
        self.gold_labels: Counter[str] = Counter()
        self.history_labels: Counter[str] = Counter()
        self.foreign_history_labels = 0
        self.textless = 0
        self.unanswered = 0
        self.unmarked = 0
        self.leaked = 0
        self.without_history = 0
        self.user_ids: set[str] = set()
        self.query_ids: Counter[str] = Counter()

    @property
    def users(self) -> int:
        return len(self.items)

    @property
    def with_query(self) -> int:
        """Users who can be scored."""
        return self.users - self.queries.count(0)

    def add(self, user: User) -> None:
        self.user_ids.add(user.user_id)
        self.items.append(len(user.history))
        self.queries.append(len(user.queries))
        self.without_history += not user.history
        self.query_ids.update({query.id for query in user.queries})
        texts = {text for item in user.history for text in item.fields.values()}
        for query in user.queries:
            self._add_query(query, texts)
        for item in user.history:
            self._add_item(item)

    def _add_item(self, item: HistoryItem) -> None:
        answer, labels = self.task.answer_field, self.task.labels
        asked = self.task.required_fields - {answer}
        self.textless += bool(asked) and not any(item.fields[name].strip() for name in asked)
        if answer is None:
            return
        text = item.fields[answer].strip()
        if labels is None:
            self.unanswered += not text
        elif text in labels:
            self.history_labels[text] += 1
        else:
            self.foreign_history_labels += 1

    def _add_query(self, query: Query, texts: set[str]) -> None:
        parts = self.task.query_text(query)
        self.unmarked += parts is None
        self.leaked += parts is not None and any(t.strip() and t in texts for t in parts.values())
        example = self.task.query_example(query)
        self.question_words.append(len(example.prompt.split()))
        self.answer_words.append(len(example.answer.split()))
        gold = query.gold.strip()
        if self.task.labels is not None and gold in self.task.labels:
            self.gold_labels[gold] += 1

    def warn(self, name: str, report: Report) -> None:
        """Report warnings about the group as a whole."""
        place = Place(name)
        repeated = sum(count > 1 for count in self.query_ids.values())
        of = f"of {counted(sum(self.queries), 'query', 'queries')}"
        for count, one, many in (
            (
                self.without_history,
                "user has no history and gets the population model",
                "users have no history; they get the population model",
            ),
            (
                self.queries.count(0),
                "user has no query and cannot be scored",
                "users have no query; they cannot be scored",
            ),
            (self.textless, "history item has no text", "history items have no text"),
            (
                self.unanswered,
                "history item has an empty answer",
                "history items have an empty answer",
            ),
            (
                self.foreign_history_labels,
                "history answer is not among the task's labels",
                "history answers are not among the task's labels",
            ),
            (
                repeated,
                "query id occurs with more than one user",
                "query ids occur with more than one user",
            ),
            (
                self.leaked,
                f"{of} asks about a text of the user's own history",
                f"{of} ask about a text of the user's own history",
            ),
            (
                self.unmarked,
                f"{of} is not worded as the task file says; asked as it stands",
                f"{of} are not worded as the task file says; asked as they stand",
            ),
        ):
            if count:
                report.warn(place, counted(count, one, many))

    def result(self) -> GroupSummary:
        labels = self.task.labels or ()
        return GroupSummary(
            users=self.users,
            items=sum(self.items),
            queries=sum(self.queries),
            items_a_user=_lengths(self.items),
            queries_a_user=_lengths(self.queries),
            question_words=_lengths(self.question_words),
            answer_words=_lengths(self.answer_words),
            gold_labels={label: self.gold_labels[label] for label in labels},
            history_labels={label: self.history_labels[label] for label in labels},
        )


def _lengths(counts: Sequence[int]) -> Lengths:
    ordered = sorted(counts)
    if not ordered:
        return Lengths(0, 0, 0)
    return Lengths(ordered[0], ordered[len(ordered) // 2], ordered[-1])
