"""Sealed training checkpoints: an independent reading, every altered byte, the wrong work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.vault.working_files import Sealer
from proper_model.engine.checkpoint import (
    Sealed,
    beside,
    load_checkpoint,
    load_meta,
    save_checkpoint,
)
from proper_model.errors import VaultError

KEY = bytes(range(32))
SALT = bytes(range(32, 64))
WORK = Sealer("checkpoint a", KEY, lambda count: SALT[:count])


def test_a_sealed_file_is_read_from_the_document_alone() -> None:
    """Oracle: docs/vault-format.md section 9, with primitives of `cryptography` only."""
    data = WORK.seal(b"weights")
    assert data[:8] == b"PROPERW1"
    assert data[8:40] == SALT
    derived = HKDF(SHA256(), 32, data[8:40], b"proper vault working file 1").derive(KEY)
    plain = AESGCM(derived).decrypt(bytes(12), data[40:], b"PROPERW1checkpoint a")
    assert plain == b"weights" == WORK.open(data)


def test_every_altered_bit_cut_and_addition_is_refused() -> None:
    data = WORK.seal(b"weights")
    altered = [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]
    for one in (*altered, *(data[:cut] for cut in range(len(data))), data + b"\0"):
        with pytest.raises(VaultError, match="cannot be read"):
            WORK.open(one)


def test_other_work_and_other_vaults_are_refused() -> None:
    data = WORK.seal(b"weights")
    for other in (
        Sealer("checkpoint b", KEY, WORK.random),
        Sealer("checkpoint a", bytes(32), WORK.random),
    ):
        with pytest.raises(VaultError):
            other.open(data)


def test_checkpoints_go_through_it(tmp_path: Path) -> None:
    place = Sealed(tmp_path / "training", WORK.seal, WORK.open)
    tensors, meta = {"a": torch.arange(6.0).reshape(2, 3)}, {"steps": [1, 2], "canary": "zqx"}
    assert load_checkpoint(place) is None
    save_checkpoint(place, tensors, meta)
    found = load_checkpoint(place)
    assert found is not None
    assert torch.equal(found[0]["a"], tensors["a"])
    assert found[1] == meta == load_meta(place)
    data = place.path.read_bytes()
    assert b"zqx" not in data
    assert tensors["a"].numpy().tobytes() not in data
    further = beside(place, ".refit")
    assert isinstance(further, Sealed)
    assert further.path.name == "training.refit"
