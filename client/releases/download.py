"""Files over HTTP: bounded in size and time, continued where a transfer broke off.

A continuation asks for the rest with `Range` and `If-Range` (RFC 9110, 13.1.5 and 14.2); a server
that has another file by now, or knows no ranges, sends the whole and the file starts again. A request
tells the server the address and that this is PROPER: no cookie, no referrer, no language. Proxies and
certificates of the environment count (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE).
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import NoReturn

import httpx

from client.releases.partial_file import PartialFile
from client.releases.web_address import below, redirected, release_address
from client.releases.web_route import Route, tls_context
from proper_model.errors import FetchError
from proper_model.progress import Progress

_HEADERS = {
    "User-Agent": "proper",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
}
_MAX_REDIRECTS = 5
_QUIET_BYTES = 1 << 20  # smaller files show no progress
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})  # and 5xx: worth another attempt
_AGAIN = "repeat the command: it goes on where this transfer ended"


@dataclass(frozen=True)
class Patience:
    """When a transfer is given up.

    Attributes:
        attempts: for one file, the first one included.
        pause_s: before the second attempt; twice as long before every further one.
        answer_s: for connecting, all redirects and the head of the answer.
        window_s, window_bytes: so many bytes must come in every so many seconds.
    """

    attempts: int = 3
    pause_s: float = 1.0
    answer_s: float = 60.0
    window_s: float = 60.0
    window_bytes: int = 64 * 1024


class StatusError(FetchError):
    """The server answered, but with no file. `status` is HTTP's."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class _BrokenError(Exception):
    """The attempt failed; another one may not. The text quotes no address."""


def download(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    what: str,
    progress: Progress,
    patience: Patience = Patience(),
) -> Path:
    """One file of any size, kept as `target`'s `.part` file, whose path is returned.

    The caller checks the content and renames. `what` says in messages what is asked for. Progress is
    shown from the first byte on. Raises as `WebSource`.
    """
    address = release_address(url, what=what)
    file = target.name + ".part"
    partial = PartialFile(target.parent, str(address), target.name, max_bytes, file=file)
    context = tls_context()
    _complete(_Transfer(address, partial, context, progress, patience, quiet_bytes=0))
    if partial.is_full:
        partial.discard()
        raise FetchError(f"{target.name}: {address.host}: sends more than {max_bytes} bytes")
    return partial.settle()


class WebSource:
    """Files below a release's address; implements `client.releases.place.Holding`.

    A file comes with at most one byte more than was asked for. Raises FetchError if it cannot be had
    (StatusError if the server says so), StorageError if `cache` cannot be written, stating the bytes
    needed. What came of an unfinished or held file stays there.

    `cache` is a private folder for unfinished files. `progress` is called with file name, bytes so
    far and bytes in all (0: unknown) of larger files.

    Raises ConfigError unless the address is https, or http on this machine, and where the environment
    names certificates that cannot be read.
    """

    def __init__(
        self, url: str, cache: Path, progress: Progress, patience: Patience = Patience()
    ) -> None:
        self._base, self._cache = release_address(url), cache
        self._progress, self._patience = progress, patience
        self._context = tls_context()
        self._held: dict[str, PartialFile] = {}

    def __call__(self, name: str, max_bytes: int) -> bytes:
        data = self.hold(name, max_bytes)
        self.drop(name)
        return data

    def hold(self, name: str, max_bytes: int) -> bytes:
        address = below(self._base, name)
        partial = PartialFile(self._cache, str(address), name, max_bytes)
        _complete(_Transfer(address, partial, self._context, self._progress, self._patience))
        self._held[name] = partial
        return partial.read()

    def store(self, name: str, target: Path) -> bool:
        return name in self._held and self._held[name].store(target)

    def drop(self, name: str) -> None:
        if name in self._held:
            self._held.pop(name).discard()


def _complete(transfer: _Transfer) -> None:
    """All of a file into its partial file, in as many attempts as `patience` says."""
    # At lower levels both log addresses, and so tokens.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    attempts = transfer.patience.attempts
    reason = ""
    for attempt in range(attempts):
        if attempt:
            sleep(transfer.patience.pause_s * 2 ** (attempt - 1))
        try:
            asyncio.run(transfer.run())
        except _BrokenError as error:
            reason = str(error)
        else:
            return
    raise FetchError(f"{transfer.where}: {reason}; {attempts} attempts failed", hint=_AGAIN)


@dataclass
class _Transfer:
    """The transfer of one file from the server into its partial file."""

    address: httpx.URL
    partial: PartialFile
    context: ssl.SSLContext
    progress: Progress
    patience: Patience
    quiet_bytes: int = _QUIET_BYTES

    async def run(self) -> None:
        """One attempt. Raises _BrokenError if another one may do better, else FetchError."""
        if self.partial.size and self.partial.size == self.partial.total:
            return  # interrupted between the last byte and its use
        if not self.partial.validator:
            self.partial.discard()
        route = Route(self.context, self.partial.name)
        try:
            async with route:
                response = await self._answer(route)
                try:
                    self._begin(response)
                    await self._receive(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise _BrokenError("too slow") from None
        except httpx.HTTPError as error:
            self._explain(error, proxied=route.proxied)
        except OSError:  # a name that nobody knows
            raise _BrokenError("cannot be reached") from None

    async def _answer(self, route: Route) -> httpx.Response:
        """The head of the answer, after redirects."""
        headers = dict(_HEADERS)
        if self.partial.size:
            headers["Range"] = f"bytes={self.partial.size}-"
            headers["If-Range"] = self.partial.validator
        url = self.address
        async with asyncio.timeout(self.patience.answer_s):
            for _ in range(_MAX_REDIRECTS + 1):
                response = await route.get(url, headers)
                if response.status_code not in _REDIRECTS:
                    return response
                await response.aclose()
                url = redirected(url, response.headers.get("Location", ""), self.partial.name)
        raise FetchError(f"{self.where}: more than {_MAX_REDIRECTS} redirects")

    def _begin(self, response: httpx.Response) -> None:
        """Decide whether the body continues the file or starts it again. Raises where it does neither."""
        status, headers = response.status_code, response.headers
        if status == 206 and self.partial.size:
            match = _RANGE.fullmatch(headers.get("Content-Range", ""))
            found = (int(match[1]), int(match[3])) if match is not None else None
            if found is None or found != (self.partial.size, self.partial.total or found[1]):
                self.partial.discard()
                raise _BrokenError("it sent another part than asked for")
        elif status == 200:
            if headers.get("Content-Encoding", "identity") != "identity":
                raise FetchError(
                    f"{self.where}: sends the file compressed, expected it as it is",
                    hint="tell the publisher; releases must be served without Content-Encoding",
                )
            length = headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() and len(length) < 20 else None
            self.partial.restart(_validator(headers), total)
        elif status == 416:
            self.partial.discard()
            raise _BrokenError("its file is shorter than the part that came before")
        elif status in _PASSING or status >= 500:
            raise _BrokenError(f"answered {status}")
        else:
            raise StatusError(
                f"{self.where}: answered {status}", status, hint=_STATUS_HINTS.get(status, _CHECK)
            )

    async def _receive(self, response: httpx.Response) -> None:
        """Append the body; at least `window_bytes` must come in every `window_s`."""
        partial, patience = self.partial, self.patience
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(patience.window_s) as window:
            came = 0
            async for chunk in response.aiter_raw():
                partial.add(chunk)
                if (partial.total or partial.size) >= self.quiet_bytes:
                    self.progress(partial.name, partial.size, partial.total or 0)
                came += len(chunk)
                if came >= patience.window_bytes:
                    window.reschedule(loop.time() + patience.window_s)
                    came = 0
                if partial.is_full:
                    return
        if partial.total is not None and partial.size != partial.total:
            raise _BrokenError(f"{partial.size} of {partial.total} bytes came")

    @property
    def where(self) -> str:
        """File and host, for messages."""
        return f"{self.partial.name}: {self.address.host}"

    def _explain(self, error: httpx.HTTPError, *, proxied: bool) -> NoReturn:
        """Raise what a library's error means; its own text may quote the address."""
        if isinstance(error, httpx.ConnectError):
            tls = _tls_error(error)
            if tls is None:
                by = " through the proxy of the environment" if proxied else ""
                raise _BrokenError(f"cannot be reached{by}") from None
            raise FetchError(f"{self.where}: {tls}", hint=_TLS_HINT) from None
        if isinstance(error, httpx.ProxyError):
            raise _BrokenError("the proxy that the environment names refuses") from None
        raise _BrokenError("the connection broke") from None


_TLS_HINT = (
    "check this machine's clock and the address; behind a company's proxy set SSL_CERT_FILE to its "
    "certificates"
)
_CHECK = "check the address: it is the one of the folder that holds manifest.json or latest.json"
_DENIED = "the address needs a right to read it; ask the publisher for one that works"
_STATUS_HINTS = {401: _DENIED, 403: _DENIED, 407: "the proxy needs a name and a password"}


def _tls_error(error: BaseException) -> str | None:
    """Why no secure connection was made, in words; None if that was not the reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return "no secure connection comes about"
        cause = cause.__cause__ or cause.__context__
    return None


def _validator(headers: httpx.Headers) -> str:
    """A strong ETag, else the date; a weak ETag may not be used for ranges (RFC 9110, 13.1.5)."""
    etag = str(headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))
