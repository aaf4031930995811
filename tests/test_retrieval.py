"""Own items before a question: the formula of BM25, who is never found, and room for the question."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from rank_bm25 import BM25Okapi

from proper_model.errors import ConfigError, DataError
from proper_model.tasks import (
    ALL,
    HistoryItem,
    OwnItems,
    Query,
    Retriever,
    Room,
    lines_before,
    load_task,
    parse_depth,
)
from proper_model.tasks.retrieval import MOST_RETRIEVED, equal_shares, words

TAGS = load_task("LaMP_2M", template="short")
TWEETS = load_task("LaMP_7", template="short")
FILMS = (
    "A shy poet falls in love, and in love again.",
    "Two robots fall out of love.",
    "A detective reads a poem in the rain",
    "The rain",
    "A detective, a robot: one crime!",
)


def item(place: int, text: str, tag: str = "comedy", identifier: str | None = None) -> HistoryItem:
    return HistoryItem(identifier or f"i{place}", {"description": text, "tag": tag})


ITEMS = tuple(item(place, text) for place, text in enumerate(FILMS))


def count(text: str) -> int:
    """A tokenizer of one token a word."""
    return len(text.split())


def room(question: int = 100, lines: int = 0) -> Room:
    return Room(question, question + lines, count, count)


def own(items, depth, *, task=TAGS, space: Room | None = None) -> OwnItems:
    return OwnItems(dataclasses.replace(task, retrieve=depth), tuple(items), space or room(1000))


def okapi(documents: list[list[str]], text: list[str], k1=1.5, b=0.75, floor=0.25) -> list[float]:
    """The formula as it is written, document by document."""
    n, mean_length = len(documents), sum(map(len, documents)) / len(documents)
    held = {w: sum(w in d for d in documents) for d in documents for w in d}
    idf = {w: math.log((n - df + 0.5) / (df + 0.5)) for w, df in held.items()}
    mean = sum(idf.values()) / len(idf)
    idf = {w: floor * mean if value < 0 else value for w, value in idf.items()}
    return [
        sum(
            idf.get(w, 0.0)
            * d.count(w)
            * (k1 + 1)
            / (d.count(w) + k1 * (1 - b + b * len(d) / mean_length))
            for w in text
        )
        for d in documents
    ]


@pytest.mark.parametrize(
    "text", ["love", "a detective in the rain", "love love a", "poet reads", "The ROBOT!", "comedy"]
)
def test_scores_are_those_of_the_formula(text):
    documents = [words(f"{film} comedy") for film in FILMS]
    expected = okapi(documents, words(text))
    retriever = Retriever(TAGS, ITEMS)
    assert retriever.scores(text) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    package = BM25Okapi(documents).get_scores(words(text))
    assert retriever.scores(text) == pytest.approx(package, rel=1e-12, abs=1e-12)
    order = sorted(range(5), key=lambda place: (expected[place], place), reverse=True)
    assert [one.id for one in retriever.best(text, 5)] == [f"i{place}" for place in order]


def test_one_score_by_hand():
    """`poet`: N 5, in one document of 11 words, mean length (11 + 7 + 9 + 3 + 7) / 5 = 7.4."""
    idf = math.log(4.5 / 1.5)
    by_hand = idf * 2.5 / (1 + 1.5 * (0.25 + 0.75 * 11 / 7.4))
    assert Retriever(TAGS, ITEMS).scores("poet")[0] == pytest.approx(by_hand)


def test_equal_items_come_newest_first_and_words_are_compared_without_case_and_signs():
    same = tuple(item(place, "the same film") for place in range(4))
    assert [one.id for one in Retriever(TAGS, same).best("Same, FILM.", 3)] == ["i3", "i2", "i1"]
    found = Retriever(TAGS, ITEMS).best("(POET)", 1)
    assert [one.id for one in found] == ["i0"]


@pytest.mark.parametrize("items", [(), (item(0, ""),), (item(0, "", ""), item(1, "...", "!"))])
def test_histories_without_words_are_no_error(items):
    assert Retriever(TAGS, items).best("love", 3) == tuple(reversed(items))


def test_what_is_left_out_is_not_found():
    twice = (*ITEMS, item(9, FILMS[0], identifier="i0"))
    assert Retriever(TAGS, twice).best("shy poet", 1)[0].id == "i0"
    found = [one.id for one in Retriever(TAGS, twice).best("shy poet", 10, without="i0")]
    assert found == ["i4", "i3", "i2", "i1"]
    before = Retriever(TAGS, ITEMS).best("robots crime", 9, before=3)
    assert [one.id for one in before] == ["i1", "i2", "i0"]


@pytest.mark.parametrize("depth", [1, 2, ALL])
def test_a_training_example_sees_only_what_came_before(depth):
    """And never itself, nor a second item of the same id, of which a data set may have some."""
    history = (*ITEMS, item(5, "The rain, later", "violence", identifier="i3"))
    for place, one in enumerate(history):
        example = own(history, depth).history_example(one)
        shown = [line for line in example.lines.splitlines() if line]
        first = next(at for at, other in enumerate(history) if other.id == one.id)
        allowed = [TAGS.retrieval_line(other).strip() for other in history[:first]]
        assert len(shown) == (first if depth == ALL else min(depth, first))
        assert set(shown) <= set(allowed)
        plain = TAGS.history_example(one)
        assert (example.prompt, example.answer) == (plain.prompt, plain.answer)
        assert place or not example.lines


def test_questions_see_the_whole_history_and_what_the_answer_says_is_not_searched_for():
    asked = own(ITEMS, 1).ask("crime")
    assert asked.lines == TAGS.retrieval_line(ITEMS[4])
    assert asked.asked == asked.lines + TAGS.ask("crime")
    # Its own tag stands in item 0 only, its text in none: the newest of the others is as good.
    items = (item(0, "x", "violence"), item(1, "y", "comedy"), item(2, "unseen", "violence"))
    assert own(items, 1).history_example(items[2]).lines == TAGS.retrieval_line(items[1])


def test_without_retrieval_examples_are_the_tasks_own():
    plain = own(ITEMS, 0)
    query = Query("q", "love", "comedy")
    assert plain.query_example(query) == TAGS.query_example(query)
    assert plain.history_example(ITEMS[1]) == TAGS.history_example(ITEMS[1])
    assert plain.ask("love").lines == ""


def test_items_whose_question_says_nothing_get_the_newest_before_them():
    task = load_task("LaMP_7", template="oppu")
    items = tuple(HistoryItem(str(n), {"text": f"tweet number {n}"}) for n in range(4))
    assert own(items, 2, task=task).history_example(items[3]).lines == (
        "tweet: tweet number 2\ntweet: tweet number 1\n"
    )


def test_the_whole_history_stands_in_time_order_as_far_as_it_fits():
    lines = [TAGS.retrieval_line(one) for one in ITEMS]
    asked = own(ITEMS, ALL).ask("love")
    assert asked.lines == "".join(lines)
    question = count(asked.prompt)
    fits = own(ITEMS, ALL, space=room(question, sum(map(count, lines[3:])) + 1)).ask("love")
    assert fits.lines == "".join(lines[3:])
    tight = own(ITEMS, ALL, space=room(question, count(lines[4]) - 1)).ask("love")
    assert tight.lines == "description: A detective, a robot: one tag: comedy\n"


def test_a_long_text_is_cut_and_its_answer_kept():
    long = item(0, " ".join(f"w{n}" for n in range(50)), "true story")
    got = lines_before(TAGS, [long], "q", room(1, 12))
    assert got == "description: w0 w1 w2 w3 w4 w5 w6 w7 tag: true story\n"
    assert lines_before(
        TWEETS, [HistoryItem("0", {"text": "a b c d e f g h i j"})], "q", room(1, 9)
    ) == ("tweet: a b c d e f g h\n")


@pytest.mark.parametrize(
    ("needs", "total", "shares"),
    [
        ([10, 10], 8, [4, 4]),
        ([2, 10, 10], 12, [2, 5, 5]),
        ([10, 2, 10], 30, [10, 2, 10]),
        ([], 5, []),
        ([7, 1], 4, [3, 1]),
    ],
)
def test_what_short_lines_leave_goes_to_long_ones(needs, total, shares):
    assert equal_shares(needs, total) == shares


def test_lines_are_fewer_rather_than_shreds():
    items = [item(place, "word " * 40, "classic") for place in range(4)]
    got = lines_before(TAGS, items, "q", room(1, 20))
    assert [count(line) for line in got.splitlines()] == [10, 10]


def test_no_prompt_has_more_tokens_than_there_is_room_for_and_the_question_stays_whole():
    chance = random.Random(4)
    for _ in range(200):
        items = [
            item(n, " ".join(chance.choices("abcdefgh", k=chance.randint(0, 30))), "dark comedy")
            for n in range(chance.randint(0, 12))
        ]
        question, lines = chance.randint(4, 30), chance.choice((0, 3, 20, 60))
        space = room(question, lines)
        depth = chance.choice((1, 2, 4, 50, ALL))
        asked = own(items, depth, space=space).ask(" ".join(chance.choices("abc", k=20)))
        assert count(asked.lines) <= space.prompt - min(count(asked.prompt), question)
        if count(asked.prompt) <= question:
            assert count(asked.asked) <= space.prompt
        for line in asked.lines.splitlines():
            assert line.endswith("tag: dark comedy")


def test_tokens_that_only_the_whole_prompt_has_count_too():
    """A tokenizer whose joint text has more tokens than its parts."""

    def joint(text: str) -> int:
        return count(text) + 5 * ("description: A" in text and "q" in text)

    question = "q " * 36
    got = lines_before(TAGS, ITEMS[:1], question, Room(50, 50, joint, count))
    assert count(got) == 9, "14 are free, 5 of them for what only the whole has"
    assert joint(got + question) == 50


def test_depths_of_a_command_line():
    assert [parse_depth(text) for text in ("0", "4", "all")] == [0, 4, ALL]
    for wrong in ("-1", "", "some", "1.5", "٣", str(MOST_RETRIEVED + 1), "9" * 30):
        with pytest.raises(ConfigError, match="or all"):
            parse_depth(wrong)


def test_an_item_without_a_field_is_named():
    with pytest.raises(DataError, match="missing fields tag"):
        Retriever(TAGS, [HistoryItem("x", {"description": "private words"})])
