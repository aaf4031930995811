"""Checks of every request before anything else of it is read, and the headers of every response.

Only this machine's browser at this address (Host, Origin: against DNS rebinding and other sites'
pages), only with the token (all but the page's own files), nothing cached, nothing embedded,
nothing loaded from elsewhere. Source: docs/security.md 2; OWASP, "DNS rebinding" and "CSP" cheat sheets.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.serving.faults import RequestError, refusal_of
from client.serving.tokens import carries_token

# Where a scope's state holds a function to call for a request with the token, which says whether its
# connection may go on; see `connections`.
TOKEN_SHOWN = "proper.token_shown"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
CONTENT_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "frame-ancestors 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    # Markup made from text by a script is refused by the browser itself.
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(CONTENT_POLICY),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI application around another one; `open_paths` need no token and take only GET."""

    def __init__(self, app: ASGIApp, *, token: str, port: int, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(f"{host}:{port}" for host in HOSTS)
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is served")
        started = False

        async def send_secured(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, receive, send_secured)
        except asyncio.CancelledError:
            # The server below would answer by itself, without our headers.
            if not started:
                refusal = RequestError(503, "the server is stopping", kind="server_error")
                await refusal.response()(scope, receive, send_secured)
            raise
        except Exception as error:  # noqa: BLE001 - the server below would log it with its text
            # Once a response has begun, ending here makes the server cut the connection.
            if not started:
                await refusal_of(error).response()(scope, receive, send_secured)

    def _admit(self, scope: Scope) -> None:
        """Raise RequestError for a request that is not from this address or lacks the token."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or host not in self._hosts:
            raise RequestError(403, "the Host header does not name this server", code="wrong_host")
        if any(origin.lower() != f"http://{host}" for origin in headers.getlist("origin")):
            raise RequestError(403, "requests of other origins are refused", code="wrong_origin")
        if scope["path"] in self._open_paths and scope["method"] in ("GET", "HEAD"):
            return
        sent = headers.getlist("authorization")
        if len(sent) != 1 or not carries_token(sent[0].encode("latin-1"), self._token):
            raise RequestError(
                401,
                "a wrong or missing token; expected Authorization: Bearer TOKEN, "
                "with the token this server was started with",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if TOKEN_SHOWN in scope.get("state", {}) and not scope["state"][TOKEN_SHOWN]():
            raise RequestError(
                503,
                "too many connections with the token are open; close some, or try again later",
                kind="server_error",
                code="too_many_connections",
                headers={"Retry-After": "5", "Connection": "close"},
            )
