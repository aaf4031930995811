"""One person from start to end, as the benchmark of a device splits and shows it."""

from __future__ import annotations

import json

import httpx
import pytest

from benchmarks.measuring import adapt_split, first_tokens
from benchmarks.measuring.adapt_split import PARTS, Split, places
from benchmarks.results.schema import Part, PersonRun
from benchmarks.results.tables import person_table


def test_a_second_counts_once_for_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [3.0]  # of both clocks: the process has computed for three seconds
    for clock in ("process_time", "monotonic"):
        monkeypatch.setattr(adapt_split.time, clock, lambda: now[0])

    def spends(seconds: float) -> None:
        now[0] += seconds

    split = Split()
    judge = split.timed("judge", spends)

    def trains() -> None:
        spends(5.0)
        judge(2.0)
        spends(1.0)

    split.timed("adapter", trains)()

    def fails() -> None:
        spends(4.0)
        raise ValueError

    with pytest.raises(ValueError):
        split.timed("save", fails)()
    spends(0.5)
    split.turn()
    spent = {part: seconds for part, seconds in split.seconds.items() if any(seconds)}
    assert spent == {
        "start": [3.5, 3.5],
        "adapter": [6.0, 6.0],
        "judge": [2.0, 2.0],
        "save": [4.0, 4.0],
    }


def test_every_part_begins_at_a_function_that_there_is() -> None:
    found = places()
    assert all(callable(getattr(owner, name)) for owner, name, _ in found)
    assert {part for _, _, part in found} | {"start"} == set(PARTS)


def test_the_first_piece_is_the_first_with_text_or_the_end() -> None:
    def answers(*pieces: tuple[str, str | None]) -> httpx.Client:
        lines = [
            "data: " + json.dumps({"choices": [{"text": text, "finish_reason": reason}]})
            for text, reason in pieces
        ]
        body = "\n\n".join((*lines, "data: [DONE]", ""))
        return httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, text=body)))

    for pieces in ((("", None), ("a", None)), (("", "length"),)):
        with answers(*pieces) as client:
            assert first_tokens._first_piece(client, "http://x/", {}) >= 0
    with answers(("", None)) as client, pytest.raises(first_tokens.ProgramError):
        first_tokens._first_piece(client, "http://x/", {})


def test_the_table_by_hand() -> None:
    run = PersonRun(
        base="tiny",
        data="news",
        items=100,
        tokens=7000,
        parts={"start": Part(cpu_s=3.0, wall_s=4.0), "adapter": Part(cpu_s=10.25, wall_s=20.0)},
        peak_bytes=3 * 2**20,
        generate_s=2.5,
        serve_s=0.125,
    )
    other = run.model_copy(update={"base": "small", "parts": {"start": run.parts["start"]}})
    found = person_table([run, other])
    assert found.header == (
        *("part", "tiny: CPU s", "tiny: seconds", "small: CPU s", "small: seconds"),
    )
    assert found.rows == (
        ("start", "3.0", "4.0", "3.0", "4.0"),
        ("adapter", "10.2", "20.0", "–", "–"),
        ("whole", "13.2", "24.0", "3.0", "4.0"),
        ("first token of generate", "", "2.5", "", "2.5"),
        ("first token of a warm serve", "", "0.12", "", "0.12"),
        ("peak, MiB", "", "3", "", "3"),
    )
    assert "100 items of news, 70 tokens each, over tiny" in found.title
