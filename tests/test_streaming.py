"""Text that streams: the same in pieces as at once, no half character, whatever tokens spell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proper_model.answering import streaming
from proper_model.answering.streaming import UNFINISHED, Ended, stream
from proper_model.text.conversation import NEXT_TURN
from proper_model.text.encoding import Encoder
from tests.test_plain_text import tokenizer

BYTES = Encoder(tokenizer("bytes"), max_prompt_tokens=9, max_answer_tokens=9)


def pieces(ids: list[int], stop: Sequence[str] = ()) -> tuple[list[str], Ended]:
    """What a reader sees of a generation of these tokens."""

    def made(*_: Any, **__: Any) -> Iterator[int]:
        yield from ids
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "stream_tokens", made)
        nothing: Any = None
        running = stream(nothing, BYTES, (), nothing, max_new_tokens=len(ids), stop=stop)
        seen = []
        while True:
            try:
                seen.append(next(running))
            except StopIteration as end:
                return seen, end.value


@given(text=st.text(st.sampled_from("a \n\u00ef\u2603\U0001f600\U0001f469\u200d\u0301</s>")))
def test_pieces_join_to_the_text_and_hold_no_half_character(text: str) -> None:
    ids = BYTES.text_ids(text)
    seen, ended = pieces(ids)
    assert "".join(seen) == text.strip()
    assert not any(UNFINISHED in piece for piece in seen)
    assert ended == Ended(True, len(ids))


def test_a_text_cut_inside_a_character_says_so_at_its_end() -> None:
    ids = BYTES.text_ids("a \U0001f469")
    seen, _ = pieces(ids[:-1])
    assert seen[0] == "a"
    assert "".join(seen) == BYTES.decode(ids[:-1])
    assert "".join(seen).endswith(UNFINISHED)


STOPS = st.lists(st.text("ab \n\u2603", min_size=1, max_size=3), min_size=1, max_size=4)


@given(text=st.text("ab \n\u2603"), stop=STOPS)
def test_an_answer_ends_before_the_first_stop_text_wherever_pieces_part(
    text: str, stop: list[str]
) -> None:
    """Whatever of it was shown before. Oracle: the whole text so far, token by token."""
    ids = BYTES.text_ids(text)
    expected, made = text.strip(), len(ids)
    for count in range(len(ids), 0, -1):
        so_far = BYTES.tokenizer.decode(ids[:count])
        before = len(so_far) - len(so_far.lstrip())  # white space, which alone ends nothing
        places = [
            place
            for one in stop
            for place in range(len(so_far))
            if so_far.startswith(one, place) and place + len(one) > before
        ]
        if places:
            expected, made = so_far[: min(places)].strip(), count
    seen, ended = pieces(ids, stop)
    assert "".join(seen) == expected
    assert ended == Ended(True, made)


def test_a_stop_text_over_several_pieces_ends_the_generation_there() -> None:
    ids = BYTES.text_ids("one END two")
    assert len(ids) > 8
    seen, ended = pieces(ids, ["END"])
    assert "".join(seen) == "one"
    assert ended == Ended(True, len(BYTES.text_ids("one END")))
    seen, _ = pieces(BYTES.text_ids("one EN"), ["END"])
    assert "".join(seen) == "one EN", "what only began as a stop text is part of the answer"


def test_an_answer_that_begins_as_the_next_turn_is_empty() -> None:
    ids = BYTES.text_ids(f" {NEXT_TURN} and more")
    seen, ended = pieces(ids, [NEXT_TURN])
    assert seen == []
    assert ended == Ended(True, len(BYTES.text_ids(f" {NEXT_TURN}")))
    seen, _ = pieces(BYTES.text_ids("\n\none\ntwo"), ["\n"])
    assert "".join(seen) == "one", "white space before an answer is no part of it"
