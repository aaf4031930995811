"""Which web addresses files are taken from, and how an address is named in a message.

Only https, except for this machine itself. An address may hold a password or, after `?`, a token:
it goes with every request, but messages name the host alone. A person may name any server; a redirect
leads no further in than it came from, which is judged here by how the address is spelled and in
`client.releases.web_route` by what its name leads to.

A server on the internet must not make this program talk to what only this machine or its network can
reach: `127.1`, `0x7f000001`, `[::ffff:127.0.0.1]`, `localhost.` and `[64:ff9b::7f00:1]` are all this
machine. Sources: RFC 6890 (special-purpose addresses), RFC 6052 (NAT64), RFC 3056 (6to4), RFC 6761
(localhost).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from enum import IntEnum

import httpx

from proper_model.errors import ConfigError, FetchError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ADDRESS_6 = re.compile(r"[0-9a-f:.]{2,45}")
_NAME = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,15}")


def release_address(text: str, *, what: str = "release") -> httpx.URL:
    """The address of a release folder or bundle, or of `what` else a person asks for.

    Raises ConfigError, which does not repeat it, unless it is https or of this machine.
    """
    try:
        url = httpx.URL(text).copy_with(fragment=None)
    except _MALFORMED:
        url = httpx.URL()
    if not _is_whole(url) or not is_plain(url.host):
        raise ConfigError(
            f"the address of the {what} is malformed", hint="it looks like https://HOST/FOLDER"
        )
    if not _is_allowed(url):
        scheme = url.scheme if _SCHEME.fullmatch(url.scheme) else "something else"
        raise ConfigError(
            f"the address of the {what}: begins with {scheme}://, expected https://",
            hint=f"ask the publisher for an https address, or copy the {what} into a folder on "
            "this machine and give that folder",
        )
    return url


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

    Name and password stay with their own host, and nobody's redirect leads further in than itself:
    from the internet into a private network, or from anywhere else to this machine.

    Raises FetchError if it leaves https, leads further in, or is no address.
    """
    try:
        target = url.join(location).copy_with(fragment=None, username=None, password=None)
    except _MALFORMED:
        target = httpx.URL()
    if not location or not _is_whole(target) or target.scheme not in ("http", "https"):
        raise _not_https(url, name)
    came_from = zone_of_host(url.host) or Zone.INTERNET
    leads_to = zone_of_host(target.host) or Zone.INTERNET
    if leads_to > came_from:
        where = "this machine itself" if leads_to is Zone.MACHINE else "a private network"
        raise FetchError(
            f"{name}: {url.host}: redirects to {where}",
            hint="if the server there is yours, give its own address instead",
        )
    if not _is_allowed(target):
        raise _not_https(url, name)
    if _origin(target) == _origin(url) and url.userinfo:
        target = target.copy_with(username=url.username, password=url.password)
    return target


# What httpx and idna raise over an address, besides InvalidURL: ValueError and its kinds.
_MALFORMED = (httpx.InvalidURL, ValueError)


def _not_https(url: httpx.URL, name: str) -> FetchError:
    return FetchError(
        f"{name}: {url.host}: redirects to an address that is not an https one",
        hint="ask the publisher for the address that it leads to, if that is https",
    )


def _is_whole(url: httpx.URL) -> bool:
    """Whether it names a host and port that can be connected to."""
    try:
        raw = url.raw_host.decode("ascii").lower()
        host = url.host
    except _MALFORMED:  # a name in Punycode that is none, or brackets around what is no address
        return False
    form = _ADDRESS_6 if ":" in host else _NAME
    return form.fullmatch(raw) is not None and (url.port is None or 0 < url.port < 1 << 16)


def _is_allowed(url: httpx.URL) -> bool:
    return url.scheme == "https" or (url.scheme == "http" and url.host in _LOOPBACK)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Zone(IntEnum):
    """How near an address is; a larger number is nearer."""

    INTERNET = 0
    NETWORK = 1
    MACHINE = 2


# What inet_aton takes: one to four numbers, decimal, octal or hexadecimal.
_NUMBERS = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+)){0,3}")
_OWN_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}
)
# IPv6 addresses that carry an IPv4 one in their last bytes: translated, and the old compatible ones.
_CARRIERS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
# Of no server on the internet, though `is_global` of some versions of Python says so: for protocols,
# 6to4 relays (RFC 7526) and documentation (RFC 9637).
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16", "100:0:0:1::/64")
)


def literal(host: str) -> Address | None:
    """The address that a host is in any of the spellings that the system takes; None for a name."""
    plain = host.removesuffix(".")
    try:
        return ipaddress.ip_address(plain)
    except ValueError:
        pass
    if _NUMBERS.fullmatch(plain) is None:
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(plain))
    except (OSError, ValueError):
        return None


def is_plain(host: str) -> bool:
    """Whether a host is a name, or an address as it is usually written."""
    address = literal(host)
    return address is None or str(address) == host.lower() or address.version == 6


def zone_of(address: Address) -> Zone:
    """The zone of an address; of the one that it carries, if it carries one."""
    if address.is_loopback or address.is_unspecified:
        return Zone.MACHINE
    if isinstance(address, ipaddress.IPv6Address):
        carried = _carried(address)
        if carried:
            return max(zone_of(inner) for inner in carried)
    elif address in _THIS_NETWORK:
        return Zone.MACHINE
    near = (
        not address.is_global
        or address.is_multicast
        or address.is_reserved
        or address.is_link_local
        or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
        or any(address in network for network in _NOT_GLOBAL)
    )
    return Zone.NETWORK if near else Zone.INTERNET


def zone_of_host(host: str) -> Zone | None:
    """The zone of a host as far as its spelling tells; None for a name that is to be looked up."""
    name = host.removesuffix(".").lower()
    if name in _OWN_NAMES or name.endswith(".localhost"):
        return Zone.MACHINE
    address = literal(host)
    return None if address is None else zone_of(address)


def _carried(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Addresses of IPv4 in one of IPv6: mapped, 6to4, Teredo, translated, compatible."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _CARRIERS):
        found.append(ipaddress.IPv4Address(address.packed[-4:]))
    return [inner for inner in found if inner is not None]
