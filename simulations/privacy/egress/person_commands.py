"""What one person does with `proper` while it is scanned: files, commands and requests, full of canaries.

Commands that must fail are run twice, with `--debug` and without; all others with it, since it only
adds to what is said. Each has the exit code that it must end with: a command that ended otherwise did
not do what was to be scanned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proper_model.errors import (
    ConfigError,
    DataError,
    ExportError,
    PassphraseError,
    VaultError,
)
from proper_model.storage.files import save_private
from proper_model.tasks import HistoryItem, User, users_to_json
from simulations.privacy.egress.canaries import Canary
from simulations.privacy.egress.visitor import Visit

PASSPHRASES = ("passphrase", "new passphrase", "backup passphrase", "wrong passphrase")
SECRETS = ("path", *PASSPHRASES)  # and the token, which is longer
TOKEN = "token"
USAGE = 2
# Each in a folder of its own.
EXPORTS = {
    "adapter": ["peft"],
    "adapter-with-base": ["peft", "--with-base"],
    "merged": ["merged"],
    "gguf": ["gguf"],
    "mlx": ["mlx"],
}
LONG_TIMES = 500  # a question repeated, so that it is cut
STREAMED = {False: "whole", True: "streamed"}


@dataclass(frozen=True)
class Typed:
    """One command: the words behind `proper` and its options, and its exit code."""

    words: list[str]
    code: int = 0


def write_given(folder: Path, user: User, canaries: Mapping[str, Canary]) -> None:
    """The person's files: a history and a longer one, bad ones, questions, secrets."""
    bad = canaries["exception"].text
    half = User(user.user_id, user.history[: len(user.history) // 2], user.queries)
    wrong = HistoryItem(bad, {"text": bad}, date=bad)  # lacks a field, and the date is none
    files = {
        "user.json": json.dumps(users_to_json((half,))),
        "later.json": json.dumps(users_to_json((user,))),
        "bad.json": json.dumps(users_to_json((User(bad, (wrong,), ()),))),
        "broken.json": f'[{{"user_id": "{bad}", ',
        "bad.csv": f'id,text,title\n1,{bad},{bad}\n2,"{bad}\n',
        "damaged.age": f"age-encryption.org/v1\n-> scrypt {bad} {bad}\n{bad}\n",
        "questions.jsonl": json.dumps({"id": "1", "input": user.queries[0].input}) + "\n",
        "bad-questions.jsonl": json.dumps({"id": bad, bad: bad}) + "\n",
        **{name.replace(" ", "-"): canaries[name].text + "\n" for name in (*PASSPHRASES, TOKEN)},
    }
    for name, text in files.items():
        save_private(folder / name, text.encode())
    save_private(folder / "not-text.json", f'{{"text": "{bad} '.encode() + b"\xff\xfe\xff")


def commands(
    given: Path, place: Path, releases: Sequence[Path], canaries: Mapping[str, Canary]
) -> list[Typed]:
    """What the person types, over a release and then the next one."""
    first, second = releases
    return [
        Typed(["bundle", "add", str(first)]),
        *_failing_before(given, canaries),
        Typed(["adapt", str(given / "user.json")]),
        *_asking(given, place, canaries),
        *_changing(given, canaries),
        Typed(["serve", "--port", "0", "--token-file", str(given / TOKEN)]),
        Typed(["bundle", "add", str(second)]),
        Typed(["bundle", "list"]),
        Typed(["bundle", "verify"]),
        Typed(["generate", canaries["question"].text]),  # over the first release still
        Typed(["rebase"]),
        Typed(["rebase"]),
        *_taking_away(given, place),
        *_ending(given, place, canaries),
    ]


def _debug(*commands: Typed) -> list[Typed]:
    return [Typed(["--debug", *one.words], one.code) for one in commands]


def _twice(*commands: Typed) -> list[Typed]:
    return [again for one in commands for again in (one, *_debug(one))]


def _failing_before(given: Path, canaries: Mapping[str, Canary]) -> list[Typed]:
    """Damaged histories, and words that are no command line."""
    bad, question = canaries["exception"].text, canaries["question"].text
    damaged = ("broken.json", "bad.json", "not-text.json", "bad.csv")
    return _twice(
        *(Typed(["adapt", str(given / name)], DataError.exit_code) for name in damaged),
        Typed(["generate", "tell", question], USAGE),
        Typed(["generate", "tell", question, "--json"], USAGE),
        Typed(["config", "set", bad, question], ConfigError.exit_code),
        Typed(["config", "set", "threads", bad, "--json"], ConfigError.exit_code),
        Typed(["generate", f"--{bad} is"], USAGE),
        Typed(["generate", "x", "--max-tokens", bad], USAGE),
        Typed([bad, question], USAGE),
    )


def _asking(given: Path, place: Path, canaries: Mapping[str, Canary]) -> list[Typed]:
    question, questions = canaries["question"].text, str(given / "questions.jsonl")
    return [
        *_debug(
            Typed(["generate", question]),
            Typed(["generate", question, "--retrieve", "2"]),
            Typed(["generate", f"{question} " * LONG_TIMES]),
            Typed(["generate", "--input", questions]),
            Typed(["generate", "--input", questions, "--output", str(place / "answers.jsonl")]),
            Typed(["chat", "--system", question]),  # nobody types
            Typed(["inspect"]),
            Typed(["inspect", "--items"]),
            Typed(["inspect", "--json"]),
            Typed(["generate", question, "--json"]),
            Typed(["evaluate"]),
        ),
        *_twice(
            Typed(["generate", "--input", str(given / "bad-questions.jsonl")], DataError.exit_code),
        ),
    ]


def _changing(given: Path, canaries: Mapping[str, Canary]) -> list[Typed]:
    selector = canaries["selector"].text
    return [
        *_debug(
            Typed(["update", str(given / "later.json")]),
            Typed(["forget", "--yes", "--items", "2"]),
        ),
        *_twice(
            Typed(["update", str(given / "bad.json")], DataError.exit_code),
            Typed(["forget", "--yes", "--items", f"contains:{selector}"], ConfigError.exit_code),
        ),
    ]


def _taking_away(given: Path, place: Path) -> list[Typed]:
    """Every export, into a folder of its own; a backup, and back from it."""
    backup, damaged = str(place / "backup.age"), str(given / "damaged.age")
    key = ["--backup-passphrase-file", str(given / "backup-passphrase")]
    adapter, merged = str(place / "adapter"), str(place / "gguf-merged")
    wrong_key = ["--backup-passphrase-file", str(given / "wrong-passphrase")]
    return [
        *_debug(
            *(
                Typed(["export", "--format", *kind, "--out", str(place / name)])
                for name, kind in EXPORTS.items()
            ),
            Typed(["export", "--format", "age-backup", "--out", backup, *key]),
            Typed(["import", backup, "--replace", *key]),
            Typed(["rollback"]),
        ),
        *_twice(
            Typed(["export", "--format", "peft", "--out", adapter], ExportError.exit_code),
            # llama.cpp has no tokenizer of whole words, which the small base has.
            Typed(["export", "--format", "gguf-merged", "--out", merged], ExportError.exit_code),
            Typed(["import", damaged, "--replace", *key], VaultError.exit_code),
            Typed(["import", backup, "--replace", *wrong_key], PassphraseError.exit_code),
        ),
    ]


def _ending(given: Path, place: Path, canaries: Mapping[str, Canary]) -> list[Typed]:
    """A new passphrase, commands with one of before, and all forgotten."""
    new, question = str(given / "new-passphrase"), canaries["question"].text
    wrong = [
        ["inspect"],
        ["evaluate"],
        ["generate", question],
        ["serve", "--port", "0"],
        ["update", str(given / "later.json")],
        ["forget", "--yes", "--items", "1"],
        ["export", "--format", "peft", "--out", str(place / "another")],
    ]
    return [
        *_debug(
            *(Typed([word]) for word in ("status", "path", "doctor", "lock", "config")),
            Typed(["passwd", "--new-passphrase-file", new]),
        ),
        *_twice(*(Typed(words, PassphraseError.exit_code) for words in wrong)),
        *_debug(Typed(["--passphrase-file", new, "forget", "--all", "--yes"])),
    ]


def visits(canaries: Mapping[str, Canary], user: User) -> list[Visit]:
    """What is asked of `proper serve`: what it answers, what it refuses, and a client that leaves."""
    return [
        Visit("page", "GET", "/", 200, token=False),
        Visit("page-script", "GET", "/chat.js", 200, token=False),
        Visit("models", "GET", "/v1/models", 200),
        *_answered(canaries["question"].text),
        *_refused(canaries["exception"].text, canaries["question"].text),
        *_forgotten(canaries["exception"].text, user),
        Visit("status", "GET", "/api/status", 200),
    ]


def _post(name: str, path: str, body: object, status: int, **more: object) -> Visit:
    return Visit(name, "POST", path, status, json.dumps(body), **more)  # type: ignore[arg-type]


def _answered(question: str) -> list[Visit]:
    """Whole and streamed; what is asked may stand in these answers."""
    text, chat = "/v1/completions", "/v1/chat/completions"
    message = [{"role": "user", "content": question}]
    turns = [
        {"role": role, "content": question} for role in ("system", "user", "assistant", "user")
    ]
    drawn = {"temperature": 1, "top_p": 0.9, "seed": 7, "stop": question}
    usage = {"stream_options": {"include_usage": True}}
    found = [Visit("items", "GET", "/api/items", 200)]
    for stream, how in STREAMED.items():
        common = {"model": "proper", "stream": stream} | (usage if stream else {})
        found += [
            _post(f"asked-text-{how}", text, common | {"prompt": question}, 200),
            _post(f"asked-long-{how}", text, common | {"prompt": f"{question} " * LONG_TIMES}, 200),
            _post(f"asked-chat-{how}", chat, common | {"messages": message}, 200),
            _post(f"asked-turns-{how}", chat, common | drawn | {"messages": turns}, 200),
        ]
    prompt = {"prompt": question}
    left = {"model": "proper", "stream": True, **prompt}
    return [
        *found,
        _post("asked-compare", "/api/compare", prompt, 200),
        _post("asked-routing", "/api/routing", prompt | {"stage": "3"}, 200),
        _post("asked-and-left", text, left, 200, hang_up=True),
    ]


def _refused(bad: str, question: str) -> list[Visit]:
    """Requests that are wrong in every way, with text where it is wrong: none is repeated."""
    text, chat, good = "/v1/completions", "/v1/chat/completions", {"model": "proper"}
    prompt, said = {"prompt": question}, {"role": "user", "content": question}
    wrong: dict[str, tuple[str, object, int]] = {}
    for stream, how in STREAMED.items():
        common = good | {"stream": stream}
        wrong |= {
            f"type-{how}": (text, common | {"prompt": {bad: bad}}, 400),
            f"field-{how}": (text, common | prompt | {bad: bad}, 400),
            f"value-{how}": (text, common | prompt | {"temperature": bad}, 400),
            f"model-{how}": (text, common | prompt | {"model": bad}, 404),
            f"turns-{how}": (chat, common | {"messages": [said, {**said, "role": bad}]}, 400),
            f"part-{how}": (chat, common | {"messages": [{**said, "content": [{bad: bad}]}]}, 400),
        }
    wrong["stage"] = ("/api/routing", prompt | {"stage": bad}, 400)
    wrong["compare"] = ("/api/compare", {bad: question}, 400)
    wrong["address"] = (f"/v1/{bad}", prompt, 404)
    token, other = {"Authorization": f"Bearer {bad}"}, {"Content-Type": f"text/{bad}"}
    return [
        *(_post(f"refused-{name}", *asked) for name, asked in wrong.items()),
        Visit("refused-json", "POST", text, 400, f'{{"prompt": {bad}'),
        Visit("refused-request", "GET", f"/{bad} {bad}", 400),
        Visit("refused-method", "DELETE", f"{text}?{bad}={bad}", 405),
        _post("refused-token", text, good | prompt, 401, headers=token),
        _post("refused-host", text, good | prompt, 403, headers={"Host": f"{bad}.example"}),
        _post("refused-origin", text, good | prompt, 403, headers={"Origin": f"http://{bad}"}),
        _post("refused-kind", text, good | prompt, 415, headers=other),
    ]


def _forgotten(bad: str, user: User) -> list[Visit]:
    """An item that is not there, and one that is."""
    going = '"state":"running"'
    return [
        _post("forget-none", "/api/forget", {"ids": [bad]}, 202),
        Visit("forget-none-told", "GET", "/api/forget", 200, again_while=going),
        _post("forget-one", "/api/forget", {"ids": [user.history[-1].id]}, 202),
        Visit("forget-one-told", "GET", "/api/forget", 200, again_while=going),
        Visit("items-left", "GET", "/api/items", 200),
    ]
