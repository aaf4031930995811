"""Key files: private from the first moment, never overwritten, never half-written."""

from __future__ import annotations

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from coordinator.keys import create_key, load_key, load_or_create_key
from proper_model.bundle.public_keys import public_bytes
from proper_model.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "root.pem"


@pytest.mark.parametrize("make", [create_key, load_or_create_key])
def test_a_key_comes_back_and_keys_differ(path, make):
    created, other = make(path), make(path.with_name("other.pem"))
    for load in (load_key, load_or_create_key):
        assert public_bytes(load(path)) == public_bytes(created)
    assert public_bytes(created) != public_bytes(other)


def test_private_under_any_umask_and_nothing_else_is_left(path):
    before = os.umask(0)
    try:
        create_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["root.pem"]


def test_private_at_every_moment(path, monkeypatch):
    """Every file the creation opens for writing is asked for with mode 0600, not changed later."""
    modes, original = [], os.open

    def recording(name, flags, mode=0o777, **options):
        if flags & (os.O_CREAT | getattr(os, "O_TMPFILE", 0) & ~os.O_DIRECTORY):
            modes.append(mode)
        return original(name, flags, mode, **options)

    monkeypatch.setattr(os, "open", recording)
    create_key(path)
    assert modes
    assert set(modes) == {0o600}


def test_never_overwritten(path):
    create_key(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["root.pem"]


def test_a_dangling_link_is_not_written_through(path, tmp_path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        create_key(path)
    assert not (tmp_path / "elsewhere").exists()


def test_refuses_links_open_permissions_and_other_content(path, tmp_path):
    create_key(path)
    link = tmp_path / "link.pem"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="is a link"):
        load_key(link)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0640 lets others in"):
        load_key(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_key(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="regular file"):
        load_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"canary", b"\x00" * 100, b"canary" * 10_000])
def test_refuses_what_is_no_key_without_quoting_it(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_key(path)
    assert "canary" not in str(caught.value)


def test_refuses_another_kind_of_key(tmp_path):
    path = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected Ed25519"):
        load_key(path)


def test_a_failed_write_leaves_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        create_key(path)
    assert list(path.parent.iterdir()) == []
