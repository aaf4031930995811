"""One file over HTTP, continued where an earlier transfer broke off.

The unfinished file is `NAME.part`; `NAME.part.json` beside it records the address, the total size
and the server's validator. A continuation asks for the rest with `Range` and `If-Range`; if the
server's file has changed, or the answer does not fit what is there, the transfer starts again.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from proper_model.errors import FetchError
from proper_model.files import storage_errors, write_atomic

Progress = Callable[[str, int, int | None], None]
_BLOCK_BYTES = 1 << 16
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_RESUME_HINT = "run the same command again; it goes on where this transfer ended"


@dataclass(frozen=True)
class _Origin:
    """What the unfinished file is a part of. `validator` is an ETag or a date, '' if none."""

    url: str
    total: int | None
    validator: str


class _BrokenError(Exception):
    """The transfer ended early; what came is kept."""


class _StaleError(_BrokenError):
    """What came earlier is no part of the server's file; it is discarded."""


def download(
    url: str,
    target: Path,
    *,
    progress: Progress | None = None,
    attempts: int = 3,
    timeout_s: float = 60.0,
    pause_s: float = 1.0,
) -> Path:
    """Fetch `url` completely into `target`'s `.part` file and return that file's path.

    The caller checks the content and renames. Raises FetchError if the server refuses, or if the
    transfer breaks `attempts` times, StorageError if the file cannot be written.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FetchError(f"{target.name}: only http and https addresses are fetched")
    part = target.with_name(target.name + ".part")
    reason = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause_s * attempt)
        try:
            _transfer(url, part, target.name, progress, timeout_s)
        except _BrokenError as error:
            reason = str(error)
        else:
            _origin_file(part).unlink(missing_ok=True)
            return part
    raise FetchError(
        f"{target.name}: the transfer failed {attempts} times, last: {reason}", hint=_RESUME_HINT
    )


def _transfer(url: str, part: Path, name: str, progress: Progress | None, timeout_s: float) -> None:
    origin = _read_origin(part, url)
    have = part.stat().st_size if origin is not None else 0
    if origin is not None and origin.total == have:
        return
    headers = {"User-Agent": "proper-sim", "Accept-Encoding": "identity"}
    if origin is not None and have:
        headers["Range"] = f"bytes={have}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - scheme checked above
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
            start, total = _accepted(response.status, response.headers, have, origin)
            validator = _validator(response.headers)
            if start == 0:
                content = json.dumps(asdict(_Origin(url, total, validator)))
                with storage_errors(part):
                    part.unlink(missing_ok=True)
                    write_atomic(_origin_file(part), content.encode())
            _receive(response, part, start, total, name, progress)
    except _StaleError:
        part.unlink(missing_ok=True)
        raise
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _BrokenError("the unfinished file is not a part of the server's") from error
        if error.code >= 500:
            raise _BrokenError(f"the server answered {error.code}") from error
        raise FetchError(
            f"{name}: the server answered {error.code}", hint="check task, split and base URL"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"connection lost ({type(error).__name__})") from error


def _accepted(
    status: int, headers: Mapping[str, str], have: int, origin: _Origin | None
) -> tuple[int, int | None]:
    """First byte and total size of what the server is about to send."""
    if status == 206 and origin is not None and have:
        match = _RANGE.fullmatch(headers.get("Content-Range") or "")
        if match is not None:
            start, _, total = (int(number) for number in match.groups())
            if start == have and origin.total in (None, total):
                return start, total
        raise _StaleError("the server sent another range than asked for")
    length = headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _receive(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    name: str,
    progress: Progress | None,
) -> None:
    done = start
    # A full disk is no lost connection: what the transfer raises has its own name in here.
    with storage_errors(part), part.open("ab") as file:
        while block := _next_block(response):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(name, done, total)
    if total is not None and done != total:
        raise _BrokenError(f"{done} of {total} bytes came")


def _next_block(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"connection lost ({type(error).__name__})") from error


def _validator(headers: Mapping[str, str]) -> str:
    """A strong ETag, else the date; a weak ETag may not be used for ranges (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _origin_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_origin(part: Path, url: str) -> _Origin | None:
    """What `part` belongs to, None if it cannot be continued."""
    try:
        origin = _Origin(**json.loads(_origin_file(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return origin if origin.url == url and part.is_file() else None
