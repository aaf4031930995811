"""The committed vaults: read alike by two programs, or refused with the error their list names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyrings import MemoryKeyring
from vault_reader import read_all
from vault_samples import put_key_file, tree, write_files

from client.vault.opening import Content, KeyringEntry, Passphrase, Secret, Vault, open_vault
from proper_model.errors import ProperError

VECTORS = Path(__file__).parent / "vectors"
GOOD = json.loads((VECTORS / "vault" / "good.json").read_text("utf-8"))["cases"]
REFUSED = json.loads((VECTORS / "vault" / "malformed.json").read_text("utf-8"))
MALFORMED = REFUSED["cases"]


def by_name(case: dict) -> str:
    return case["name"]


def put_case(files: dict, folder: Path) -> Path:
    return write_files(
        folder,
        {
            name: text.encode() if name == "keys.json" else bytes.fromhex(text)
            for name, text in files.items()
            if text is not None
        },
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path, dict], Vault]]:
    """Open a folder with a secret as the vectors write it."""
    before = keyring.get_keyring()

    def secret_of(value: dict) -> Secret:
        if "passphrase" in value:
            return Passphrase(value["passphrase"])
        if "key_file" in value:
            return put_key_file(tmp_path / "key-file", bytes.fromhex(value["key_file"]))
        keyring.set_keyring(MemoryKeyring(value["keyring"]))
        return KeyringEntry()

    yield lambda folder, value: open_vault(folder, secret_of(value))
    keyring.set_keyring(before)


def as_written(content: Content | None) -> dict | None:
    return content and {
        "bundle_id": content.bundle_id,
        "generation": content.generation,
        "payload": content.payload.hex(),
    }


@pytest.mark.parametrize("case", GOOD, ids=by_name)
def test_good_vector(case, tmp_path, opened):
    folder = put_case(case["files"], tmp_path / "vault")
    before = tree(folder)
    for secret in case["secrets"]:
        vault = opened(folder, secret)
        answer = [as_written(vault.read()), as_written(vault.read_previous())]
        assert answer == [case["newest"], case["previous"]]
        # The oracle: another program, written from the document.
        independent = read_all(folder, secret)
        assert (independent + [None, None])[:2] == answer
    assert case["secrets"]
    assert tree(folder) == before


@pytest.mark.parametrize("case", MALFORMED, ids=by_name)
def test_malformed_vector(case, tmp_path, opened):
    folder = put_case({**REFUSED["subject"], **case["files"]}, tmp_path / "vault")
    before = tree(folder)
    try:
        opened(folder, case["secret"]).read(bundle_id=case["bundle_id"])
    except ProperError as error:
        refused = type(error).__name__
    else:
        refused = "ok"
    assert refused == case["expect"], case["note"]
    assert tree(folder) == before


def test_the_subject_of_the_malformed_vectors_is_good(tmp_path, opened):
    """Were it refused too, the cases that differ from it in one thing would show nothing."""
    vault = opened(
        put_case(REFUSED["subject"], tmp_path / "vault"), {"passphrase": "correct horse"}
    )
    assert as_written(vault.read()) is not None
    assert len(MALFORMED) > 60
    assert {"PassphraseError", "VaultError", "VaultForeignError"} == {
        c["expect"] for c in MALFORMED
    }


def test_the_vectors_are_what_the_code_writes(script):
    maker = script("tests/vectors/make_vault_vectors.py")
    made = maker.vectors()
    for name, cases in made.items():
        committed = (VECTORS / "vault" / name).read_text("utf-8")
        assert maker.render(cases) == committed, f"{name}: run make_vault_vectors.py"
