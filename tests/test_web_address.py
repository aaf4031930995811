"""Addresses in all their spellings: what is typed, what a redirect may lead to, who is near."""

from __future__ import annotations

import httpx
import pytest

from client.releases.web_address import (
    Zone,
    literal,
    redirected,
    release_address,
    zone_of,
    zone_of_host,
)
from proper_model.errors import ConfigError, FetchError

NAME = "base/model.safetensors"
# Each is refused as the target of a redirect from the internet; none is connected to.
MACHINE = """
    127.0.0.1 127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0177.0.0.1 017700000001 127.0.0.1.
    127.255.255.254 0.0.0.0 0 0.1.2.3 localhost LOCALHOST. a.localhost ip6-localhost
    [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:0:0:1] [::127.0.0.1]
    [64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [2002:7f00:1::] me@127.0.0.1 127\u30020\u30020\u30021
"""
NETWORK = """
    10.0.0.1 10.1 167772161 0xa.1 012.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1
    169.254.169.254 0xa9fea9fe 2852039166 224.0.0.1 255.255.255.255 198.18.0.1 192.0.2.1
    192.0.0.8 192.88.99.1 [fc00::1] [fd00:ec2::254] [fe80::1] [fec0::1] [ff02::1]
    [::ffff:10.0.0.1] [64:ff9b::a00:1] [64:ff9b:1::1] [2002:a00:1::] [2001:db8::1]
    [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [3fff::1] [5f00::1] [100:0:0:1::1]
    [::ffff:192.0.0.8]
"""
INTERNET = """
    1.1.1.1 [2606:4700:4700::1111] [::ffff:1.1.1.1] [64:ff9b::101:101] releases.example
    1.1.1.1.example localhost.example 127.0.0.1.example 0x7f.example
"""


@pytest.mark.parametrize(
    ("host", "where"),
    [(host, "this machine itself") for host in MACHINE.split()]
    + [(host, "a private network") for host in NETWORK.split()],
)
def test_no_redirect_leads_from_the_internet_inwards(host, where):
    here = httpx.URL("https://releases.example/r")
    # httpx itself takes no four numbers of which one begins with 0.
    where = f"({where}|an address that is not)" if host == "0177.0.0.1" else where
    with pytest.raises(FetchError, match=f"releases.example: redirects to {where}") as caught:
        redirected(here, f"https://{host}:8443/x", NAME)
    assert caught.value.hint is not None
    assert host not in caught.value.message
    if "@" not in host and host != "0177.0.0.1":
        redirected(httpx.URL("https://localhost/r"), f"https://{host}/x", NAME)


@pytest.mark.parametrize("host", INTERNET.split())
def test_other_redirects_are_followed(host):
    redirected(httpx.URL("https://releases.example/r"), f"https://{host}/x", NAME)


NOT_HTTPS = """
    http://releases.example/x ftp://127.0.0.1/x https://[ file:///etc/x javascript:1
    javascript://x/%0a data:,x mailto:me@releases.example http://127.1/x https://xn--/
    https://releases.example:99999/ https://releases.example:0/ https://releases.example:abc/
    https://../ https://a..b/ https://[::1%25lo]/
"""
ODD = ("", f"https://{'a' * 64}.example/", "https://exa mple/", f"https://a.example/{'a' * 70_000}")


@pytest.mark.parametrize("location", [*NOT_HTTPS.split(), *ODD], ids=lambda where: where[:40])
def test_redirects_to_anything_but_https_are_refused(location):
    told = "127.0.0.1: redirects to an address that is not an https one"
    with pytest.raises(FetchError, match=told):
        redirected(httpx.URL("http://127.0.0.1:8080/r"), location, NAME)


def test_digits_of_other_scripts_are_no_way_around():
    here = httpx.URL("https://releases.example/r")
    with pytest.raises(FetchError, match="redirects to"):
        redirected(here, "https://\uff11\uff12\uff17.0.0.1/x", NAME)


def test_a_redirect_leads_outwards_or_stays():
    network = httpx.URL("https://192.168.1.5/r")
    redirected(network, "https://192.168.1.6/x", NAME)
    redirected(network, "https://releases.example/x", NAME)
    with pytest.raises(FetchError, match="this machine itself"):
        redirected(network, "https://[::1]/x", NAME)


def test_zones_of_names_are_not_guessed():
    assert zone_of_host("releases.example") is None
    assert literal("1.2.3.4.5") is None
    assert literal("0x") is None or zone_of(literal("0x")) is Zone.MACHINE
    assert zone_of_host("256.0.0.1") is None


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "xn--", "..", "a:0"]
)
def test_what_a_person_types_is_a_name_or_a_plain_address(host):
    with pytest.raises(ConfigError, match="the address of the release is malformed"):
        release_address(f"https://{host}/r")


@pytest.mark.parametrize("host", ["192.168.0.1", "[fd00::1]", "nas.local", "127.0.0.1:8443"])
def test_a_person_may_name_a_server_of_their_own(host):
    assert str(release_address(f"https://{host}/r")) == f"https://{host}/r"
