"""`proper chat`: turns through a pipe and at a terminal, commands, Ctrl-C, and that nothing is stored."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from client.commands import chat
from client.commands.generate import personal_model
from client.home import Home
from client.person import answering
from client.person.answering import Personal, Prompt
from client.person.workspace import Keys, Memory, Workspace
from proper_model.answering import Sampling, seeded
from proper_model.errors import ConfigError, DataError
from proper_model.text import ChatMessage, Encoder
from proper_model.text.conversation import NEXT_TURN
from tests.device_cli import CANARY, Person
from tests.documents import document
from tests.serve_process import adapted_person

REPOSITORY = Path(__file__).resolve().parent.parent
# Ctrl-C is a signal only of the terminal that a process is controlled by, and ignored where whoever started
# these tests ignores it, as a shell does in the background.
AT_A_TERMINAL = """
import fcntl, signal, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from client.cli import main
main()
"""
FIRST, SECOND = "a clever prisoner digs a tunnel", "and a silent cell"


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return adapted_person(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def mine(person: Person) -> Personal:
    workspace = Workspace(Home(person.home), Keys(person.passphrase_file))
    found: Personal = personal_model(workspace, None, Memory())
    return found


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str | bytes) -> None:
    data = b"".join((one if isinstance(one, bytes) else one.encode()) + b"\n" for one in lines)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def answer(mine: Personal, *texts: str, system: str | None = None, **how: Any) -> str:
    """The oracle: the model itself, asked with the whole conversation."""
    roles: Any = ("user", "assistant")
    messages = [ChatMessage(roles[i % 2], text) for i, text in enumerate(texts)]
    first = [] if system is None else [ChatMessage("system", system)]
    prompt = mine.prompt([*first, *messages], stage=how.pop("stage", "3"))
    return "".join(mine.answer(prompt, **how))


def test_a_pipe_is_a_message_a_line(
    person: Person, mine: Personal, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    before = sorted(path for path in person.home.parent.rglob("*"))
    typed(monkeypatch, FIRST, "", SECOND, "/reset", SECOND, "/stage 1", "/system a tag", "//help")
    assert person.run("chat", "--max-tokens", "6") == 0
    told = capsys.readouterr()
    limit: dict[str, Any] = {"max_tokens": 6}
    one = answer(mine, FIRST, **limit)
    two = answer(mine, FIRST, one, SECOND, **limit)
    again = answer(mine, SECOND, **limit)
    last = answer(mine, SECOND, again, "/help", system="a tag", stage="1", **limit)
    assert told.out.splitlines() == [one, two, again, last]
    assert "nothing of this conversation is stored" in told.err
    worded = [line for line in told.err.splitlines() if "asked" in line]
    assert ["words of the trained task" in line for line in worded] == [True, False, True, False]
    assert "no chat template" in worded[1]
    assert sorted(path for path in person.home.parent.rglob("*")) == before


def test_a_program_gets_one_document(
    person: Person, mine: Personal, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    typed(monkeypatch, FIRST, SECOND)
    assert person.run("chat", "--max-tokens", "6", "--json") == 0
    shown = capsys.readouterr()
    limit: dict[str, Any] = {"max_tokens": 6}
    one = answer(mine, FIRST, **limit)
    two = answer(mine, FIRST, one, SECOND, **limit)
    told = document(shown.out, "chat")["answers"]
    assert [(a["text"], a["wording"]) for a in told] == [(one, "task"), (two, "chat")]
    typed(monkeypatch, FIRST, "/nothing")
    assert person.run("chat", "--max-tokens", "6", "--json") == ConfigError.exit_code
    failed = json.loads(capsys.readouterr().out)
    assert [a["text"] for a in failed["answers"]] == [one]
    assert failed["error"]["code"] == ConfigError.exit_code


def test_a_seed_is_a_conversation(
    person: Person, mine: Personal, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    said = []
    for seed in ("4", "4", "5"):
        typed(monkeypatch, FIRST, SECOND)
        drawn = ("--temperature", "1.8", "--top-p", "0.95", "--seed", seed)
        assert person.run("chat", "--system", "a tag", *drawn) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    sampling = Sampling(1.8, seeded(4), 0.95)
    one = answer(mine, FIRST, system="a tag", sampling=sampling)
    two = answer(mine, FIRST, one, SECOND, system="a tag", sampling=sampling)
    assert said[0] == f"{one}\n{two}\n"


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        ([f"/{CANARY}"], ConfigError.exit_code, "no such command"),
        ([f"/stage {CANARY}"], ConfigError.exit_code, "expected 1, 2 or 3"),
        ([f"{CANARY} ".encode() + b"\xff"], DataError.exit_code, "not UTF-8"),
        (["/system x", f"{CANARY} {'tag ' * 200}"], DataError.exit_code, "this base reads 128"),
    ],
)
def test_a_script_learns_what_is_wrong(
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    lines: list[str | bytes],
    code: int,
    told: str,
) -> None:
    typed(monkeypatch, *lines)
    assert person.run("chat") == code
    error = capsys.readouterr().err
    assert told in error
    assert CANARY not in error


@pytest.mark.parametrize(
    "options",
    [["--seed", "3"], ["--top-p", "0.5"], ["--temperature", "1", "--top-p", "0"]]
    + [["--temperature", "1", "--seed", str(1 << 63)], ["--stage", "4"]],
)
def test_options_that_do_nothing_or_are_none_are_refused(
    person: Person, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    typed(monkeypatch, FIRST)
    assert person.run("chat", *options) == ConfigError.exit_code


def test_the_oldest_turns_go_where_the_base_reads_no_more(mine: Personal, capsys: Any) -> None:
    talk = chat.Talk(mine, "3", "a tag", None, 4)
    for turn in range(12):
        "".join(talk.answer(f"{FIRST} {SECOND} {turn}"))
        tokens = len(mine.prompt(talk._messages(), stage="3").tokens)
        assert tokens <= mine.positions
    assert "the oldest 1 turn left out" in capsys.readouterr().err
    assert 2 <= len(talk.said) < 24
    assert [one.role for one in talk.said] == ["user", "assistant"] * (len(talk.said) // 2)
    assert talk.said[-2].text.endswith("11"), "the newest stay"


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(
    mine: Personal, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    talk, ctrl_c = chat.Talk(mine, "3", None, None, None), chat.CtrlC()
    closed = []

    def answering(*_: Any, **__: Any) -> Any:
        try:
            yield "one"
            ctrl_c(signal.SIGINT, None)
            yield " two"
            pytest.fail("it went on")
        finally:
            closed.append(True)

    monkeypatch.setattr(Personal, "answer", answering)
    chat._show(talk.answer(FIRST), ctrl_c)
    told = capsys.readouterr()
    assert told.out == "one\n"
    assert "stopped" in told.err
    assert closed == [True]
    assert [one.text for one in talk.said] == [FIRST, "one"], "what nobody saw was not said"
    with pytest.raises(KeyboardInterrupt):  # nothing is being answered
        ctrl_c(signal.SIGINT, None)


def test_only_a_conversation_ends_where_the_chat_template_ends_a_turn(
    mine: Personal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any]] = []

    def streamed(*_: Any, stop: Any, ends: Any, **__: Any) -> Any:
        seen.append((stop, ends))
        yield from ()

    monkeypatch.setattr(answering, "stream", streamed)
    monkeypatch.setattr(Encoder, "turn_end_tokens", (7,))
    answer(mine, FIRST, stop=["x"])
    answer(mine, FIRST, "one", SECOND, stop=["x"])
    assert [(list(stop), ends) for stop, ends in seen] == [(["x"], ()), (["x", NEXT_TURN], (7,))]


def test_ctrl_c_before_the_first_word_takes_the_message_back(
    mine: Personal, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    talk, ctrl_c = chat.Talk(mine, "3", None, None, None), chat.CtrlC()

    def answering(*_: Any, **__: Any) -> Any:
        ctrl_c(signal.SIGINT, None)
        yield "one"

    monkeypatch.setattr(Personal, "answer", answering)
    chat._show(talk.answer(FIRST), ctrl_c)
    told = capsys.readouterr()
    assert told.out == ""
    assert "no part of the conversation" in told.err
    assert (talk.said, talk.answers) == ([], [])


def test_an_empty_answer_is_an_answer_and_no_turn(
    person: Person, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A program counts on an answer a line."""

    def answering(self: Personal, prompt: Prompt, **_: Any) -> Any:
        asked.append([one.text for one in prompt.messages])
        yield from [] if prompt.messages[-1].text == "nothing" else ["well"]

    asked: list[list[str]] = []
    monkeypatch.setattr(Personal, "answer", answering)
    for options in ([], ["--json"]):
        typed(monkeypatch, "one", "nothing", "two")
        assert person.run("chat", *options) == 0
        told = capsys.readouterr()
        assert "said nothing" in told.err
        if options:
            answers = document(told.out, "chat")["answers"]
            assert [one["text"] for one in answers] == ["well", "", "well"]
        else:
            assert told.out == "well\n\nwell\n"
    assert asked == [["one"], ["one", "well", "nothing"], ["one", "well", "two"]] * 2


def test_an_answer_that_fails_leaves_the_conversation_as_it_was(mine: Personal) -> None:
    talk = chat.Talk(mine, "3", "a tag", None, None)
    for before in ([], [ChatMessage("user", FIRST), ChatMessage("assistant", "comedy")]):
        talk.said[:] = before
        with pytest.raises(DataError, match="this base reads 128"):
            "".join(talk.answer("tag " * 200))
        assert talk.said == before


def test_at_a_terminal(person: Person, mine: Personal, tmp_path: Path) -> None:
    """A real one: the greeting, a wrong command that ends nothing, an answer, Ctrl-C, Ctrl-D."""
    main, side = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, *person.options(), "chat"]
    # As in most locales: bytes that are no text are an error of Python's.
    home = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb"}
    home["PYTHONIOENCODING"] = "utf-8:strict"
    files = {"stdin": side, "stdout": side, "stderr": side}
    with subprocess.Popen(
        command, **files, cwd=REPOSITORY, env=home, start_new_session=True
    ) as process:
        os.close(side)
        try:
            heard = _until(main, "> ")
            assert "Ctrl-D ends" in heard
            os.write(main, b"/nothing\n")
            assert "no such command" in _until(main, "\n> ")
            os.write(main, b"no letter \xff\xfe x\n")
            assert "error: the message is not UTF-8 text" in _until(main, "\n> ")
            os.write(main, FIRST.encode() + b"\n")
            assert answer(mine, FIRST) in _until(main, "\n> ")
            os.write(main, b"half a line")
            _until(main, "half a line")
            assert "Ctrl-D ends" in _until(main, "\n> ", pressing=b"\x03")
            os.write(main, b"\x04")
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(main)
    assert list(tmp_path.rglob("*")) == [], "not even a history of lines"


def _until(terminal: int, end: str, pressing: bytes = b"") -> str:
    """What is shown until it ends so; what is pressed is pressed again while nothing comes.

    A signal between Python's prompt and its waiting for a key is noticed at the next key only.
    """
    shown, deadline = "", time.monotonic() + 120
    os.write(terminal, pressing)
    while not shown.replace("\r", "").endswith(end):
        assert time.monotonic() < deadline, shown
        if not select.select([terminal], [], [], 5.0)[0]:
            os.write(terminal, pressing)
            continue
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the program ended
            pytest.fail(f"it ended: {shown}")
    return shown
