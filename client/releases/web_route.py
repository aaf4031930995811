"""One request to where it may go: through the environment's proxy, or straight to a checked address.

A name is looked up here, and the connection goes to the very address that was checked, against DNS
rebinding. Where a proxy of the environment carries a request, the proxy looks the name up. Requests
go to httpx's transports, because its client reads redirects before it is asked to, and fails at some.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import urllib.request
from base64 import b64encode
from typing import Self

import httpx

from client.releases.web_address import Zone, zone_of, zone_of_host
from proper_model.errors import ConfigError, FetchError

_TLS_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
# With several addresses to try, one that does not answer must not use up the time of all.
_CONNECT_S = 10.0


def tls_context() -> ssl.SSLContext:
    """What servers are verified by. Raises ConfigError if the environment names what cannot be."""
    try:
        return httpx.create_ssl_context()
    except OSError:  # of which SSLError is one
        named = [name for name in _TLS_VARIABLES if os.environ.get(name)]
        raise ConfigError(
            f"{' or '.join(named) or 'the store of certificates'}: cannot be used for secure "
            "connections",
            hint="name a file of certificates in PEM form with SSL_CERT_FILE, or unset it",
        ) from None


class Route:
    """The requests of one transfer; none goes further into private networks than those before it.

    `name` is the file that messages tell of. Raises ConfigError if the environment names a proxy
    that cannot be used.
    """

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._name = name
        self.proxied = False  # whether the last request went through a proxy
        self._reach = Zone.MACHINE
        self._direct = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
        self._proxies = _environment_proxies(context)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in (self._direct, *self._proxies.values()):
            await transport.aclose()

    async def get(self, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        """The head of the answer; its body is still to be read. Redirects are not followed.

        Raises FetchError if the address lies further in than it may, OSError or httpx.HTTPError
        if it cannot be reached.
        """
        if url.userinfo:
            user = f"{url.username}:{url.password}".encode()
            headers = {**headers, "Authorization": f"Basic {b64encode(user).decode('ascii')}"}
        request = httpx.Request("GET", url.copy_with(username=None, password=None), headers=headers)
        proxy = self._proxy_for(url)
        self.proxied = proxy is not None
        if proxy is not None:
            self._reach = Zone.INTERNET
            return await proxy.handle_async_request(request)
        addresses = await self._addresses(url)
        for number, address in enumerate(addresses, start=1):
            try:
                response = await self._direct.handle_async_request(
                    _addressed(request, address, alone=len(addresses) == 1)
                )
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(addresses):
                    raise
            else:
                self._reach = min(self._reach, zone_of(ipaddress.ip_address(address)))
                return response
        raise AssertionError("there is an address to connect to")

    def _proxy_for(self, url: httpx.URL) -> httpx.AsyncBaseTransport | None:
        # A proxy would carry what may only stay on this machine.
        host = looked_up(url)
        if zone_of_host(host) is Zone.MACHINE or any(
            urllib.request.proxy_bypass(named) for named in (host, f"{host}:{_port(url)}")
        ):
            return None
        return self._proxies.get(url.scheme, self._proxies.get("all"))

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """The addresses of a host that may be connected to, in the system's order."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(looked_up(url), _port(url), type=1)  # SOCK_STREAM
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # One with a scope (fe80::1%eth0) has no form in an address of the web.
        addresses = [address for address in addresses if "%" not in address]
        reach = self._reach
        if zone_of_host(looked_up(url)) is None:
            reach = min(reach, Zone.NETWORK)  # only its own names may lead to this machine
        allowed = [a for a in addresses if zone_of(ipaddress.ip_address(a)) <= reach]
        if addresses and not allowed:
            nearest = min(zone_of(ipaddress.ip_address(a)) for a in addresses)
            where = "this machine itself" if nearest is Zone.MACHINE else "this machine's network"
            raise FetchError(
                f"{self._name}: {url.host}: its name leads to {where}",
                hint="if that server is yours, give its own address instead"
                + (": http://localhost:PORT/..." if nearest is Zone.MACHINE else ""),
            )
        if not allowed:
            raise OSError("no address")
        return allowed


def looked_up(url: httpx.URL) -> str:
    """The name that is looked up and stands in a certificate, in ASCII by IDNA 2008 (RFC 5891).

    Python's own encoding is that of 2003, by which straße.example is strasse.example, another owner's.
    """
    return url.raw_host.decode("ascii")


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _addressed(request: httpx.Request, address: str, *, alone: bool) -> httpx.Request:
    """The request to this address; host header and certificate stay those of the name."""
    extensions = {
        "sni_hostname": looked_up(request.url),
        "timeout": {"connect": None if alone else _CONNECT_S},
    }
    url = request.url.copy_with(host=address)
    return httpx.Request("GET", url, headers=request.headers, extensions=extensions)


def _environment_proxies(context: ssl.SSLContext) -> dict[str, httpx.AsyncHTTPTransport]:
    """By scheme, or `all`. Raises ConfigError if one cannot be used."""
    found = {}
    for scheme, address in urllib.request.getproxies().items():
        if scheme not in ("http", "https", "all"):
            continue
        try:
            proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
            found[scheme] = httpx.AsyncHTTPTransport(verify=context, trust_env=False, proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL):
            raise ConfigError(
                "the proxy that the environment names cannot be used",
                hint="set HTTPS_PROXY to http://HOST:PORT, or unset it and ALL_PROXY",
            ) from None
    return found
