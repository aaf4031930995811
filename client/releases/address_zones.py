"""How near an address is: on the internet, in a network of one's own, or this machine itself.

A server on the internet must not make this program talk to what only this machine or its network
can reach. So a redirect may lead outwards, never inwards, whatever the address looks like: `127.1`,
`0x7f000001`, `[::ffff:127.0.0.1]`, `localhost.` and `[64:ff9b::7f00:1]` are all this machine. Sources:
RFC 6890 (special-purpose addresses), RFC 6052 (NAT64), RFC 3056 (6to4), RFC 6761 (localhost).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from enum import IntEnum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Zone(IntEnum):
    """From the outside in."""

    INTERNET = 0
    NETWORK = 1
    MACHINE = 2


# What inet_aton takes: one to four numbers, decimal, octal or hexadecimal.
_NUMBERS = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]*|[0-9]+)){0,3}")
_OWN_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}
)
# Addresses of IPv6 that carry one of IPv4 in their last bytes: translated ones, and the compatible
# ones that nothing should use any more.
_CARRIERS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
# Of no server on the internet, though `is_global` of some versions of Python says so: of protocols,
# of relays that are no more (RFC 7526), of documents (RFC 9637).
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(one)
    for one in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16", "100:0:0:1::/64")
)


def literal(host: str) -> Address | None:
    """The address that a host is in any of the spellings that the system takes; None for a name."""
    bare = host.removesuffix(".")
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    if _NUMBERS.fullmatch(bare) is None:
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare))
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
    public = address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_link_local
    )
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        public = False
    if any(address in network for network in _NOT_GLOBAL):
        public = False
    return Zone.INTERNET if public else Zone.NETWORK


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
