"""Requests of OpenAI's completion endpoints, reduced to what greedy decoding of one text can honour.

A field that would change the answer and cannot be honoured is an error, never ignored; a field that
cannot change it (`seed`, `user`, a `top_p` under greedy decoding) is let through.
Source: OpenAI's API reference, "Create completion" and "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from client.serving.faults import Body, RequestError

# Accepted with one of these values (or null), which say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "temperature": (0,),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "suffix": ("",),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
# Cannot change which text is the likeliest.
WITHOUT_EFFECT = frozenset(
    {"top_p", "seed", "user", "metadata", "parallel_tool_calls", "prompt_cache_key"}
    | {"safety_identifier", "service_tier"}
)
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


class ChatMessage(Body):
    role: str
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

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
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionRequest(_Request):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


class ChatRequest(_Request):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class Asked:
    """What a request comes down to."""

    prompt: str
    model: str
    stage: str
    max_tokens: int | None
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
        prompt, max_tokens = _only_message(request), _chat_limit(request)
    else:
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        max_tokens = request.max_tokens
    return Asked(
        prompt=prompt,
        model=request.model,
        stage=models[request.model],
        max_tokens=max_tokens,
        stream=bool(request.stream),
        include_usage=bool(options.include_usage),
    )


def _only_message(request: ChatRequest) -> str:
    """The models answer one input of their task at a time and never saw a dialogue in training."""
    (first, *others) = request.messages
    if others or first.role != "user":
        raise RequestError(
            400,
            "messages: expected exactly one message of role user; this model answers every "
            "message by itself, so earlier turns and instructions cannot be honoured",
            param="messages",
            code="unsupported_value",
        )
    return first.text


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
