"""Backups: what is written is read, nothing altered is, and nothing is overwritten.

Files to read come from an encoder of age that is not pyrage's (`age_files`), with a cheap work
factor; pyrage's own dear one is paid once in each direction.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest
from age_files import seal

from client.vault import backup
from client.vault.backup import (
    Backup,
    check_start,
    decode,
    encode,
    open_backup,
    write_backup,
)
from proper_model.errors import ConfigError, PassphraseError, StorageError, VaultError
from proper_model.storage import canonical

BUNDLE = "0f" * 32
CREATED = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
DOCUMENT = bytes(range(256)) * 3
SECRET = "a passphrase, not a short one"
WHOLE = Backup(DOCUMENT, CREATED, BUNDLE)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing at age's lowest price, by the other encoder."""
    monkeypatch.setattr(pyrage.passphrase, "encrypt", seal)


def write(out: Path, document: bytes = DOCUMENT) -> None:
    write_backup(out, document, SECRET, bundle_id=BUNDLE, created=CREATED)


def put(folder: Path, data: bytes) -> Path:
    path = folder / "file.age"
    path.write_bytes(data)
    return path


def test_round_trip_at_the_real_price(tmp_path: Path) -> None:
    out = tmp_path / "vault.age"
    write(out)
    data = out.read_bytes()
    assert data.startswith(b"age-encryption.org/v1\n-> scrypt ")
    assert DOCUMENT[:64] not in data
    assert BUNDLE.encode() not in data
    assert out.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["vault.age"]
    assert open_backup(out, SECRET) == WHOLE


def test_a_file_of_another_age_program_is_read(tmp_path: Path) -> None:
    long = os.urandom(200_000)  # several chunks of age
    path = put(tmp_path, seal(encode(Backup(long, CREATED, BUNDLE)), SECRET))
    assert open_backup(path, SECRET).document == long


def test_the_written_layout_is_the_documented_one() -> None:
    """docs/backup-format.md, read literally."""
    content = encode(WHOLE)
    assert content[:8] == b"PROPERB1"
    length = int.from_bytes(content[8:12], "big")
    expected = (
        f'{{"bundle_id":"{BUNDLE}","created":"2026-03-01T12:30:05Z","format":1,'
        f'"length":768,"sha256":"{hashlib.sha256(DOCUMENT).hexdigest()}"}}'
    )
    assert content[12 : 12 + length].decode() == expected
    assert content[12 + length :] == DOCUMENT
    assert decode(content) == WHOLE


def test_a_wrong_passphrase_has_its_own_error(tmp_path: Path) -> None:
    path = put(tmp_path, seal(encode(WHOLE), SECRET))
    with pytest.raises(PassphraseError, match="wrong passphrase") as caught:
        open_backup(path, SECRET + "!")
    assert caught.value.exit_code == 45
    assert SECRET not in str(caught.value)


def test_effort_that_this_machine_refuses_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyrage refuses by this machine's speed; a factor of 30 is beyond every machine's."""
    monkeypatch.setattr(backup, "MAX_WORK_FACTOR", 30)
    path = put(tmp_path, seal(encode(WHOLE), SECRET).replace(b" 4\n", b" 30\n"))
    with pytest.raises(VaultError, match="this machine refuses the effort") as caught:
        open_backup(path, SECRET)
    assert "work factor 30, 1048576 MiB" in caught.value.message
    assert "damaged" not in caught.value.message
    assert "faster" in str(caught.value.hint)


def test_a_passphrase_is_the_same_from_every_keyboard(tmp_path: Path, cheap: None) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for number, (typed, again) in enumerate([(composed, decomposed), (decomposed, composed)]):
        out = tmp_path / f"{number}.age"
        write_backup(out, DOCUMENT, typed, bundle_id=BUNDLE, created=CREATED)
        assert open_backup(out, again).document == DOCUMENT
        assert pyrage.passphrase.decrypt(out.read_bytes(), composed) == encode(WHOLE)
    older = put(tmp_path, seal(encode(WHOLE), decomposed))
    assert open_backup(older, decomposed).document == DOCUMENT
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        open_backup(older, composed)
    with pytest.raises(PassphraseError, match="not valid Unicode"):
        open_backup(older, "\ud800")


def test_no_altered_file_is_read(tmp_path: Path) -> None:
    """Turned bits and cut ends all over the file: an error of ours, never a document.

    A sample, as pyrage takes ten milliseconds a file; steps that are prime to what repeats.
    """
    good = seal(encode(Backup(b"short", CREATED, BUNDLE)), SECRET)
    assert open_backup(put(tmp_path, good), SECRET).document == b"short"
    kinds = set()
    altered = [
        good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :]
        for at in range(0, len(good), 3)
    ]
    altered += [good[:length] for length in range(0, len(good), 11)]
    altered += [good + b"\0", good + good]
    for data in altered:
        with pytest.raises((VaultError, PassphraseError)) as caught:
            open_backup(put(tmp_path, data), SECRET)
        kinds.add(type(caught.value))
    assert kinds == {VaultError, PassphraseError}
    payload = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(VaultError, match="damaged"):
        open_backup(put(tmp_path, payload), SECRET)


def test_work_is_bounded_before_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = seal(b"", SECRET, factor=4)
    with monkeypatch.context() as patch:
        patch.setattr(pyrage.passphrase, "decrypt", None)
        with pytest.raises(VaultError, match="work factor"):
            open_backup(put(tmp_path, good.replace(b" 4\n", b" 23\n")), SECRET)
    check_start(good)
    check_start(good.replace(b" 4\n", b" 22\n"))
    for factor in (b"23", b"64", b"99"):
        with pytest.raises(VaultError, match="work factor"):
            check_start(good.replace(b" 4\n", b" " + factor + b"\n"))
    identity = pyrage.x25519.Identity.generate()
    for data in (
        b"",
        b"PROPERB1",
        good.replace(b" 4\n", b" 04\n"),
        good.replace(b" 4\n", b" 100\n"),
        pyrage.encrypt(b"", [identity.to_public()]),
    ):
        with pytest.raises(VaultError, match="not a backup"):
            check_start(data)


def header(**changes: Any) -> bytes:
    fields = {
        "format": 1,
        "created": "2026-03-01T12:30:05Z",
        "bundle_id": BUNDLE,
        "sha256": hashlib.sha256(DOCUMENT).hexdigest(),
        "length": len(DOCUMENT),
        **changes,
    }
    raw = canonical.encode({name: value for name, value in fields.items() if value is not ...})
    return b"PROPERB1" + struct.pack(">I", len(raw)) + raw + DOCUMENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PROPER backup"),
        (b"PROPERS1" + header()[8:], "no PROPER backup"),
        (header()[:11], "no PROPER backup"),
        (header()[:40], "does not fit"),
        (b"PROPERB1" + struct.pack(">I", backup.MAX_HEADER_BYTES + 1) + bytes(9999), "not fit"),
        (header(format=2), "unknown format"),
        (header(format=True), "unknown format"),
        (header(format=...), "unknown format"),
        (header(extra=1), "other fields"),
        (header(length=...), "other fields"),
        (header(length=str(len(DOCUMENT))), "other fields"),
        (header(bundle_id=BUNDLE[:-1]), "other fields"),
        (header(bundle_id=7), "other fields"),
        (header(length=len(DOCUMENT) - 1), "not what its header says"),
        (header(sha256="00" * 32), "not what its header says"),
        (header(sha256=None), "not what its header says"),
        (header()[:-1], "not what its header says"),
        (header() + b"\0", "not what its header says"),
        (header(created="2026-3-01T12:30:05Z"), "no valid time"),
        (header(created=20260301), "no valid time"),
        (header().replace(b'{"bundle_id"', b'{ "bundle_id"'), "backup header|not what"),
        (b"PROPERB1" + struct.pack(">I", 2) + b"[]", "unknown format"),
        (b"PROPERB1" + struct.pack(">I", 2) + b"\xff{", "UTF-8"),
    ],
)
def test_content_is_read_strictly(content: bytes, message: str) -> None:
    assert decode(header()) == WHOLE
    with pytest.raises(VaultError, match=message):
        decode(content)


def test_nothing_is_overwritten(tmp_path: Path, cheap: None) -> None:
    out = tmp_path / "vault.age"
    out.write_bytes(b"older")
    with pytest.raises(StorageError, match="overwrites nothing"):
        write(out)
    link = tmp_path / "link.age"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="overwrites nothing"):
        write(link)
    assert out.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.age", "vault.age"]


def test_a_file_that_appears_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "vault.age"

    def slow(data: bytes, secret: str) -> bytes:
        out.write_bytes(b"theirs")
        return seal(data, secret)

    monkeypatch.setattr(pyrage.passphrase, "encrypt", slow)
    with pytest.raises(StorageError, match="overwrites nothing"):
        write(out)
    assert [path.name for path in tmp_path.iterdir()] == ["vault.age"]
    assert out.read_bytes() == b"theirs"


def test_a_memory_stick_without_links_works_too(
    tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    out = tmp_path / "vault.age"
    write(out)
    assert out.stat().st_mode & 0o777 == 0o600
    assert open_backup(out, SECRET).document == DOCUMENT
    assert [path.name for path in tmp_path.iterdir()] == ["vault.age"]

    def no_links_then_full(*args: Any, **options: Any) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", full)
        no_links()

    monkeypatch.setattr(os, "link", no_links_then_full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path / "other.age")
    assert [path.name for path in tmp_path.iterdir()] == ["vault.age"]


def test_without_pyrage_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(ConfigError, match="pyrage") as caught:
        write(tmp_path / "vault.age")
    assert "[backup]" in (caught.value.hint or "")
    with pytest.raises(ConfigError):
        open_backup(tmp_path / "vault.age", SECRET)


def test_refusals_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyrage.passphrase, "encrypt", None)
    out = tmp_path / "vault.age"
    with pytest.raises(PassphraseError, match="empty"):
        write_backup(out, DOCUMENT, "", bundle_id=BUNDLE, created=CREATED)
    with pytest.raises(VaultError, match="64 hex digits"):
        write_backup(out, DOCUMENT, SECRET, bundle_id="x", created=CREATED)
    monkeypatch.setattr(backup, "MAX_PAYLOAD_BYTES", len(DOCUMENT) - 1)
    with pytest.raises(VaultError, match="768 bytes to back up"):
        write(out)
    monkeypatch.setattr(backup, "MAX_FILE_BYTES", 10)
    with pytest.raises(VaultError, match="larger than"):
        open_backup(put(tmp_path, bytes(11)), SECRET)
    with pytest.raises(StorageError, match="No such file"):
        open_backup(tmp_path / "absent", SECRET)
