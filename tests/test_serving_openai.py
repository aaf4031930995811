"""The OpenAI side of `proper serve`: exact JSON, written by hand from OpenAI's API reference."""

from __future__ import annotations

import json

import httpx
import pytest
from serving import CREATED, FakeSession, running

from client.serving.openai_schema import NEUTRAL, REFUSED, WITHOUT_EFFECT
from client.serving.session import Manner
from proper_model.text import ChatMessage

TEXT = {"model": "proper", "prompt": "a b c"}
CHAT = {"model": "proper", "messages": [{"role": "user", "content": "a b c"}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.fixture(scope="module")
def session():
    return FakeSession()


@pytest.fixture(scope="module")
def client(session):
    with running(session) as server:
        yield server.client


@pytest.fixture(autouse=True)
def _forgotten_calls(session):
    session.calls.clear()


def events(response: httpx.Response) -> list:
    """The stream's events, decoded by the letter of the format: `data: X`, an empty line."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *blocks, end = response.text.split("\n\n")
    assert end == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def framed(name, kind, choice, **more):
    """What every object of an answer holds."""
    return {
        "id": f"{name}-x1",
        "object": kind,
        "created": CREATED,
        "model": "proper",
        "wording": "task",
        "choices": [{"index": 0, "logprobs": None, **choice}],
        **more,
    }


def test_completion(client, session) -> None:
    response = client.post("/v1/completions", json=TEXT)
    assert response.status_code == 200
    choice = {"text": "3: a b c", "finish_reason": "stop"}
    assert response.json() == framed("cmpl", "text_completion", choice, usage=USAGE)
    assert session.named("generate") == [("generate", "a b c", "3", None)]


def test_chat_completion(client) -> None:
    message = {"role": "assistant", "content": "3: a b c", "refusal": None}
    choice = {"message": message, "finish_reason": "stop"}
    response = client.post("/v1/chat/completions", json=CHAT)
    assert response.json() == framed("chatcmpl", "chat.completion", choice, usage=USAGE)


def test_streamed_completion(client) -> None:
    def chunk(text, reason=None):
        return framed("cmpl", "text_completion", {"text": text, "finish_reason": reason})

    got = events(client.post("/v1/completions", json={**TEXT, "stream": True}))
    assert got == [chunk("3:"), chunk(" a"), chunk(" b"), chunk(" c"), chunk("", "stop")]


def test_streamed_chat_with_usage(client) -> None:
    def chunk(delta, reason=None):
        choice = {"delta": delta, "finish_reason": reason}
        return framed("chatcmpl", "chat.completion.chunk", choice, usage=None)

    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    assert events(client.post("/v1/chat/completions", json=body)) == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "3:"}),
        chunk({"content": " a"}),
        chunk({"content": " b"}),
        chunk({"content": " c"}),
        chunk({}, "stop"),
        {**chunk({}), "choices": [], "usage": USAGE},
    ]


def test_text_passes_unchanged_through_json_and_events(client) -> None:
    text = 'ä\n\ndata: [DONE]\n\n\u2028 <b>"\\ \x00 \U0001f600'
    whole = client.post("/v1/completions", json={**TEXT, "prompt": text}).json()
    assert whole["choices"][0]["text"] == f"3: {text}"
    response = client.post("/v1/completions", json={**TEXT, "prompt": text, "stream": True})
    pieces = [event["choices"][0]["text"] for event in events(response)]
    assert "".join(pieces) == f"3: {text}"
    assert len(pieces) > 2


@pytest.mark.parametrize(("name", "stage"), [("proper-stage1", "1"), ("proper-stage2", "2")])
def test_the_model_name_chooses_the_stage(client, session, name, stage) -> None:
    whole = client.post("/v1/completions", json={**TEXT, "model": name}).json()
    assert (whole["model"], whole["choices"][0]["text"]) == (name, f"{stage}: a b c")
    assert session.named("generate")[0][2] == stage


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {**TEXT, "max_tokens": 2}),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 2}),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 2}),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 2, "max_tokens": 2}),
    ],
)
def test_max_tokens(client, path, body) -> None:
    whole = client.post(path, json=body).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_forms_of_a_prompt(client) -> None:
    parts = [{"type": "text", "text": "a b"}, {"type": "text", "text": " c"}]
    body = {**CHAT, "messages": [{"role": "user", "content": parts}]}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == "3: a b c"
    whole = client.post("/v1/completions", json={**TEXT, "prompt": ["a b c"]}).json()
    assert whole["choices"][0]["text"] == "3: a b c"


def test_models(client) -> None:
    def model(name):
        return {"id": name, "object": "model", "created": CREATED, "owned_by": "proper"}

    assert client.get("/v1/models").json() == {
        "object": "list",
        "data": [model("proper"), model("proper-stage2"), model("proper-stage1")],
    }


def test_what_changes_nothing_is_accepted(client, session) -> None:
    neutral = {name: value for name, values in NEUTRAL.items() for value in values}
    without = dict.fromkeys(WITHOUT_EFFECT, 0.5)
    nulls = dict.fromkeys(REFUSED)
    whole = client.post("/v1/completions", json={**TEXT, **neutral, **without, **nulls})
    assert whole.json()["choices"][0]["text"] == "3: a b c"


WRONG = {
    "temperature": [-1, 3, "a", False, "0"],
    "top_p": [0, 2, -0.5, "1", True],
    "seed": ["7", 1.5, True, 2**63],
    "stop": ["", [""], ["a", ""], list("abcde"), 3, [3], {"a": 1}, ["a", "b" * 501]],
    "n": [2, True],
    "best_of": [3],
    "echo": [True],
    "logprobs": [1, True, 0],
    "suffix": ["x"],
    "logit_bias": [{"5": 100}],
    "presence_penalty": [0.1],
    "frequency_penalty": [-1],
    "tools": [[{"type": "function"}]],
    "response_format": [{"type": "json_object"}],
    "max_tokens": [0, -1, 1.5, "3", True],
    "stream": ["yes", 1],
    "model": [3, None],
    "prompt": [None, 3, [], ["a", "b"], [1, 2], {"a": 1}],
    "reasoning_effort": ["low"],
    "stream_options": [{"include_usage": True}],
}


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_what_would_change_the_answer_is_refused(client, session, field, value) -> None:
    response = client.post("/v1/completions", json={**TEXT, field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert field in error["message"]
    assert session.calls == []


@pytest.mark.parametrize("field", ["temperature", "top_p", "seed", "max_tokens", "n", "stop"])
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e309", "[1e309]", "9" * 5000])
def test_numbers_that_are_none_are_refused(client, session, field, value) -> None:
    """As bytes: Python writes some of them in its own way, and JSON knows none of them."""
    body = f'{json.dumps(TEXT)[:-1]}, "{field}": {value}}}'
    headers = {"content-type": "application/json"}
    response = client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    digits = len(value) > 100  # then the parser itself gives up
    assert error["param"] == (None if digits else field)
    assert ("digits" if digits else field) in error["message"]
    assert "9" not in error["message"]
    assert session.calls == []


def said(role, text):
    return {"role": role, "content": text}


HELLO = said("user", "hello")
PICTURE = {"type": "image_url", "image_url": {"url": "my secret"}}


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], "messages"),
        ("my secret", "messages"),
        ([HELLO, said("assistant", "my secret")] * 2500 + [HELLO], "messages"),
        (["my secret"], "messages[0]"),
        ([said("assistant", "my secret")], "messages"),
        ([said("system", "my secret")], "messages"),
        ([HELLO, said("assistant", "my secret")], "messages"),
        ([HELLO, said("system", "my secret")], "messages"),
        ([said("system", "x"), said("assistant", "my secret"), HELLO], "messages"),
        ([HELLO, said("tool", "my secret"), HELLO], "messages[1]: role"),
        ([said(["my secret"], "x")], "messages[0]: role"),
        ([said("user", [PICTURE])], "messages[0]: content"),
        ([said("user", [{"type": "text", "text": "x"}, PICTURE])], "messages[0]: content"),
        ([said("user", None)], "messages[0]: content"),
        ([said("user", [])], "messages[0]: content"),
        ([{"role": "user"}], "messages[0]: content"),
        ([{**HELLO, "my secret": 1}], "messages[0]"),
        ([HELLO, {**said("assistant", "x"), "tool_calls": ["my secret"]}, HELLO], "messages[1]"),
    ],
)
def test_a_wrong_conversation_is_refused_by_its_place(client, session, messages, place) -> None:
    response = client.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "messages"
    assert place in error["message"]
    assert "secret" not in response.text
    assert session.calls == []


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([HELLO], "user:hello"),
        ([said("system", "s"), HELLO], "system:s|user:hello"),
        ([said("system", ""), HELLO], "user:hello"),
        ([said("developer", "s"), said("system", "t"), HELLO], "system:s\n\nt|user:hello"),
        (
            [HELLO, said("assistant", "a"), said("user", "b")],
            "user:hello|assistant:a|user:b",
        ),
        (
            [HELLO, said("assistant", "a"), said("system", "s"), said("user", "b")],
            "user:hello|assistant:a|user:s\n\nb",
        ),
        ([HELLO, said("user", "b")], "user:hello\n\nb"),
    ],
)
def test_conversations_come_in_the_order_that_templates_take(
    client, session, messages, expected
) -> None:
    body = {**CHAT, "messages": messages}
    whole = client.post("/v1/chat/completions", json=body).json()
    found, _ = session.asked[-1]
    assert "|".join(f"{one.role}:{one.text}" for one in found) == expected
    assert whole["wording"] == ("task" if len(found) == 1 else "chat")
    streamed = events(client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert {chunk["wording"] for chunk in streamed} == {whole["wording"]}


def test_an_answer_comes_back_as_it_was_sent(client, session) -> None:
    """What the message of an answer of ours and of OpenAI's holds beside its text is no obstacle."""
    answer = client.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]
    more = {"annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    more |= {"metadata": {"title": "x"}, "options": []}  # Gradio's
    messages = [*CHAT["messages"], {**answer, **more}, HELLO]
    assert client.post("/v1/chat/completions", json={**CHAT, "messages": messages}).is_success
    assert session.asked[-1][0][1] == ChatMessage("assistant", "3: a b c")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Manner()),
        ({"temperature": 0, "top_p": None, "seed": None, "stop": None}, Manner()),
        (
            {"temperature": 1, "top_p": 0.5, "seed": -7, "stop": "x", "max_tokens": 3},
            Manner(max_tokens=3, temperature=1.0, top_p=0.5, seed=-7, stop=("x",)),
        ),
        ({"temperature": 0.3, "stop": list("abcd")}, Manner(temperature=0.3, stop=tuple("abcd"))),
        ({"stop": []}, Manner()),
        ({"stop": "x" * 500}, Manner(stop=("x" * 500,))),
    ],
)
@pytest.mark.parametrize(("path", "body"), [("completions", TEXT), ("chat/completions", CHAT)])
def test_how_an_answer_is_made_is_handed_on(client, session, path, body, fields, expected) -> None:
    assert client.post(f"/v1/{path}", json={**body, **fields}).status_code == 200
    assert session.asked[-1][1] == expected


def test_two_different_limits_are_refused(client) -> None:
    body = {**CHAT, "max_tokens": 2, "max_completion_tokens": 3}
    assert client.post("/v1/chat/completions", json=body).status_code == 400


def test_an_unknown_model(client) -> None:
    response = client.post("/v1/completions", json={**TEXT, "model": "gpt-4"})
    assert response.status_code == 404
    assert response.json() == {
        "error": {
            "message": "no such model; expected one of: proper, proper-stage2, proper-stage1",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_unknown_field_is_refused_and_not_repeated(client) -> None:
    response = client.post("/v1/completions", json={**TEXT, "my secret": 1})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unknown_parameter"
    assert "secret" not in response.text
    body = {**TEXT, "stream": True, "stream_options": {"my secret": 1}}
    response = client.post("/v1/completions", json=body)
    assert response.json()["error"]["message"] == "an unknown field in stream_options"
