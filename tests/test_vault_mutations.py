"""A small part of the fuzzing of vaults and backups: an error of ours for each, and never content."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from tests.age_files import seal
from tests.vault_mutations import SECRET as PASSPHRASE
from tests.vault_mutations import (
    good_backup,
    good_vaults,
    mutated_backups,
    mutated_vaults,
    refusal_of_backup,
    refusal_of_vault,
)


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
    assert refusal_of_backup(seal(good_backup(), PASSPHRASE, factor=1), tmp_path) is None
    ended = Counter(
        refusal_of_backup(data, tmp_path) for data in mutated_backups(random.Random(2), 60)
    )
    assert ended[None] == 0
    assert ended["VaultError"] > 30
