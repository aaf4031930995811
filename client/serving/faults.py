"""A request's body as a checked value, and what a request gets instead of an answer.

A body passes its size first, then JSON, then the schema. pydantic's parser refuses deep nesting,
half surrogates and NaN by itself. Errors name fields of the schema and positions in lists, never a
name or value that was sent, and have the form of OpenAI's error object.
Source: OpenAI's API reference, error object `{"error": {message, type, param, code}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from proper_model.errors import BusyError, ConfigError, DataError, NotAdaptedError

MAX_BODY_BYTES = 1 << 20
INVALID = "invalid_request_error"
_Model = TypeVar("_Model", bound=BaseModel)


class RequestError(Exception):
    """A request was refused. No ProperError: it ends as a response, never as an exit code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers
        self._told = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return {"error": self._told}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def refusal_of(error: Exception) -> RequestError:
    """What may be told of an exception.

    Errors about what was asked keep their message, which holds no text by their contract; of all
    others, which may quote a prompt or a private path, only the type is told.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        return RequestError(error.status_code, error.detail, headers=error.headers)
    if isinstance(error, ConfigError | DataError | BusyError | NotAdaptedError):
        status = 400 if isinstance(error, ConfigError | DataError) else 409
        return RequestError(
            status, f"{error.message}; {error.hint}" if error.hint else error.message
        )
    return RequestError(500, f"internal error ({type(error).__name__})", kind="server_error")


class Body(BaseModel):
    """A request's body: no conversion of types, no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


async def read_body(request: Request) -> bytes:
    """The body, at most MAX_BODY_BYTES. Raises RequestError beyond, or for another content type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "expected Content-Type: application/json")
    too_large = RequestError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    # A length that is no number was refused by the server below.
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise too_large
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise too_large
    return bytes(data)


def parse_body(model: type[_Model], data: bytes) -> _Model:
    """Raises RequestError with the field that is wrong."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        raise RequestError(
            400,
            "the body is not JSON in UTF-8, is nested too deeply, or has a number of thousands of digits",
        )
    name, *rest = first["loc"] or (None,)
    if name not in model.model_fields:
        name = None
    # A list's position tells which message; any further name may have been sent.
    place = f"{name}[{rest[0]}]" if name and rest and isinstance(rest[0], int) else name
    param = None if name is None else str(name)
    if first["type"] == "extra_forbidden":
        raise RequestError(400, f"an unknown field{f' in {place}' if place else ''}", param=param)
    if first["type"] == "missing" and rest:
        place = f"{place}: {rest[-1]}"
    told = first["msg"].removeprefix("Value error, ")  # pydantic's, before what our own checks say
    raise RequestError(400, f"{place or 'body'}: {told}", param=param)
