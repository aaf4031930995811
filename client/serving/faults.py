"""What a request gets instead of an answer: OpenAI's error object, never a person's text.

Source: OpenAI's API reference, error object `{"error": {message, type, param, code}}`.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from proper_model.errors import BusyError, ConfigError, DataError, NotAdaptedError, ProperError

INVALID = "invalid_request_error"
_TOLD: tuple[tuple[type[ProperError], int], ...] = (
    (ConfigError, 400),
    (DataError, 400),
    (BusyError, 409),
    (NotAdaptedError, 409),
)


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
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, object]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

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
    if isinstance(error, ProperError):
        for known, status in _TOLD:
            if isinstance(error, known):
                hint = f"; {error.hint}" if error.hint else ""
                return RequestError(status, error.message + hint)
    return RequestError(500, f"internal error ({type(error).__name__})", kind="server_error")
