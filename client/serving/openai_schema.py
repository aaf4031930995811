"""Requests of OpenAI's completion endpoints, reduced to what decoding of one answer can honour.

A field that would change the answer and cannot be honoured is an error, never ignored; a field that
cannot change it (`user`, a `seed` or `top_p` under greedy decoding) is let through. Without a
temperature, decoding is greedy: DEVIATION from OpenAI, whose default is 1, because a personal model
whose answers are labels and scores is asked for its most probable one.
Source: OpenAI's API reference, "Create completion" and "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from client.serving.faults import Body, RequestError
from client.serving.session import Manner
from proper_model.answering import SEEDS
from proper_model.errors import ConfigError
from proper_model.text import ChatMessage, Role, in_order

# Accepted with one of these values (or null), which say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
# Cannot change the answer.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "parallel_tool_calls", "prompt_cache_key"}
    | {"safety_identifier", "service_tier"}
)
MOST_STOPS = 4
MOST_STOP_LETTERS = 500  # each is looked for after every token
MOST_MESSAGES = 5000
# OpenAI's newer name for the same.
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
# Of OpenAI's further fields these are named in the error; any other name is not repeated.
REFUSED = frozenset(
    {"audio", "prediction", "reasoning_effort", "verbosity", "web_search_options", "moderation"}
)


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class SentMessage(Body):
    """A message; what an answer of ours holds beside its text may come back with it, empty.

    `metadata` and `options` are what front ends (Gradio's) keep with a message to show it; they are
    let through and reach no model.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    refusal: Any = None
    audio: Any = None
    annotations: Any = None
    function_call: Any = None
    tool_calls: Any = None
    metadata: Any = None
    options: Any = None

    @field_validator("role", mode="before")
    @classmethod
    def _known_role(cls, value: object) -> object:
        if value not in ROLES if isinstance(value, str) else True:
            names = ", ".join(ROLES)
            raise ValueError(f"role: expected one of {names}")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        parts = value if isinstance(value, list) else []
        if not isinstance(value, str) and not (
            parts and all(isinstance(one, dict) and one.get("type") == "text" for one in parts)
        ):
            raise ValueError(
                "content: expected text, or a list of parts of type text; images, audio and files "
                "are not supported",
            )
        return value

    @field_validator("refusal", "audio", "annotations", "function_call", "tool_calls")
    @classmethod
    def _empty(cls, value: object, info: ValidationInfo) -> object:
        if value not in (None, []):
            raise ValueError(f"{info.field_name}: not supported")
        return value

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class _Request(BaseModel):
    """Fields of both endpoints; the others are judged by `check_others`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=SEEDS.start, lt=SEEDS.stop)] | None = None
    stop: tuple[str, ...] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _few_texts(cls, value: object) -> object:
        stops = [value] if isinstance(value, str) else value
        if stops is not None and not (
            isinstance(stops, list)
            and len(stops) <= MOST_STOPS
            and all(isinstance(one, str) and 0 < len(one) <= MOST_STOP_LETTERS for one in stops)
        ):
            raise ValueError(
                f"expected a text, or a list of at most {MOST_STOPS}, each of 1 to "
                f"{MOST_STOP_LETTERS} characters"
            )
        return None if stops is None else tuple(stops)


class CompletionRequest(_Request):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


class ChatRequest(_Request):
    messages: Annotated[list[SentMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class Asked:
    """What a request comes down to; `messages` are in order (`proper_model.text.in_order`)."""

    messages: tuple[ChatMessage, ...]
    model: str
    stage: str
    manner: Manner
    stream: bool
    include_usage: bool


def asked_by(request: CompletionRequest | ChatRequest, models: Mapping[str, str]) -> Asked:
    """Raises RequestError for what cannot be honoured; `models` maps names to stages."""
    _check_others(request.model_extra or {})
    if request.model not in models:
        names = ", ".join(models)
        raise RequestError(
            404, f"no such model; expected one of: {names}", param="model", code="model_not_found"
        )
    if request.stream_options is not None and not request.stream:
        raise RequestError(400, "stream_options: only with stream", param="stream_options")
    options = request.stream_options or StreamOptions()
    if isinstance(request, ChatRequest):
        messages, max_tokens = _conversation(request), _chat_limit(request)
    else:
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        messages, max_tokens = (ChatMessage("user", prompt),), request.max_tokens
    return Asked(
        messages=messages,
        model=request.model,
        stage=models[request.model],
        manner=_manner(request, max_tokens),
        stream=bool(request.stream),
        include_usage=bool(options.include_usage),
    )


def _conversation(request: ChatRequest) -> tuple[ChatMessage, ...]:
    try:
        return in_order([ChatMessage(ROLES[one.role], one.text) for one in request.messages])
    except ConfigError as error:
        raise RequestError(400, error.message, param="messages") from None


def _manner(request: _Request, max_tokens: int | None) -> Manner:
    return Manner(
        max_tokens=max_tokens,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=request.stop or (),
    )


def _chat_limit(request: ChatRequest) -> int | None:
    given = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(given) > 1:
        raise RequestError(
            400,
            "max_completion_tokens: differs from max_tokens; give one of them",
            param="max_completion_tokens",
        )
    return given.pop() if given else None


def _check_others(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if value is None or name in WITHOUT_EFFECT:
            continue
        if name in NEUTRAL:
            if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                raise RequestError(
                    400,
                    f"{name}: this value is not supported and would change the answer; "
                    f"leave it out, or send {json.dumps(NEUTRAL[name][0])}",
                    param=name,
                    code="unsupported_value",
                )
        elif name in REFUSED:
            raise RequestError(
                400, f"{name}: not supported", param=name, code="unsupported_parameter"
            )
        else:
            raise RequestError(400, "a field that is not known", code="unknown_parameter")


def _same(value: object, neutral: object) -> bool:
    """Equality in which true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral
