"""Bytes of a request to a checked value: size first, then JSON, then the schema.

pydantic's parser refuses deep nesting, half surrogates and NaN by itself. Errors name fields of the
schema and positions in lists, never a name or value that was sent.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from client.serving.faults import RequestError

MAX_BODY_BYTES = 1 << 20

_Model = TypeVar("_Model", bound=BaseModel)


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
        raise RequestError(400, "the body is not JSON in UTF-8, or is nested too deeply")
    where = first["loc"]
    name = str(where[0]) if where and where[0] in model.model_fields else None
    if first["type"] == "extra_forbidden":
        place = f" in {name}" if name else ""
        raise RequestError(400, f"an unknown field{place}", param=name)
    raise RequestError(400, f"{name or 'body'}: {first['msg']}", param=name)
