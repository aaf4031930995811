"""A download gives the server's bytes or a clear error, whatever the server does."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import os
import random
import socket
import stat
import traceback

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from release_server import serving

from client.releases import download, partial_file, web_route
from client.releases.download import Patience, StatusError, WebSource
from client.releases.web_address import Zone
from proper_model.errors import ConfigError, FetchError, StorageError
from proper_model.progress import silent

BODY = random.Random(0).randbytes(300_000)
OTHER = BODY[::-1]
SIZE, CUT = len(BODY), 120_000
NAME = "base/model.safetensors"
PATH = f"/r/{NAME}"
SECRET = "hunter2"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy_and_no_pause(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(download, "sleep", lambda _: None)


@pytest.fixture
def server():
    with serving({PATH: BODY}) as running:
        yield running


def get(server, cache, *, name=NAME, size=SIZE, patience=None, progress=silent, base=None):
    url = base or f"{server.url}/r"
    patience = patience or Patience(answer_s=5, window_s=5)
    return WebSource(url, cache, progress, patience)(name, size)


def sent(server):
    return [record["sent"] for record in server.seen]


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_request_tells_nothing_of_this_machine(server, tmp_path):
    base = f"http://me:{SECRET}@127.0.0.1:{server.server_port}/r/?token={SECRET}#part"
    assert get(server, tmp_path, base=base) == BODY
    (request,) = server.seen
    assert request["path"] == f"{PATH}?token={SECRET}"
    assert request["headers"] == {
        "Host": f"127.0.0.1:{server.server_port}",
        "User-Agent": "proper",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "Authorization": "Basic bWU6aHVudGVyMg==",
    }
    assert files_in(tmp_path) == []


# Switches of the server, its faults, which requests ask for a range, and the bytes sent for each.
BROKEN_OFF = {
    "the missing bytes only": ({}, [{"cut": CUT}, {}], [0, 1], [CUT, SIZE - CUT]),
    "a server without ranges": ({"ranges": False}, [{"cut": CUT}, {}], [0, 1], [CUT, SIZE]),
    "no validator": ({"etag": None}, [{"cut": CUT}, {}], [0, 0], [CUT, SIZE]),
    "a weak validator": ({"etag": 'W/"v1"'}, [{"cut": CUT}, {}], [0, 0], [CUT, SIZE]),
    "another file meanwhile": (
        {"files": {PATH: OTHER}},
        [{"cut": CUT, "body": BODY}, {"etag": '"v2"'}],
        [0, 1],
        [CUT, SIZE],
    ),
    "a shorter file meanwhile": (
        {"files": {PATH: OTHER[:1000]}},
        [{"cut": CUT, "body": BODY}, {}],
        [0, 1, 0],
        [CUT, 0, 1000],
    ),
    "another range": ({}, [{"cut": CUT}, {"shift": 7}, {}], [0, 1, 0], None),
    "errors that pass": ({}, [{"status": 500}, {"status": 503}, {}], [0, 0, 0], [0, 0, SIZE]),
    **{
        str(lie)[:40]: ({}, [{"cut": CUT}, lie, lie, lie, {}], None, None)
        for lie in (
            {"status": 302, "location": "/x", "bomb": 400},
            {"bomb": 400},
            {"content_range": "bytes 0-9/10"},
            {"content_range": "bytes 120000-5/300000"},
            {"content_range": "bytes 120000-299999/*"},
            {"content_range": f"bytes {'9' * 5000}-1/2"},
        )
    },
}


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_what_broke_off_still_comes(server, tmp_path, name):
    switches, faults, ranges, sizes = BROKEN_OFF[name]
    for switch, value in switches.items():
        setattr(server, switch, value)
    server.faults[PATH] = list(faults)
    patience = Patience(attempts=5 if ranges is None else 3, answer_s=5, window_s=5)
    assert get(server, tmp_path, patience=patience) == server.files[PATH]
    headers = [record["headers"] for record in server.seen]
    for one in headers:
        if "Range" in one:
            assert (one["Range"], one["If-Range"]) == (f"bytes={CUT}-", '"v1"')
    assert ranges is None or ["Range" in one for one in headers] == ranges
    assert sizes is None or sent(server) == sizes


def test_a_later_command_continues_from_a_private_file(server, tmp_path):
    cache = tmp_path / "cache"
    server.faults[PATH] = [{"cut": CUT}, {}]
    base = f"{server.url}/r?token={SECRET}"
    with pytest.raises(FetchError, match="goes on|connection broke") as caught:
        get(server, cache, base=base, patience=Patience(attempts=1))
    assert caught.value.exit_code == 14
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    for path in cache.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SECRET not in path.name
        assert SECRET.encode() not in path.read_bytes()
    assert len(files_in(cache)) == 2
    assert get(server, cache, base=base) == BODY
    assert sent(server) == [CUT, len(BODY) - CUT]
    assert files_in(cache) == []


def test_all_came_but_was_not_used_yet(server, tmp_path):
    partial = partial_file.PartialFile(tmp_path, f"{server.url}{PATH}", NAME, len(BODY))
    partial.restart('"v1"', len(BODY))
    partial.add(BODY)
    assert get(server, tmp_path) == BODY
    assert server.seen == []


@pytest.mark.parametrize(
    "note",
    [b"", b"[]", b'{"validator":"","total":5}', b'{"validator":"a\\nb","total":null}', b"\xff"],
)
def test_a_part_of_unknown_origin_is_not_continued(server, tmp_path, note):
    partial = partial_file.PartialFile(tmp_path, f"{server.url}{PATH}", NAME, len(BODY))
    partial.restart('"v1"', None)
    partial.add(b"other bytes")
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(note)
    assert get(server, tmp_path) == BODY
    assert "Range" not in server.seen[0]["headers"]


def test_a_held_file_stays_until_it_is_stored(server, tmp_path):
    def source():
        return WebSource(f"{server.url}/r", tmp_path / "cache", silent)

    first = source()
    assert first.hold(NAME, SIZE) == BODY
    assert source().hold(NAME, SIZE) == BODY
    assert len(server.seen) == 1, "kept for the next attempt"
    target = tmp_path / "held" / "file"
    assert first.store(NAME, target)
    assert target.read_bytes() == BODY
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert files_in(tmp_path / "cache") == []
    assert not first.store("other", target)


def test_truncated_for_ever_ends_after_three_attempts(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "sleep", pauses.append)
    server.etag = None
    server.faults[PATH] = [{"cut": CUT}]
    with pytest.raises(FetchError, match="3 attempts failed") as caught:
        get(server, tmp_path)
    assert caught.value.hint is not None
    assert "repeat the command" in caught.value.hint
    assert len(server.seen) == 3
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "size", "expected"),
    [({"endless": True}, 100_000, b"x" * 100_001), ({}, 1000, BODY[:1001])],
    ids=["endless", "longer"],
)
def test_a_longer_body_is_read_one_byte_too_far(server, tmp_path, fault, size, expected):
    server.faults[PATH] = [fault]
    assert get(server, tmp_path, size=size) == expected
    assert len(server.seen) == 1
    assert files_in(tmp_path) == []


def test_the_disk_never_holds_more_than_one_byte_too_many(tmp_path):
    partial = partial_file.PartialFile(tmp_path, "address", NAME, 10)
    partial.restart("", None)
    partial.add(b"x" * 100)
    assert partial.is_full
    assert [p.stat().st_size for p in tmp_path.iterdir() if not p.suffix] == [11]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 418])
def test_a_refusal_names_file_and_status_at_once(server, tmp_path, status):
    server.faults[PATH] = [{"status": status}]
    with pytest.raises(StatusError, match=f"^{NAME}: 127.0.0.1: answered {status}$") as caught:
        get(server, tmp_path)
    assert caught.value.status == status
    assert caught.value.hint
    assert len(server.seen) == 1


# --- slowness ----------------------------------------------------------------------------------

HASTY = Patience(attempts=2, answer_s=0.5, window_s=0.5, window_bytes=1000)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"status": 500}, "answered 500; 2 attempts failed"),
        ({"drip": 0.02}, "too slow; 2 attempts failed"),
        ({"slow_head": 0.02}, "too slow; 2 attempts failed"),
        ({"encoding": "gzip"}, "sends the file compressed"),
    ],
)
def test_a_server_that_stays_so_is_given_up(server, tmp_path, fault, told):
    server.faults[PATH] = [fault]
    with pytest.raises(FetchError, match=f"^{NAME}: 127.0.0.1: {told}"):
        get(server, tmp_path, patience=HASTY)


def test_a_slow_but_steady_server_is_not(server, tmp_path):
    body = BODY[:150]
    server.faults[PATH] = [{"drip": 0.01, "body": body}]
    steady = Patience(attempts=1, answer_s=5, window_s=1.0, window_bytes=10)
    assert get(server, tmp_path, patience=steady) == body


def test_progress_counts_the_bytes_of_larger_files(server, tmp_path):
    heard = []
    big = BODY * 5
    server.files[PATH] = big
    server.faults[PATH] = [{"cut": len(BODY)}, {}]
    assert get(server, tmp_path, size=len(big), progress=lambda *call: heard.append(call)) == big
    assert {(name, total) for name, _, total in heard} == {(NAME, len(big))}
    done = [count for _, count, _ in heard]
    assert done == sorted(done)
    assert done[-1] == len(big)
    heard.clear()
    server.files["/r/small.json"] = BODY
    get(server, tmp_path, name="small.json", progress=lambda *call: heard.append(call))
    assert heard == []


# --- redirects, credentials --------------------------------------------------------------------


def test_redirects_are_followed_without_cookies_and_with_credentials_at_home_only(tmp_path):
    with serving({"/moved": BODY}) as away, serving() as home:
        base = f"http://me:{SECRET}@127.0.0.1:{home.server_port}/r"
        home.faults[PATH] = [{"status": 302, "location": "/next"}]
        home.faults["/next"] = [{"status": 307, "location": f"{away.url}/moved?a=b"}]
        assert get(home, tmp_path, base=base) == BODY
        requests = home.seen + away.seen
    assert [record["path"] for record in requests] == [PATH, "/next", "/moved?a=b"]
    assert ["Authorization" in record["headers"] for record in requests] == [True, True, False]
    assert not any({"Cookie", "Referer"} & set(record["headers"]) for record in requests)


def test_redirects_to_anything_but_https_are_refused(server, tmp_path):
    server.faults[PATH] = [{"status": 302, "location": "http://releases.example/x"}]
    with pytest.raises(FetchError, match="redirects to an address that is not an https one"):
        get(server, tmp_path)
    assert len(server.seen) == 1


def leads(monkeypatch, names, *, zones=None):
    """Have `names` lead to addresses, and record every look-up; `zones` overrides those of addresses."""
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        found = names.get(host, [host])
        return [entry for address in found for entry in real(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    if zones is not None:
        monkeypatch.setattr(web_route, "zone_of", lambda a: zones.get(str(a), Zone.INTERNET))
    return asked


def test_a_name_that_leads_to_this_machine_is_refused_without_a_connection(
    server, tmp_path, monkeypatch
):
    asked = leads(monkeypatch, {"releases.example": ["127.0.0.1", "::1"]})
    with pytest.raises(FetchError, match="its name leads to this machine itself") as caught:
        get(server, tmp_path, base=f"https://releases.example:{server.server_port}/r")
    assert "localhost" in str(caught.value.hint)
    assert asked == ["releases.example"]


def test_a_redirect_to_a_name_that_leads_inwards_is_refused(server, tmp_path, monkeypatch):
    """The first server counts as one on the internet; the second one's name leads to 10.0.0.1."""
    zones = {"10.0.0.1": Zone.NETWORK}
    asked = leads(monkeypatch, {"nas.example": ["10.0.0.1"]}, zones=zones)
    server.faults[PATH] = [{"status": 302, "location": "https://nas.example/x"}]
    with pytest.raises(FetchError, match="nas.example: its name leads to this machine's network"):
        get(server, tmp_path)
    assert asked[-1] == "nas.example"
    assert len(server.seen) == 1


def test_the_address_that_was_checked_is_the_one_connected_to(certificate, tmp_path, monkeypatch):
    """Of a name's addresses the allowed ones; the certificate is held against the name."""
    names = {"releases.example": ["10.0.0.1", "127.0.0.1"]}
    zones = {"10.0.0.1": Zone.MACHINE, "127.0.0.1": Zone.NETWORK}
    asked = leads(monkeypatch, names, zones=zones)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving({PATH: BODY}, certificate=certificate) as secure:
        base = f"https://releases.example:{secure.server_port}/r"
        assert get(secure, tmp_path, base=base) == BODY
        assert secure.seen[0]["headers"]["Host"] == f"releases.example:{secure.server_port}"
        assert asked.count("releases.example") == 1
        assert set(asked) <= {"releases.example", "127.0.0.1"}
        names["other.example"] = ["127.0.0.1"]
        with pytest.raises(FetchError, match="certificate is not accepted"):
            get(secure, tmp_path, base=f"https://other.example:{secure.server_port}/r")


@pytest.mark.parametrize(
    ("typed", "name"),
    [("straße.example", "xn--strae-oqa.example"), ("\u05d01.example", "xn--1-zhc.example")],
)
def test_a_name_in_other_letters_is_looked_up_and_verified_as_browsers_do(
    certificate, tmp_path, monkeypatch, typed, name
):
    """Python's own coding makes strasse.example of the first, and fails over the second."""
    asked = leads(monkeypatch, {name: ["127.0.0.1"]}, zones={"127.0.0.1": Zone.NETWORK})
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        serving({PATH: BODY}, certificate=certificate) as secure,
        pytest.raises(FetchError, match="certificate is not accepted") as caught,
    ):
        get(secure, tmp_path, base=f"https://{typed}:{secure.server_port}/r")
    assert name in caught.value.message
    assert asked[0] == name


def test_a_name_that_nobody_knows(server, tmp_path, monkeypatch):
    def unknown(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, f"unknown {SECRET}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FetchError, match="releases.example: cannot be reached; 3 attempts"):
        get(server, tmp_path, base="https://releases.example/r")


@pytest.mark.parametrize(("redirects", "works"), [(5, True), (6, False)])
def test_five_redirects_are_followed(server, tmp_path, redirects, works):
    server.faults[PATH] = [{"status": 302, "location": PATH}] * redirects + [{}]
    if works:
        assert get(server, tmp_path) == BODY
    else:
        with pytest.raises(FetchError, match="more than 5 redirects"):
            get(server, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 500},
        {"cut": 10},
        {"status": 302, "location": "http://releases.example/x"},
        {"encoding": "br"},
        {"drip": 1},
        None,
    ],
    ids=str,
)
def test_what_an_address_holds_is_in_no_message_and_no_log(server, tmp_path, caplog, fault):
    caplog.set_level(logging.DEBUG)
    port = server.server_port if fault else 1  # where nobody listens
    base = f"http://{SECRET}:{SECRET}@127.0.0.1:{port}/r?token={SECRET}"
    server.faults[PATH] = [fault or {}]
    with pytest.raises(FetchError) as caught:
        get(server, tmp_path, base=base, patience=HASTY)
    assert NAME in caught.value.message
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert SECRET not in shown
    assert SECRET not in caplog.text
    if fault is None:
        assert "cannot be reached" in caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        f"http://releases.example/{SECRET}",
        f"ftp://127.0.0.1/{SECRET}",
        f"https://[{SECRET}",
        f"https:///{SECRET}",
        f"http://127.0.0.1.{SECRET}.example/",
        f"https://releases.example:{SECRET}/",
    ],
)
def test_only_https_addresses_are_taken(tmp_path, address):
    with pytest.raises(ConfigError) as caught:
        WebSource(address, tmp_path, silent)
    assert SECRET not in f"{caught.value.message}{caught.value.hint}"


# --- TLS, proxies, disk ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and releases.example, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    host = x509.DNSName("releases.example")
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address, host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_an_unknown_certificate_is_refused_and_a_named_one_accepted(
    certificate, tmp_path, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with serving({PATH: BODY}, certificate=certificate) as secure:
        secure.faults[PATH] = [{"cut": CUT}, {}]
        with pytest.raises(
            FetchError, match="certificate is not accepted \\(self-signed"
        ) as caught:
            get(secure, tmp_path)
        assert "SSL_CERT_FILE" in str(caught.value.hint)
        assert secure.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert get(secure, tmp_path) == BODY
        assert sent(secure) == [CUT, len(BODY) - CUT]


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "gone.pem"), ("SSL_CERT_FILE", "text"), ("SSLKEYLOGFILE", "gone/keys")],
)
def test_certificates_of_the_environment_that_cannot_be_used(
    server, tmp_path, monkeypatch, name, value
):
    (tmp_path / "text").write_text("no certificate")
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path / value))
    with pytest.raises(ConfigError, match=f"^{name}: cannot be used for secure") as caught:
        get(server, tmp_path)
    assert "unset it" in str(caught.value.hint)


def test_a_server_that_speaks_no_tls(server, tmp_path):
    with pytest.raises(FetchError, match="no secure connection"):
        get(server, tmp_path, base=f"https://127.0.0.1:{server.server_port}/r")


def test_the_proxy_of_the_environment_is_asked_but_not_for_this_machine(
    server, tmp_path, monkeypatch
):
    with serving() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        assert get(server, tmp_path) == BODY
        assert proxy.seen == []
        with pytest.raises(FetchError, match="proxy that the environment names") as caught:
            get(server, tmp_path, base="https://releases.invalid/r")
        assert {record["path"] for record in proxy.seen} == {"releases.invalid:443"}
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("exempt", "proxied"),
    [("127.0.0.2", False), ("127.0.0.2:{port}", False), ("127.0.0.2:1", True)],
)
def test_no_proxy_names_hosts_with_or_without_a_port(tmp_path, monkeypatch, exempt, proxied):
    monkeypatch.setattr(web_route, "zone_of_host", lambda _: Zone.NETWORK)
    with serving() as proxy, serving() as other:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("NO_PROXY", exempt.format(port=other.server_port))
        with pytest.raises(FetchError):
            get(other, tmp_path, base=f"https://127.0.0.2:{other.server_port}/r")
        assert bool(proxy.seen) is proxied


def test_no_password_of_a_netrc_file_is_sent(server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text(f"default login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").symlink_to(netrc)
    get(server, tmp_path / "cache")
    assert "Authorization" not in server.seen[0]["headers"]


def test_a_proxy_that_is_not_there_is_told(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match="cannot be reached through the proxy of the environment;"):
        get(server, tmp_path, base="https://releases.invalid/r")


@pytest.mark.parametrize("proxy", [f"socks5://{SECRET}:1", f"gopher://{SECRET}"])
def test_a_proxy_that_cannot_be_used(server, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ConfigError, match="proxy") as caught:
        get(server, tmp_path)
    assert SECRET not in caught.value.message


def test_a_full_disk_states_the_bytes_needed_and_keeps_what_came(server, tmp_path, monkeypatch):
    real, opened = os.open, []

    def full_after_some(path, flags, *mode, **options):
        if flags & os.O_APPEND:
            opened.append(path)
            if len(opened) > 1:
                return real("/dev/full", os.O_WRONLY)
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(partial_file.os, "open", full_after_some)
    with pytest.raises(StorageError) as caught:
        get(server, tmp_path)
    monkeypatch.setattr(partial_file.os, "open", real)
    have = next(path.stat().st_size for path in tmp_path.iterdir() if not path.suffix)
    assert 0 < have < len(BODY)
    assert caught.value.message == (
        f"{NAME}: No space left on device; the download needs {len(BODY) - have} bytes more"
    )
    assert len(server.seen) == 1
    assert get(server, tmp_path) == BODY
    assert server.seen[1]["headers"]["Range"] == f"bytes={have}-"
