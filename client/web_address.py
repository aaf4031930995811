"""Which web addresses releases are taken from, and how an address is named in a message.

Only https, except for this machine itself. An address may hold a password or, after `?`, a token:
it goes with every request, but messages name the host alone.
"""

from __future__ import annotations

import re

import httpx

from proper_model.errors import ConfigError, FetchError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")


def release_address(text: str) -> httpx.URL:
    """The address of a release folder or bundle.

    Raises ConfigError, which does not repeat it, unless it is https or of this machine.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if _HOST.fullmatch(url.raw_host) is None:
        raise ConfigError(
            "the address of the release is malformed", hint="it looks like https://HOST/FOLDER"
        )
    if not _is_allowed(url):
        raise ConfigError(
            f"the address of the release: begins with {url.scheme}://, expected https://",
            hint="ask the publisher for an https address, or copy the release into a folder on "
            "this machine and give that folder",
        )
    return url.copy_with(fragment=None)


def below(url: httpx.URL, name: str) -> httpx.URL:
    """The address of a file below a folder's; what stands after `?` stays."""
    path, mark, query = url.raw_path.partition(b"?")
    raw_path = path.rstrip(b"/") + b"/" + name.encode("ascii") + mark + query
    return url.copy_with(raw_path=raw_path)


def above(url: httpx.URL) -> httpx.URL:
    """The address of the folder that this one lies in."""
    path, mark, query = url.raw_path.partition(b"?")
    return url.copy_with(raw_path=path.rstrip(b"/").rpartition(b"/")[0] + b"/" + mark + query)


def redirected(url: httpx.URL, location: str, name: str) -> httpx.URL:
    """Where a server's redirect of the file `name` leads.

    Name and password stay with their own host, and nobody else's redirect leads to this machine.

    Raises FetchError if it leaves https, or leads to this machine.
    """
    try:
        target = url.join(location).copy_with(fragment=None, username=None, password=None)
    except (httpx.InvalidURL, ValueError):
        target = None
    came_from_here = url.host in LOOPBACK
    if target is None or not location or not _is_allowed(target):
        raise FetchError(
            f"{name}: {url.host}: redirects to an address that is not an https one",
            hint="ask the publisher for the address that it leads to, if that is https",
        )
    if target.host in LOOPBACK and not came_from_here:
        raise FetchError(f"{name}: {url.host}: redirects to this machine itself")
    if _origin(target) == _origin(url) and url.userinfo:
        target = target.copy_with(username=url.username, password=url.password)
    return target


def _is_allowed(url: httpx.URL) -> bool:
    if _HOST.fullmatch(url.raw_host) is None:
        return False
    return url.scheme == "https" or (url.scheme == "http" and url.host in LOOPBACK)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
