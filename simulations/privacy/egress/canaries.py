"""Canaries: random marks that stand in a person's data and nowhere else, so that a copy is proof.

A text canary is a random word; it is put into texts, answers, ids, paths, passphrases, and into what
makes programs fail. A number canary is a run of consecutive numbers of a tensor. Words are drawn from a
generator that is passed in, or from the system's entropy. Source: docs/security.md 2.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proper_model.tasks import HistoryItem, Query, User

LETTERS = 20  # of a word: log2(26^20) = 94 bits, so that none is found by chance
SHORTEST = 8  # bytes of a text that may be searched for
NOBODY, STRANGERS = "nobody", 8  # of each kind
NUMBERS = 16  # of a run: 32 bytes in the narrowest format


@dataclass(frozen=True)
class Canary:
    """One mark: `name` says what it stands in and is all that a report shows; `owner` whose it is.

    Exactly one of `text` and `numbers` (float64 `[NUMBERS]`) is there.
    """

    name: str
    owner: str
    text: str = ""
    numbers: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.numbers):
            raise ValueError(f"canary {self.name}: expected either a text or numbers")
        if self.text and len(self.text.encode()) < SHORTEST:
            raise ValueError(f"canary {self.name}: under {SHORTEST} bytes, found by chance")
        if self.numbers and len(set(self.numbers)) < NUMBERS // 2:
            raise ValueError(
                f"canary {self.name}: numbers repeat, so they would be found by chance"
            )


def word(rng: np.random.Generator | None = None) -> str:
    """A random word of small letters, which most tokenizers and file systems leave as it is.

    Args:
        rng: for a run that is to be repeated; by default the system's entropy.
    """
    letters = string.ascii_lowercase
    if rng is None:
        return "".join(secrets.choice(letters) for _ in range(LETTERS))
    return "".join(letters[i] for i in rng.integers(len(letters), size=LETTERS))


def draw(
    owner: str, names: Iterable[str], rng: np.random.Generator | None = None
) -> dict[str, Canary]:
    """A text canary for each of `names`, such as "item text", all of one owner."""
    return {name: Canary(name, owner, text=word(rng)) for name in names}


def draw_numbers(name: str, owner: str, rng: np.random.Generator) -> Canary:
    """A run of random numbers, to be put into a tensor."""
    return Canary(name, owner, numbers=tuple(rng.standard_normal(NUMBERS).tolist()))


def never_planted(rng: np.random.Generator | None = None) -> tuple[Canary, ...]:
    """Texts and runs of numbers that stand nowhere: whoever finds one finds what is not there."""
    numbers = rng or np.random.default_rng()
    names = range(STRANGERS)
    return (
        *draw(NOBODY, (f"text {n}" for n in names), rng).values(),
        *(draw_numbers(f"numbers {n}", NOBODY, numbers) for n in names),
    )


def in_tensors(
    owner: str, tensors: Mapping[str, NDArray[Any]], *, most: int = 32
) -> tuple[Canary, ...]:
    """Runs of consecutive numbers out of trained tensors: they are the person's as texts are.

    Of every tensor its last run whose numbers differ enough: what was never trained is constant.
    Of more than `most` tensors, evenly spread ones.
    """
    found = []
    for name, tensor in tensors.items():
        flat = np.asarray(tensor, np.float64).ravel()
        for start in range(len(flat) - NUMBERS, -1, -NUMBERS):
            run = flat[start : start + NUMBERS]
            if np.isfinite(run).all() and run.all() and len(set(run.tolist())) == NUMBERS:
                found.append(Canary(f"tensor {name}", owner, numbers=tuple(run.tolist())))
                break
    step = max(1, -(-len(found) // most))
    return tuple(found[::step])


def plant(user: User, canaries: Mapping[str, Canary], *, keep: Collection[str] = ()) -> User:
    """The user with "item text", "item id", "question" and "answer" at the end of what they name.

    Args:
        user: whose id becomes that of "user id".
        canaries: by name; a name that is not there leaves its texts alone.
        keep: fields of items that stay as they are, such as labels.
    """

    def marked(text: str, name: str) -> str:
        return f"{text} {canaries[name].text}" if name in canaries else text

    def item(one: HistoryItem) -> HistoryItem:
        fields = {k: v if k in keep else marked(v, "item text") for k, v in one.fields.items()}
        mark = canaries["item id"].text if "item id" in canaries else ""
        return replace(one, id=one.id + mark, fields=fields)

    def query(one: Query) -> Query:
        return replace(one, input=marked(one.input, "question"), gold=marked(one.gold, "answer"))

    return User(
        canaries["user id"].text if "user id" in canaries else user.user_id,
        tuple(map(item, user.history)),
        tuple(map(query, user.queries)),
    )
