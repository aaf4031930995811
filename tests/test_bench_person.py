"""One person from start to end, as the benchmark of a device splits and shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks import device
from benchmarks.command import run_command
from benchmarks.measuring import adapt_split, first_tokens
from benchmarks.measuring.adapt_split import PARTS, Split, places
from benchmarks.results.schema import DeviceReport, Part, PersonRun, read_report
from benchmarks.results.tables import person_table
from proper_model.errors import DataError, InterruptedRunError


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


SAYS_AND_FAILS = "import sys; print('proper: error: no room', file=sys.stderr); sys.exit(20)"


def test_a_program_that_fails_is_told_with_its_own_words() -> None:
    command = [sys.executable, "-c", SAYS_AND_FAILS]
    for run, name in (
        (lambda: first_tokens.run_program("adapt", command, 1), "adapt"),
        (lambda: first_tokens.generate_once(command, "q", 1), "generate"),
        (lambda: first_tokens.serve_seconds(command, "q", 1), "serve"),
    ):
        with pytest.raises(
            first_tokens.ProgramError, match=f"proper {name} ended with exit code 20: no room"
        ):
            run()


def test_a_program_ends_with_what_waits_for_it() -> None:
    """Popen leaves it running where Ctrl-C ends the waiting."""
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    kept: list[subprocess.Popen[bytes]] = []

    def waits(error: type[BaseException]) -> None:
        with first_tokens.started(sleeps, 1) as running:
            kept.append(running.process)
            raise error

    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            waits(error)
    assert [process.poll() for process in kept] == [-15, -15]


def test_what_a_device_has_measured_stays_where_the_rest_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, rounds = tmp_path / "base", tmp_path / "d.json", []
    base.mkdir()

    def adapt_once(*_: object, **__: object) -> tuple[float, int]:
        if len(rounds) == 2:
            raise KeyboardInterrupt
        rounds.append(1)
        return 2.0, 1 << 20

    monkeypatch.setattr(device, "make_person", lambda *_: tmp_path / "history.json")
    monkeypatch.setattr(device, "predicted", lambda *_: [])
    monkeypatch.setattr(device, "adapt_once", adapt_once)
    monkeypatch.setattr(device, "WAYS", device.WAYS[:1])
    monkeypatch.setattr(device, "LANGUAGE_BASE", base)
    words = ["--out", str(out), "--rounds", "3"]
    assert run_command(device.app, words) == InterruptedRunError.exit_code
    found = read_report(out)
    assert isinstance(found, DeviceReport)
    assert found.adaptations[0].seconds == [2.0, 2.0]
    assert found.persons == []
    assert "base weights full: 2 s, 1 MiB" in capsys.readouterr().err
    # Data that come last are looked for first.
    (base / "config.json").write_text("{}")
    monkeypatch.setattr(device, "LANGUAGE_DATA", tmp_path / device.LANGUAGE_DATA.name)
    monkeypatch.setattr(device, "make_person", None)
    assert run_command(device.app, words) == DataError.exit_code
