"""Clients that people use, against a real `proper serve`: OpenAI's in Python and JavaScript, `llm`, its own page.

The tiny base has no chat template, so conversations are asked in the plain form; that a template is
followed is in tests/test_conversation.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from chromium import Browser, Page
from local_page import CONNECTED, ask

from tests.device_cli import Person
from tests.serve_process import Serving, adapted_person, environment, serve_process

NPM = Path(__file__).parent / "npm"
DRAWN = {"temperature": 1.3, "top_p": 0.95, "max_tokens": 12}


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return adapted_person(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def serving(person: Person) -> Iterator[Serving]:
    with serve_process(person) as found:
        yield found


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=serving.base_url, api_key=serving.token, max_retries=0) as made:
        yield made


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


# A conversation as clients send it, short enough for a base of 128 tokens.
TURNS = [
    said("system", "answer with a tag"),
    said("user", "a clever prisoner digs a tunnel"),
    said("assistant", "comedy"),
    said("user", "and a silent cell"),
]


def whole(client: openai.OpenAI, messages: Any, **fields: Any) -> dict[str, Any]:
    found = client.chat.completions.create(model="proper", messages=messages, **fields)
    (choice,) = found.choices
    return {
        "text": choice.message.content,
        "reason": choice.finish_reason,
        "wording": found.wording,  # type: ignore[attr-defined]
        "tokens": found.usage.completion_tokens,  # type: ignore[union-attr]
    }


def streamed(client: openai.OpenAI, messages: Any, **fields: Any) -> dict[str, Any]:
    text, found = "", {}
    for chunk in client.chat.completions.create(
        model="proper",
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        **fields,
    ):
        found["wording"] = chunk.wording
        if chunk.usage is not None:
            found["tokens"] = chunk.usage.completion_tokens
        for choice in chunk.choices:
            text += choice.delta.content or ""
            found["reason"] = choice.finish_reason or found.get("reason")
    return {"text": text, **found}


# --- OpenAI's client for Python ------------------------------------------------------------------


def test_a_question_of_the_task_is_asked_as_the_command_line_asks_it(
    client: openai.OpenAI, serving: Serving, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    assert person.run("generate", serving.question) == 0
    expected = capsys.readouterr().out.strip()
    asked = [said("user", serving.question)]
    found = whole(client, asked)
    assert (found["text"], found["wording"], found["reason"]) == (expected, "task", "stop")
    assert streamed(client, asked) == found
    text = client.completions.create(model="proper", prompt=serving.question)
    assert (text.choices[0].text, text.wording) == (expected, "task")  # type: ignore[attr-defined]


@pytest.mark.parametrize("fields", [{}, {"max_completion_tokens": 3}, {**DRAWN, "seed": 5}])
def test_a_conversation_whole_and_streamed(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    found = whole(client, TURNS, **fields)
    assert found["wording"] == "chat"
    assert found["tokens"] <= fields.get("max_completion_tokens", 128)
    assert found["text"]
    assert streamed(client, TURNS, **fields) == found


def test_a_seed_is_a_text(client: openai.OpenAI, serving: Serving) -> None:
    for messages in (TURNS, [said("user", serving.question)]):
        texts = [whole(client, messages, **DRAWN, seed=seed)["text"] for seed in (*range(6), 0)]
        assert texts[0] == texts[-1]
        assert len(set(texts)) > 1
    prompt = {"model": "proper", "prompt": serving.question, **DRAWN}
    pair = [client.completions.create(**prompt, seed=4).choices[0].text for _ in range(2)]
    assert pair[0] == pair[1]


def test_a_stop_text_cuts_whole_and_streamed_answers_alike(client: openai.OpenAI) -> None:
    """Also where it goes over several pieces: the tiny base makes a word at a time."""
    drawn = ({**DRAWN, "seed": seed, "temperature": 2.0, "top_p": 1.0} for seed in range(20))
    fields, text = next(
        (one, text) for one in drawn if (text := whole(client, TURNS, **one)["text"]).count(" ") > 4
    )
    words = text.split(" ")
    stop = f"{words[2]} {words[3][:2]}"
    expected = text[: text.index(stop)].strip()
    found = whole(client, TURNS, **fields, stop=["no such text", stop])
    assert (found["text"], found["reason"]) == (expected, "stop")
    assert found["tokens"] < DRAWN["max_tokens"]
    assert streamed(client, TURNS, **fields, stop=stop) == found


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": 3}, "temperature"), ({"stop": list("abcde")}, "stop"), ({"n": 2}, "n")]
    + [({"tools": [{"type": "function"}]}, "tools"), ({"logprobs": True}, "logprobs")],
)
def test_what_cannot_be_honoured_is_an_error_of_the_client(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    for way in (whole, streamed):
        with pytest.raises(openai.BadRequestError) as error:
            way(client, TURNS, **fields)
        assert error.value.param == param
        assert "prisoner" not in str(error.value)


def test_a_conversation_that_is_too_long_says_so(client: openai.OpenAI) -> None:
    long = [*TURNS[:2], said("assistant", "tag " * 200), said("user", "x")]
    for way in (whole, streamed):
        with pytest.raises(openai.BadRequestError, match="this base reads 128") as error:
            way(client, long)
        assert error.value.code == "context_length_exceeded"
        assert error.value.param == "messages"


# --- OpenAI's client for JavaScript --------------------------------------------------------------


def test_the_client_for_javascript(client: openai.OpenAI, serving: Serving) -> None:
    node = shutil.which("node")
    if node is None or not (NPM / "node_modules" / "openai").is_dir():
        pytest.skip("needs node and `make npm`")
    talk, alone = TURNS, [said("user", serving.question)]
    bodies: list[dict[str, Any]] = [
        {"messages": alone},
        {"messages": talk},
        {"messages": talk, **DRAWN, "seed": 9, "stop": ["comedy", "drama"]},
        {"messages": talk, "temperature": -1},
    ]
    done = subprocess.run(
        [node, NPM / "chat.mjs"],
        input=json.dumps([{"model": "proper", **body} for body in bodies]),
        capture_output=True,
        text=True,
        check=False,
        env=environment(BASE_URL=serving.base_url, TOKEN=serving.token),
    )
    assert done.returncode == 0, done.stderr
    *answers, refused = json.loads(done.stdout)
    for body, pair in zip(bodies, answers, strict=False):
        expected = whole(client, **body)
        assert pair == [expected, expected]
    error = {"error": "BadRequestError", "status": 400, "param": "temperature"}
    assert refused == [error, error]


# --- llm -----------------------------------------------------------------------------------------


def test_the_program_llm(client: openai.OpenAI, serving: Serving, tmp_path: Path) -> None:
    model = {"model_id": "mine", "model_name": "proper", "api_base": serving.base_url}
    models = yaml.safe_dump([{**model, "api_key_name": "mine"}])
    (tmp_path / "extra-openai-models.yaml").write_text(models)

    def asked(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", "prompt", *words, "--key", serving.token],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(LLM_USER_PATH=str(tmp_path), HOME=str(tmp_path)),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    talk = [said("user", "a clever prisoner digs a tunnel")]
    answer = asked("-m", "mine", talk[0]["content"])
    assert answer == whole(client, talk)["text"]
    for question, stream in (("and another film", "--no-stream"), ("and a cell", "")):
        talk += [said("assistant", answer), said("user", question)]
        answer = asked("-m", "mine", "-c", question, *stream.split())
        assert answer == whole(client, talk)["text"]
    talk = [said("system", "a system text"), said("user", "a clever prisoner")]
    system = ["-m", "mine", "-s", "a system text", "a clever prisoner"]
    assert asked(*system) == whole(client, talk)["text"]
    options = [word for name, value in DRAWN.items() for word in ("-o", name, str(value))]
    drawn = asked(*system, "--no-stream", *options, "-o", "seed", "3")
    assert drawn == whole(client, talk, **DRAWN, seed=3)["text"]


# --- the local page ------------------------------------------------------------------------------

LONG_S = 300.0  # of an answer on a busy machine


def last_answer(page: Page) -> tuple[str, list[str]]:
    """Its text and what the page says of it."""
    found = page.run(
        "(() => { const e = document.querySelector('.message:last-child'); return"
        " [e.querySelector('.text').textContent, [...e.querySelectorAll('.after')].map(n => n.textContent)]; })()"
    )
    return found[0], found[1]


def test_the_page_holds_a_conversation(
    browser: Browser, client: openai.OpenAI, serving: Serving
) -> None:
    task = "Asked in the wording of its training."
    chat = "Asked as a conversation, which is not the wording of its training."
    page = Page(browser)
    page.go(f"{serving.base_url.removesuffix('/v1')}/#token={serving.token}")
    page.wait(CONNECTED, LONG_S)
    page.click("#chat-more summary")
    page.click("#chat-together")  # not at first: this task has labels

    talk: list[dict[str, str]] = []
    for question, wording in ((serving.question, task), ("and a silent cell", chat)):
        talk.append(said("user", question))
        ask(page, question, LONG_S)
        expected = whole(client, talk)
        text, notes = last_answer(page)
        assert text == expected["text"]
        assert notes[-1] == wording
        assert ("Cut at the length limit." in notes) == (expected["reason"] == "length")
        talk.append(said("assistant", text))

    page.click("#chat-new")
    page.type("#chat-system", "answer with a tag")
    ask(page, talk[0]["content"], LONG_S)
    alone = whole(client, [said("system", "answer with a tag"), talk[0]])["text"]
    assert last_answer(page)[0] == alone
    assert last_answer(page)[1][-1] == chat

    page.type("#chat-temperature", "2")
    drawn = set()
    for _ in range(3):  # the likeliest again would be a rare draw
        page.click("#chat-new")
        ask(page, talk[0]["content"], LONG_S)
        assert page.run("document.querySelector('#problem').hidden"), page.text("#problem")
        drawn.add(last_answer(page)[0])
    assert len(drawn) > 1
    ask(page, "tag " * 200, LONG_S)
    assert "longer than your model reads" in page.text("#problem")
    page.close()
