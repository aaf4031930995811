"""Own items before a question: which ones BM25 finds, and as many of their lines as there is room for.

Okapi BM25 over words, with N documents of n_w that hold word w, f_w times in this one of length l,
and a mean length m (docs/method.md 4.2):

    score = Σ_w idf_w f_w (k1 + 1) / (f_w + k1 (1 - b + b l / m)),   idf_w = ln((N - n_w + 0.5) / (n_w + 0.5))

with k1 = 1.5, b = 0.75, and an idf below zero replaced by a quarter of the mean one. A document is
what the task's retrieval line shows of an item, the text searched for what the question shows.

A training example sees the items before it in time alone, as OPPU's do. A question of the person
comes after all items, so no example may know its future; the newest items judge a training, and
none of their answers stands in a prompt that trains; and under the whole history but one item, that
item's answer could be told from what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Literal

from proper_model.errors import ConfigError
from proper_model.tasks.records import HistoryItem, Query
from proper_model.tasks.task import Depth, Example, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Postings = tuple[NDArray[np.intp], NDArray[np.float64]]

ALL: Literal["all"] = "all"
MOST_RETRIEVED = 100
LEAST_LINE_TOKENS = 8  # with less room than that for a longer line, a line fewer is asked for
_WORD = re.compile(r"\w+")


def parse_depth(text: str) -> Depth:
    """`0`, `4`, `all`. Raises ConfigError for anything else."""
    if text == ALL:
        return ALL
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise ConfigError(
            f"--retrieve expects a number from 0 to {MOST_RETRIEVED}, or all",
            hint="0 asks without own items; 1, 2 or 4 are usual",
        )
    return check_depth(int(text))


def check_depth(depth: Depth) -> Depth:
    """The depth itself. Raises ConfigError if it is none."""
    if depth != ALL and not 0 <= depth <= MOST_RETRIEVED:
        raise ConfigError(
            f"{depth} items before a question; expected 0 to {MOST_RETRIEVED}, or all",
            hint="0 asks without own items; 1, 2 or 4 are usual",
        )
    return depth


def words(text: str) -> list[str]:
    """A text's words as they are compared.

    DEVIATION: LaMP and OPPU cut at blanks, where `Film.` is another word than `film`.
    """
    return _WORD.findall(text.casefold())


class Retriever:
    """BM25 over one person's items of a task, oldest first."""

    def __init__(self, task: Task, items: Sequence[HistoryItem]) -> None:
        self.items = tuple(items)
        documents = [words(task.line_text(item)) for item in self.items]
        self._weights = _word_weights(documents) if any(documents) else {}

    def scores(self, text: str) -> NDArray[np.float64]:
        """Of every item, [N]."""
        import numpy as np

        found = np.zeros(len(self.items))
        for word in words(text):
            if word in self._weights:
                places, weights = self._weights[word]
                found[places] += weights
        return found

    def best(
        self, text: str, k: int, *, without: str | None = None, before: int | None = None
    ) -> tuple[HistoryItem, ...]:
        """The k items that fit a text best, the best first; of equal ones the newer first.

        Fewer where there are fewer. Items that share no word with the text come after those that do.

        Args:
            without: an id; items that have it are not found.
            before: only the first so many items are found.
        """
        order = self.scores(text)[:before].argsort(kind="stable")[::-1]
        seen = (self.items[place] for place in order)
        return tuple(islice((item for item in seen if item.id != without), k))


def _word_weights(documents: Sequence[list[str]]) -> dict[str, Postings]:
    """By word, in which documents it stands and what it adds to the score of each.

    The package's own scores ask every document for every word of a question, and training asks a
    question an item.
    """
    import numpy as np
    from rank_bm25 import BM25Okapi

    index = BM25Okapi(documents)
    found: dict[str, list[tuple[int, float]]] = {}
    for place, (counts, length) in enumerate(zip(index.doc_freqs, index.doc_len, strict=True)):
        norm = index.k1 * (1 - index.b + index.b * length / index.avgdl)
        for word, count in counts.items():
            weight = index.idf[word] * (count * (index.k1 + 1) / (count + norm))
            found.setdefault(word, []).append((place, weight))
    return {
        word: (np.array([place for place, _ in rows]), np.array([weight for _, weight in rows]))
        for word, rows in found.items()
    }


@dataclass(frozen=True)
class Room:
    """What a prompt may take, in tokens of one base.

    Attributes:
        question: of a question; a longer one is cut to that, with and without lines.
        prompt: of lines and question together.
        prompt_tokens: tokens of a whole prompt, with what a chat template writes around it.
        line_tokens: tokens of a text inside one.
    """

    question: int
    prompt: int
    prompt_tokens: Callable[[str], int]
    line_tokens: Callable[[str], int]


def lines_before(
    task: Task, items: Sequence[HistoryItem], question: str, room: Room, *, whole: bool = False
) -> str:
    """The items' lines in their order, in the room that the question leaves; empty if there is none.

    The question keeps what it has without lines. What is left is shared: every line may take as
    much as any other, what short ones leave goes to the longer ones, and of a line that is too long
    the text is cut and its answer kept.

    Args:
        whole: no line is cut: the last items are taken that fit.
    """
    asked = room.prompt_tokens(question)
    least = room.prompt - min(asked, room.question)
    tokens = least
    while tokens > 0 and items:
        chosen = _last_that_fit(task, items, tokens, room) if whole else items
        text = "".join(_shared(task, chosen, tokens, room))
        # Parts may have more tokens together than apart.
        over = room.prompt_tokens(text + question) - asked - least
        if over <= 0:
            return text
        tokens -= over
    return ""


def _last_that_fit(
    task: Task, items: Sequence[HistoryItem], tokens: int, room: Room
) -> Sequence[HistoryItem]:
    """The longest end of the history whose lines fit uncut; the last item alone if none does."""
    used = 0
    for place in range(len(items) - 1, -1, -1):
        used += room.line_tokens(_line(task, items[place]))
        if used > tokens:
            return items[place + 1 :] or items[-1:]
    return items


def _shared(task: Task, items: Sequence[HistoryItem], tokens: int, room: Room) -> list[str]:
    """Lines of together at most so many tokens: one an item, or fewer, without the last items."""
    needs = [room.line_tokens(_line(task, item)) for item in items]
    shares = equal_shares(needs, tokens)
    while any(g < min(n, LEAST_LINE_TOKENS) for g, n in zip(shares, needs, strict=True)):
        needs.pop()
        shares = equal_shares(needs, tokens)
    return [
        _line(task, item) if share >= need else _cut(task, item, share, room)
        for item, need, share in zip(items, needs, shares, strict=False)
    ]


def equal_shares(needs: Sequence[int], total: int) -> list[int]:
    """What each gets of a total that all have the same right to and none gets more than it needs."""
    given = [0] * len(needs)
    for done, place in enumerate(sorted(range(len(needs)), key=lambda one: needs[one])):
        given[place] = min(needs[place], total // (len(needs) - done))
        total -= given[place]
    return given


def _line(task: Task, item: HistoryItem, most_words: int | None = None) -> str:
    line = task.retrieval_line(item, words=most_words)
    return line if line[-1:].isspace() else line + "\n"


def _cut(task: Task, item: HistoryItem, tokens: int, room: Room) -> str:
    """The item's line with the most words of text that so many tokens hold; empty if not one fits."""
    most = max(len(text.split()) for text in item.fields.values())
    found, low, high = "", 1, most
    while low <= high:
        middle = (low + high) // 2
        line = _line(task, item, middle)
        if room.line_tokens(line) <= tokens:
            found, low = line, middle + 1
        else:
            high = middle - 1
    return found


@dataclass(frozen=True)
class OwnItems:
    """One person's items of a task, and questions with those before them that the task asks for.

    With `task.retrieve` 0 the examples are the task's own.
    """

    task: Task
    items: tuple[HistoryItem, ...]
    room: Room

    @cached_property
    def _retriever(self) -> Retriever:
        return Retriever(self.task, self.items)

    def query_example(self, query: Query) -> Example:
        """As `Task.query_example`: all items are before a question."""
        plain = self.task.query_example(query)
        return self._with_lines(plain, self.task.search_text(query))

    def ask(self, text: str) -> Example:
        """The person's own question, without an answer."""
        plain = Example("question", self.task.ask(text), "")
        return self._with_lines(plain, self.task.search_text(Query("question", text, "")))

    def history_example(self, item: HistoryItem) -> Example:
        """As `Task.history_example`, after the items before it; of one that is none of them, all."""
        plain = self.task.history_example(item)
        if not self.task.retrieve:
            return plain
        before = self._places.get(item.id)
        return self._with_lines(plain, self.task.item_text(item), before=before)

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where each id occurs first."""
        return {item.id: place for place, item in reversed(list(enumerate(self.items)))}

    def _with_lines(self, plain: Example, text: str, *, before: int | None = None) -> Example:
        depth = self.task.retrieve
        if not depth:
            return plain
        if depth == ALL:
            items: Sequence[HistoryItem] = self.items[:before]
        else:
            items = self._retriever.best(text, depth, before=before)
        lines = lines_before(self.task, items, plain.prompt, self.room, whole=depth == ALL)
        return Example(plain.id, plain.prompt, plain.answer, lines)
