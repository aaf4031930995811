"""`proper chat`: a conversation with the person's own model, in the terminal or through a pipe.

Nothing of it is stored: messages live in this process's memory and end with it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands import options as o
from client.commands.generate import MAX_QUESTION_BYTES, personal_model, say_unknown
from client.person.workspace import Memory
from client.terminal.console import asks, remarks, say, say_as_it_is, say_error, stdin_bytes
from client.terminal.document import gives, session_of
from client.terminal.terminal_text import for_stdout
from proper_model.errors import ConfigError, DataError, ProperError
from proper_model.tasks import counted, parse_depth

if TYPE_CHECKING:
    from client.person.answering import Personal, Prompt, Wording
    from proper_model.answering import Sampling
    from proper_model.text import ChatMessage

HELP = """\
/stage N      1 population, 2 group, 3 personal
/system TEXT  how answers are to be, said to the model first; without TEXT there is none any more
/reset        a new conversation, under the same stage and system text
/help         this list
/quit         end; so does Ctrl-D. Ctrl-C stops an answer
//...         a message that begins with a slash
Every line is a message. A first message without a system text is a question of the trained task, in
that task's words; all that follow are a conversation.
"""
WORDED = {
    "task": "asked in the words of the trained task",
    "chat": "asked as a conversation, which the adapter was not trained on",
}
PROMPT = "> "
NO_TEXT = "the message is not UTF-8 text"
IN_UTF8 = "write it in UTF-8; iconv makes that of other encodings"
LEAST_ANSWER = 64  # tokens; for their sake the oldest turns go

System = Annotated[
    str | None,
    typer.Option(
        "--system", metavar="TEXT", help="How answers are to be; said to the model first."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0,
        max=2,
        help="Draw words instead of taking the likeliest; the higher, the freer. (default: 0)",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p", max=1, help="Draw among the likeliest that have so much together; above 0."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the draws, to have them again.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")
]


@gives("chat")
def chat(
    context: typer.Context,
    stage: o.Stage = None,
    task: o.StoredTask = None,
    system: System = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    retrieve: o.Retrieve = None,
    max_memory: o.MaxMemory = None,
) -> dict[str, Any]:
    """Talk with your own model, line by line; nothing of it is stored.

    Answers stream; Ctrl-C stops one, Ctrl-D ends. /help lists commands such as /stage, /system and
    /reset. Of a pipe every line is a message, and answers go to stdout; with --json they come at the end,
    as one document.
    """
    if not temperature and (top_p is not None or seed is not None):
        raise ConfigError(
            "--top-p and --seed go with a --temperature above 0",
            hint="without it the likeliest words are taken, and nothing is drawn",
        )
    depth = None if retrieve is None else parse_depth(retrieve)
    sampling = _sampling(temperature, top_p, seed)
    workspace, memory = o.workspace(context), Memory(o.bytes_of(max_memory))
    mine: Personal = personal_model(workspace, task, memory, depth)
    talk = Talk(mine, stage or mine.stages[-1], system or None, sampling, max_tokens)
    mine.arm(talk.stage)
    say(
        f"stage {talk.stage} of {mine.task.name}; nothing of this conversation is stored. /help lists "
        "commands, Ctrl-C stops an answer, Ctrl-D ends"
    )
    ctrl_c, typed = CtrlC(), asks()
    with ctrl_c.handled():
        for line in _typed() if typed else _piped():
            try:
                if not _take(talk, line, ctrl_c):
                    break
            except ProperError as error:
                if not typed:  # a script must learn of it
                    session_of().found = talk.found()
                    raise
                say_error(error)
    return talk.found()


def _sampling(temperature: float | None, top_p: float | None, seed: int | None) -> Sampling | None:
    if not temperature:
        return None
    from proper_model.answering import SEEDS, Sampling, seeded

    if seed is not None and seed not in SEEDS:
        raise ConfigError("--seed: expected a number of at most 63 bits", hint="7, for example")
    return Sampling(temperature, seeded(seed), 1.0 if top_p is None else top_p)


@dataclass
class Talk:
    """A conversation in memory.

    Attributes:
        said: messages of user and assistant in turn, whose last one was answered.
        asked_as: how the message before was put to the model.
        answers: all there were, those of earlier conversations too.
    """

    mine: Personal
    stage: str
    system: str | None
    sampling: Sampling | None
    max_tokens: int | None
    said: list[ChatMessage] = field(default_factory=list)
    asked_as: Wording | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)

    def found(self) -> dict[str, Any]:
        """What a program reads of it."""
        return {"task": self.mine.task.name, "answers": self.answers}

    def answer(self, text: str) -> Generator[str, None, None]:
        """The answer to a message, in pieces; what was said of it stays, however it ended."""
        from proper_model.text import ChatMessage

        self.said.append(ChatMessage("user", text))
        pieces: list[str] = []  # those that whoever reads them has had time to show
        complete = False
        try:
            prompt = self._make_room()
            self._tell_wording(prompt.wording)
            answering = self.mine.answer(prompt, max_tokens=self.max_tokens, sampling=self.sampling)
            with closing(answering):
                for piece in answering:
                    yield piece
                    pieces.append(piece)
            complete = True
        finally:
            said = "".join(pieces)
            if said:
                self.said.append(ChatMessage("assistant", said))
            else:  # nothing was answered, so it was never said
                self.said.pop()
            if said or complete:
                self.answers.append({"stage": self.stage, "wording": self.asked_as, "text": said})

    def _messages(self, first: int = 0) -> list[ChatMessage]:
        """What the model is asked, without what was said before the `first` message."""
        from proper_model.text import ChatMessage

        system = [] if self.system is None else [ChatMessage("system", self.system)]
        return system + self.said[first:]

    def _make_room(self) -> Prompt:
        """Leave out the oldest turns until the base can read the rest, which is returned, and answer.

        Raises DataError, and leaves none out, where it could not read the last message by itself.
        """
        reads = self.mine.positions
        wanted, gone = min(self.max_tokens or LEAST_ANSWER, reads // 2), 0
        while True:
            prompt = self.mine.prompt(self._messages(2 * gone), stage=self.stage)
            tokens = len(prompt.tokens)
            if prompt.wording == "task":  # which is cut to what there is room for
                break
            last = 2 * gone == len(self.said) - 1
            if last and tokens >= reads:
                raise DataError(
                    f"the message has {tokens} tokens with the system text, and this base reads {reads}, "
                    "its answer included",
                    hint="a shorter message or system text; what was said before is as it was",
                )
            if last or tokens + wanted <= reads:
                break
            gone += 1
        if gone:
            del self.said[: 2 * gone]
            say(
                f"this base reads {reads} tokens: the oldest {counted(gone, 'turn')} "
                "left out from here on"
            )
        return prompt

    def _tell_wording(self, wording: Wording) -> None:
        if wording != self.asked_as:
            self.asked_as = wording
            form = ""
            if wording == "chat" and not self.mine.encoder.has_template:
                form = "; this base has no chat template, so as lines User: and Assistant:"
            say(WORDED[wording] + form)


def _take(talk: Talk, line: str, ctrl_c: CtrlC) -> bool:
    """Answer a message or follow a command; whether the conversation goes on."""
    if any("\ud800" <= sign <= "\udfff" for sign in line):
        raise DataError(NO_TEXT, hint=IN_UTF8)  # no tokenizer takes it
    if not line.startswith("/") or line.startswith("//"):
        text = line[1:] if line.startswith("//") else line
        say_unknown(talk.mine, text)
        _show(talk.answer(text), ctrl_c)
        return True
    command, _, words = line.partition(" ")
    words = words.strip()
    if command == "/quit":
        return False
    if command == "/help":
        say_as_it_is(HELP)
    elif command == "/reset":
        talk.said.clear()
        talk.asked_as = None
        say("a new conversation")
    elif command == "/system":
        talk.system = words or None
        say("the system text is set" if words else "no system text any more")
    elif command == "/stage":
        if words not in ("1", "2", "3"):
            raise ConfigError("/stage: expected 1, 2 or 3", hint="/stage 1, for example")
        talk.mine.arm(words)
        talk.stage = words
        say(f"stage {words} answers from here on")
    else:
        raise ConfigError(
            "no such command", hint="/help lists them; // begins a message with a slash"
        )
    return True


class CtrlC:
    """SIGINT while a conversation goes on: it stops an answer once; at any other time it interrupts."""

    def __init__(self) -> None:
        self.answering = self.pressed = False

    def __call__(self, _number: int, _frame: object) -> None:
        if not self.answering or self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Answer the signal, unless it is ignored, as in the background."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGINT, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def one_answer(self) -> Iterator[None]:
        self.answering, self.pressed = True, False
        try:
            yield
        finally:
            self.answering = False


def _show(pieces: Generator[str, None, None], ctrl_c: CtrlC) -> None:
    """Write an answer as it is made, until it ends or Ctrl-C is pressed."""
    begun = False
    with ctrl_c.one_answer(), closing(pieces):
        for piece in pieces:
            if ctrl_c.pressed:
                break
            begun = True
            sys.stdout.write(for_stdout(piece))
            sys.stdout.flush()
    if ctrl_c.pressed:
        sys.stdout.write("\n" * begun)
        stays = "what was said of the answer stays in the conversation"
        say(f"stopped; {stays if begun else 'the message is no part of the conversation'}")
    else:
        sys.stdout.write("\n")
        if not begun:
            say("the model said nothing; the message is no part of the conversation")
    sys.stdout.flush()


def _typed() -> Iterator[str]:
    """Lines that a person types, to Ctrl-D."""
    shown = sys.stdout.isatty()
    if shown:
        with suppress(ImportError):
            import readline  # noqa: F401 - arrows edit the line; what was typed stays in memory
    while True:
        try:
            if shown:
                line = input(PROMPT)
            else:
                remarks().write(PROMPT)
                remarks().flush()
                line = sys.stdin.readline()
                if not line:
                    return
        except EOFError:
            sys.stdout.write("\n")
            return
        except KeyboardInterrupt:
            say_as_it_is("\n")
            say("Ctrl-D ends")
            continue
        except UnicodeDecodeError:  # in locales where Python does not stand in for such bytes
            say_error(DataError(NO_TEXT, hint=IN_UTF8))
            continue
        if line.strip():
            yield line.strip()


def _piped() -> Iterator[str]:
    """Lines of a pipe or file, without empty ones. Raises DataError for one that is no text."""
    stdin = stdin_bytes()
    while data := stdin.readline(MAX_QUESTION_BYTES + 1):
        if len(data) > MAX_QUESTION_BYTES:
            raise DataError(
                f"stdin: a message of more than {MAX_QUESTION_BYTES} bytes",
                hint="a message is a line; break it up, or leave parts out",
            )
        try:
            line = data.decode().strip()
        except UnicodeDecodeError:
            raise DataError("stdin: not UTF-8 text", hint=IN_UTF8) from None
        if line:
            yield line
