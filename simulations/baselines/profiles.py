"""What PAG puts before a question: a text about the person, made from own items.

By counting, the labels that the person gave most often; where answers are texts, the words that the
person's answers have more often than pooled users' (tf-idf over people). By the model, what the merged
base of stage 1 answers to ten own items and an instruction; OPPU asks vicuna-7b so, with ten random items
(docs/method.md 2.3). A profile is one line. Somebody without items has none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from client.person.arms import ArmModel
from proper_model.release.contents import Release
from proper_model.tasks import Example, Query, Task, User, lines_before
from simulations.baselines.arm import Benchmark
from simulations.baselines.prompted import drawn_items, with_room

MOST_LABELS = 3
MOST_WORDS = 8
LONGEST_WORDS = (
    32  # of a written profile: a model that does not stop must not take the room of items
)
SHOWN_ITEMS = 10
_WORD = re.compile(r"[^\W\d_]{4,}")


def counted_profiles(given: Benchmark, release: Release, users: Sequence[User]) -> list[str]:
    """Profiles by counting; no model is asked."""
    task = release.task
    if task.kind != "generation":
        return [label_profile(task, user) for user in users]
    pooled = [words_used(task, user) for user in given.pooled]
    known = Counter(word for words in pooled for word in words)
    return [word_profile(task, user, known, len(pooled)) for user in users]


def label_profile(task: Task, user: User) -> str:
    """`most common score: 4, 3, 5`: own labels by frequency, of equal ones the newer first."""
    answers = [task.history_example(item).answer.strip() for item in user.history]
    if not answers:
        return ""
    newest = {answer: place for place, answer in enumerate(answers)}
    counts = Counter(answers)
    order = sorted(counts, key=lambda answer: (-counts[answer], -newest[answer]))
    return f"most common {_answer_name(task)}: {', '.join(order[:MOST_LABELS])}\n"


def words_used(task: Task, user: User) -> Counter[str]:
    """How often the person's answers have each word of four letters or more."""
    answers = (task.history_example(item).answer.casefold() for item in user.history)
    return Counter(word for answer in answers for word in _WORD.findall(answer))


def word_profile(task: Task, user: User, known: Mapping[str, int], people: int) -> str:
    """`words of the title: ...`: own words that few others have.

    Args:
        known: how many of the pooled `people` use a word.
    """
    own = words_used(task, user)
    weight = {w: n * math.log((1 + people) / (1 + known.get(w, 0))) for w, n in own.items()}
    order = sorted((w for w in weight if weight[w] > 0), key=lambda w: (-weight[w], w))
    return f"words of the {_answer_name(task)}: {', '.join(order[:MOST_WORDS])}\n" if order else ""


def written_profiles(given: Benchmark, release: Release, users: Sequence[User]) -> list[str]:
    """Profiles that the merged base writes about ten own items, drawn by seed, of every user.

    It answers greedily, at most as much as the release's answers may have.
    """
    with_ten = with_room(given.release, SHOWN_ITEMS)
    # The same questions as a task that generates: no label bounds the answer.
    task = replace(with_ten.task, kind="generation", metrics=("nll",))
    wide = replace(with_ten, task=task)
    model, room = ArmModel(wide, task), wide.encoder().room
    asked = []
    for slot, user in enumerate(users):
        if not user.history:
            continue
        items = drawn_items(user.history, SHOWN_ITEMS, f"{given.seed}/{user.user_id}/profile")
        prompt = _instruction(release.task)
        lines = lines_before(release.task, items, prompt, room)
        asked.append((slot, Example("profile", prompt, "", lines), Query("profile", "", "")))
    answers = model.answers(
        asked,
        "stage1",
        [{} for _ in users],
        memory_bytes=given.memory_bytes,
        progress=partial(given.progress, "profiles"),
    )
    found = [""] * len(users)
    for (slot, _, _), answer in zip(asked, answers, strict=True):
        found[slot] = _one_line(answer.output.split())
    return found


def _instruction(task: Task) -> str:
    """What is asked after the items; OPPU has one a task, in these words."""
    name = _answer_name(task)
    if task.kind == "generation":
        return f"describe the style of the {name}s above:"
    return f"the most common {name} above:"


def _one_line(words: Iterable[str]) -> str:
    text = " ".join(list(words)[:LONGEST_WORDS])
    return f"{text}\n" if text else ""


def _answer_name(task: Task) -> str:
    return task.answer_field or "answer"
