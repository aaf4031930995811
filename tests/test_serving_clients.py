"""Clients that people use, against a real `proper serve`: OpenAI's in Python and JavaScript, and `llm`.

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


def turns(question: str) -> list[dict[str, str]]:
    """A conversation with everything that clients send."""
    return [
        said("system", "answer with a tag"),
        said("user", question),
        said("assistant", "comedy"),
        said("user", f"and {question}"),
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
def test_a_conversation_whole_and_streamed(
    client: openai.OpenAI, serving: Serving, fields: dict[str, Any]
) -> None:
    found = whole(client, turns(serving.question), **fields)
    assert found["wording"] == "chat"
    assert found["tokens"] <= fields.get("max_completion_tokens", 128)
    assert found["text"]
    assert streamed(client, turns(serving.question), **fields) == found


def test_a_seed_is_a_text(client: openai.OpenAI, serving: Serving) -> None:
    for messages in (turns(serving.question), [said("user", serving.question)]):
        texts = [whole(client, messages, **DRAWN, seed=seed)["text"] for seed in (*range(6), 0)]
        assert texts[0] == texts[-1]
        assert len(set(texts)) > 1
    prompt = {"model": "proper", "prompt": serving.question, **DRAWN}
    pair = [client.completions.create(**prompt, seed=4).choices[0].text for _ in range(2)]
    assert pair[0] == pair[1]


def test_a_stop_text_cuts_whole_and_streamed_answers_alike(
    client: openai.OpenAI, serving: Serving
) -> None:
    """Also where it goes over several pieces: the tiny base makes a word at a time."""
    fields = {**DRAWN, "seed": 5, "temperature": 2.0, "top_p": 1.0}
    text = whole(client, turns(serving.question), **fields)["text"]
    words = text.split(" ")
    assert len(words) > 4
    stop = f"{words[2]} {words[3][:2]}"
    expected = text[: text.index(stop)].strip()
    found = whole(client, turns(serving.question), **fields, stop=["no such text", stop])
    assert (found["text"], found["reason"]) == (expected, "stop")
    assert found["tokens"] < DRAWN["max_tokens"]
    assert streamed(client, turns(serving.question), **fields, stop=stop) == found


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"temperature": 3}, "temperature"), ({"stop": list("abcde")}, "stop"), ({"n": 2}, "n")]
    + [({"tools": [{"type": "function"}]}, "tools"), ({"logprobs": True}, "logprobs")],
)
def test_what_cannot_be_honoured_is_an_error_of_the_client(
    client: openai.OpenAI, serving: Serving, fields: dict[str, Any], param: str
) -> None:
    for ask in (whole, streamed):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, turns(serving.question), **fields)
        assert error.value.param == param
        assert serving.question not in str(error.value)


def test_a_conversation_that_is_too_long_says_so(client: openai.OpenAI, serving: Serving) -> None:
    long = [*turns(serving.question)[:2], said("assistant", "tag " * 200), said("user", "x")]
    for ask in (whole, streamed):
        with pytest.raises(openai.BadRequestError, match="this base reads 128") as error:
            ask(client, long)
        assert error.value.code == "context_length_exceeded"
        assert error.value.param == "messages"


# --- OpenAI's client for JavaScript --------------------------------------------------------------


def test_the_client_for_javascript(client: openai.OpenAI, serving: Serving) -> None:
    node = shutil.which("node")
    if node is None or not (NPM / "node_modules" / "openai").is_dir():
        pytest.skip("needs node and `make npm`")
    talk, alone = turns(serving.question), [said("user", serving.question)]
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


@pytest.mark.parametrize("stream", [[], ["--no-stream"]])
def test_the_program_llm(
    client: openai.OpenAI, serving: Serving, tmp_path: Path, stream: list[str]
) -> None:
    models = [{"model_id": "mine", "model_name": "proper", "api_base": serving.base_url}]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))

    def asked(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", "prompt", *words, *stream, "--key", serving.token],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(LLM_USER_PATH=str(tmp_path), HOME=str(tmp_path)),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    question = serving.question
    first = asked("-m", "mine", question)
    assert first == whole(client, [said("user", question)])["text"]
    second = asked("-m", "mine", "-c", "and another film")
    talk = [said("user", question), said("assistant", first), said("user", "and another film")]
    assert second == whole(client, talk)["text"]
    advised = asked("-m", "mine", "-s", "a system text", question)
    talk = [said("system", "a system text"), said("user", question)]
    assert advised == whole(client, talk)["text"]
    options = [word for name, value in DRAWN.items() for word in ("-o", name, str(value))]
    drawn = asked("-m", "mine", *options, "-o", "seed", "3", question)
    assert drawn == whole(client, [said("user", question)], **DRAWN, seed=3)["text"]
