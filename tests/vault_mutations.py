"""Vaults and backups with bytes changed at random, and what reading each ends in; for fuzzing.

    for files in mutated_vaults(random.Random(0), 1000): assert refusal_of_vault(files, folder)
    for data in mutated_backups(random.Random(0), 1000): assert refusal_of_backup(data, folder)

Each `refusal_of_...` gives the name of our error, None for a file that was read all the same, which
no mutated one may be; any other exception is a fault and is raised. Mutated are the bytes of one
file, and for JSON also single values; a file may be swapped for one of another vault.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from client.vault.backup import Backup, encode, open_backup
from client.vault.opening import KeyFile, open_vault
from proper_model.errors import ProperError
from tests.age_files import seal
from tests.fuzz.mutators import spoil_bytes, spoil_value
from tests.vault_samples import BUNDLE, make_vault, put_key_file, tree, write_files

SECRET = "a passphrase, not a short one"


@cache
def good_vaults() -> tuple[tuple[Mapping[str, bytes], Mapping[str, bytes]], bytes]:
    """Two vaults with one generation each, the second one forgotten from, and their key file."""
    key = bytes(range(64))
    with TemporaryDirectory() as work:
        file = put_key_file(Path(work) / "key", key)
        one = make_vault(Path(work) / "one", b"private", secrets=[file], seed="one")
        two = make_vault(Path(work) / "two", b"private", secrets=[file], seed="two")
        two.write(b"less", bundle_id=BUNDLE, alone=True)
        return (tree(one.folder), tree(two.folder)), key


def mutated(data: bytes, source: random.Random, other: bytes = b"") -> bytes:
    """`data` with one to three changes, never as it was."""
    changed = data
    while changed == data:
        changed = spoil_bytes(data, source, other)
    return changed


def mutated_json(data: bytes, source: random.Random) -> bytes:
    """A canonical document with some value replaced, removed or added; canonical again, if it can be."""
    changed = data
    while changed == data:
        value = spoil_value(json.loads(data), source)
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        changed = text.encode("utf-8", "surrogatepass")
    return changed


def mutated_vaults(source: random.Random, count: int) -> Iterator[dict[str, bytes]]:
    """Files of vaults, each with one file changed or taken from the other vault."""
    vaults, _ = good_vaults()
    for _ in range(count):
        own, other = source.sample(vaults, 2)
        files = dict(own)
        name = source.choice(sorted(files))
        kind = source.random()
        if kind < 0.1:
            files[name] = other[
                min(other, key=lambda one: (one == "keys.json") != (name == "keys.json"))
            ]
        elif kind < 0.5 and name == "keys.json":
            files[name] = mutated_json(files[name], source)
        else:
            files[name] = mutated(files[name], source)
        yield files


def refusal_of_vault(files: Mapping[str, bytes], folder: Path) -> str | None:
    """What reading these files ends in; `folder` must not exist and is removed again."""
    _, key = good_vaults()
    write_files(folder, files)
    file = put_key_file(folder / "key", key)
    try:
        open_vault(folder, KeyFile(file.path)).read()
    except ProperError as error:
        return type(error).__name__
    finally:
        shutil.rmtree(folder)
    return None


@cache
def good_backup() -> bytes:
    made = Backup(b"private", datetime(2026, 3, 1, tzinfo=UTC), BUNDLE)
    return encode(made)


def mutated_backups(source: random.Random, count: int) -> Iterator[bytes]:
    """age files with bytes changed outside, or well-formed ones with bytes changed inside."""
    inside, whole = good_backup(), seal(good_backup(), SECRET, factor=1)
    length = int.from_bytes(inside[8:12], "big")
    for _ in range(count):
        kind = source.random()
        if kind < 0.4:
            yield mutated(whole, source)
        elif kind < 0.7:
            yield seal(mutated(inside, source), SECRET, factor=1)
        else:
            head = mutated_json(inside[12 : 12 + length], source)
            changed = inside[:8] + len(head).to_bytes(4, "big") + head + inside[12 + length :]
            yield seal(changed, SECRET, factor=1)


def refusal_of_backup(data: bytes, folder: Path) -> str | None:
    """What opening these bytes as a backup ends in; writes a file into `folder`."""
    path = folder / "mutated.age"
    path.write_bytes(data)
    try:
        found = open_backup(path, SECRET)
    except ProperError as error:
        return type(error).__name__
    # Another time or release is another backup, not a broken one: whoever has the passphrase made it.
    return None if encode(found) == good_backup() else "other content"
