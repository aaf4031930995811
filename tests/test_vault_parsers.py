"""Vaults and backups that are almost right: read exactly, or refused with an error of ours."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.vault.keys_document import decode_keys, encode_keys
from client.vault.sealing import Header, read_header, seal, unseal
from proper_model.errors import VaultError
from proper_model.storage import canonical
from tests.age_files import seal as seal_age
from tests.vault_mutations import SECRET as PASSPHRASE
from tests.vault_mutations import (
    good_backup,
    good_vaults,
    mutated_backups,
    mutated_vaults,
    refusal_of_backup,
    refusal_of_vault,
)

HEX = {size: st.binary(min_size=size, max_size=size).map(bytes.hex) for size in (8, 16, 32, 48)}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | HEX[8] | HEX[32],
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=4,
)
HEADER = st.fixed_dictionaries(
    {
        "alg": st.just("hkdf-sha256 aes-256-gcm"),
        "bundle_id": HEX[32],
        "format": st.just(1),
        "generation": st.integers(1, (1 << 53) - 1),
        "key_id": HEX[8],
        "salt": HEX[32],
        "vault_id": HEX[16],
    },
    optional={"alone": st.just(True)},
)
# With room for a tag, or cut off; of sizes from one range most would be cut off.
BODY = st.binary(min_size=16, max_size=40) | st.binary(max_size=15)
ARGON2ID = st.fixed_dictionaries(
    {
        "name": st.just("argon2id"),
        "memory_kib": st.integers(128, 1 << 20),
        "iterations": st.integers(1, 10),
        "lanes": st.integers(1, 16),
    }
)
SCRYPT = st.fixed_dictionaries({"name": st.just("scrypt"), "log2_n": st.integers(1, 20)})
HKDF = st.just({"name": "hkdf-sha256"})


def slots_of(kind: st.SearchStrategy[str], kdf: st.SearchStrategy) -> st.SearchStrategy:
    fields = {"id": HEX[8], "kdf": kdf, "kind": kind, "salt": HEX[32], "wrapped": HEX[48]}
    return st.fixed_dictionaries(fields)


SLOT = slots_of(st.just("passphrase"), ARGON2ID | SCRYPT) | slots_of(
    st.sampled_from(["key-file", "keyring"]), HKDF
)
SLOTS = st.lists(SLOT, min_size=1, max_size=3, unique_by=lambda slot: slot["id"])
KEY_SET = st.fixed_dictionaries({"key_id": HEX[8], "slots": SLOTS})
CARRIED = st.fixed_dictionaries({"salt": HEX[32], "wrapped": HEX[48]})
FIXED = {"current": KEY_SET, "format": st.just(1), "mac": HEX[32], "vault_id": HEX[16]}
DOCUMENT = st.fixed_dictionaries(
    {**FIXED, "carried": st.none(), "next": st.none()}
) | st.fixed_dictionaries({**FIXED, "carried": CARRIED, "next": KEY_SET})


def places(value: object) -> Iterator[tuple[dict | list, str | int]]:
    """Every (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def spoiled(draw: st.DrawFn, documents: st.SearchStrategy) -> dict:
    """A well-formed document, or one with a value replaced, removed or added."""
    value = copy.deepcopy(draw(documents))  # strategies may hand out one object twice
    container, key = draw(st.sampled_from(list(places(value))))
    change = draw(st.sampled_from(["none", "replace", "remove", "add"]))
    if change == "replace":
        container[key] = draw(JUNK)
    elif change == "remove":
        del container[key]
    elif change == "add" and isinstance(container, dict):
        container[draw(st.text(max_size=6))] = draw(JUNK)
    return value


def compact(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def test_any_header_is_read_exactly_or_refused() -> None:
    seen = set()

    @given(spoiled(HEADER), BODY, st.sampled_from([0, 0, 0, -1, 1]))
    def check(value: dict, body: bytes, off: int) -> None:
        text = compact(value)
        data = b"PROPERV1" + (len(text) + off).to_bytes(4, "big") + text + body
        try:
            header = read_header(data, where="file")
        except VaultError:
            seen.add("refused")
            return
        seen.add("read")
        assert data.startswith(header.prefix())
        assert header.prefix().endswith(text)
        ids = {"vault_id": header.vault_id, "key_id": header.key_id}
        with pytest.raises(VaultError, match="damaged or altered"):
            unseal(data, bytes(32), **ids, generation=header.generation, where="file")

    check()
    assert seen == {"read", "refused"}


def test_any_keys_are_read_exactly_or_refused() -> None:
    seen = set()

    @given(spoiled(DOCUMENT))
    def check(value: dict) -> None:
        try:
            keys, mac = decode_keys(compact(value))
        except VaultError:
            seen.add("refused")
            return
        seen.add("read")
        again = canonical.decode(encode_keys(keys, bytes(32)), where="again")
        assert {**again, "mac": mac.hex()} == value
        for key_set in keys.key_sets():
            for slot in key_set.slots:
                assert slot.cost is None or slot.cost.memory_mib <= 1024

    check()
    assert seen == {"read", "refused"}


@given(st.binary(max_size=200))
def test_any_bytes_are_no_generation_and_no_keys(data: bytes) -> None:
    with pytest.raises(VaultError):
        read_header(b"PROPERV1" + data, where="file")
    with pytest.raises(VaultError):
        decode_keys(data)


@given(st.binary(max_size=300), st.integers(1, (1 << 53) - 1), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_is_unsealed(payload: bytes, generation: int, key: bytes) -> None:
    ids = {"vault_id": "1" * 32, "key_id": "2" * 16}
    header = Header(**ids, bundle_id="3" * 64, generation=generation, salt=bytes(32))
    data = seal(payload, header, key)
    assert len(data) == len(header.prefix()) + len(payload) + 16
    assert unseal(data, key, **ids, generation=generation, where="file") == (header, payload)


# --- a small part of the fuzzing: an error of ours for each, and never content ---------------------


def test_no_mutated_vault_is_read(tmp_path: Path) -> None:
    for files in good_vaults()[0]:
        assert refusal_of_vault(files, tmp_path / "vault") is None, "the positive control"
    ended = Counter(
        refusal_of_vault(files, tmp_path / "vault")
        for files in mutated_vaults(random.Random(1), 200)
    )
    assert ended[None] == 0
    assert {"VaultError", "VaultForeignError"} <= set(ended)


def test_no_mutated_backup_is_read_as_what_it_was(tmp_path: Path) -> None:
    assert refusal_of_backup(seal_age(good_backup(), PASSPHRASE, factor=1), tmp_path) is None
    ended = Counter(
        refusal_of_backup(data, tmp_path) for data in mutated_backups(random.Random(2), 60)
    )
    assert ended[None] == 0
    assert ended["VaultError"] > 30
