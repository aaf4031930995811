"""Write tests/vectors/vault: good vaults with their content, malformed ones with their refusal.

    python tests/vectors/make_vault_vectors.py [FOLDER]

Deterministic: all random bytes are fixed. docs/vault-format.md section 10 says how to read them.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import keyring  # noqa: E402
from keyrings import MemoryKeyring  # noqa: E402
from vault_samples import (  # noqa: E402
    BUNDLE,
    CHEAP,
    CHEAP_SCRYPT,
    OTHER_BUNDLE,
    counted,
    put_key_file,
    tree,
)

from client.vault.key_derivation import Argon2idCost, Cost  # noqa: E402
from client.vault.key_slots import KeySet  # noqa: E402
from client.vault.keys_document import unlock  # noqa: E402
from client.vault.opening import KeyFile, KeyringEntry, Passphrase, create_vault  # noqa: E402
from client.vault.sealing import Header, seal  # noqa: E402
from proper_model.storage import canonical  # noqa: E402

Case = dict[str, Any]
KEY_FILE = bytes(range(40))
WORD = {"passphrase": "correct horse"}
COMPOSED, DECOMPOSED = "caf\u00e9 \u212b", "cafe\u0301 A\u030a"


def made(work: Path, name: str, secrets: list, cost: Cost = CHEAP, payloads=(b"one", b"two")):
    """A vault of the current code with fixed random bytes; its bundles differ by generation."""
    folder = work / name
    vault = create_vault(folder, secrets, random=counted(name), cost=cost)
    for number, payload in enumerate(payloads):
        vault.write(payload, bundle_id=(OTHER_BUNDLE, BUNDLE)[number % 2])
    return folder, vault


def written(folder: Path) -> dict[str, str]:
    """The files as the vectors hold them."""
    return {
        name: data.decode() if name == "keys.json" else data.hex()
        for name, data in tree(folder).items()
    }


def good(name: str, note: str, folder: Path, secrets: list, payloads=(b"one", b"two")) -> Case:
    contents = [
        {
            "bundle_id": (OTHER_BUNDLE, BUNDLE)[number % 2],
            "generation": number + 1,
            "payload": payload.hex(),
        }
        for number, payload in enumerate(payloads)
    ]
    newest, previous = (list(reversed(contents)) + [None, None])[:2]
    answer = {"newest": newest, "previous": previous}
    return {"name": name, "note": note, "files": written(folder), "secrets": secrets, **answer}


def good_cases(work: Path) -> list[Case]:
    word, file = Passphrase("correct horse"), put_key_file(work / "key", KEY_FILE)
    cases = []

    def add(name: str, note: str, secrets: list, opens: list, **more: Any) -> None:
        folder, _ = made(work, name, secrets, **more)
        payloads = {"payloads": more["payloads"]} if "payloads" in more else {}
        cases.append(good(name, note, folder, opens, **payloads))

    add("argon2id", "a passphrase, two generations", [word], [WORD])
    add("scrypt", "where there is no Argon2id", [word], [WORD], cost=CHEAP_SCRYPT)
    add("default-cost", "Argon2id with 64 MiB", [word], [WORD], cost=Argon2idCost())
    add("empty", "no generation yet", [word], [WORD], payloads=())
    add("nothing", "a payload of no byte, and none before", [word], [WORD], payloads=(b"",))
    add("three", "two of three are kept", [word], [WORD], payloads=(b"one", b"two", b"three"))
    spelled = [{"passphrase": COMPOSED}, {"passphrase": DECOMPOSED}]
    add("unicode", "a passphrase in two normal forms", [Passphrase(DECOMPOSED)], spelled)
    ring = MemoryKeyring()
    keyring.set_keyring(ring)
    folder, _ = made(work, "all-kinds", [word, file, KeyringEntry(), Passphrase("second")])
    opens = [WORD, {"key_file": KEY_FILE.hex()}, {"keyring": ring.entries}]
    opens.append({"passphrase": "second"})
    cases.append(good("all-kinds", "four slots of three kinds", folder, opens))
    cases.append(interrupted(work))
    cases.append(earlier(work))
    cases.append(forgotten(work))
    return cases


def earlier(work: Path) -> Case:
    """Slots as earlier versions wrote them: the slot key itself wraps, and none is kept."""
    name = "slots-without-turn"
    folder, vault = made(work, name, [Passphrase("correct horse")])
    current, file = vault._file.keys.current, vault._file
    plain = []
    for slot in current.slots:
        bare = replace(slot, turn=None, kept=None)
        own = slot.kept_key(file.key, vault.vault_id, current.key_id)
        plain.append(bare.holding(own, file.key, vault.vault_id, current.key_id))
    file.save_slots(tuple(plain))
    return good(name, "as earlier versions wrote them", folder, [WORD])


def forgotten(work: Path) -> Case:
    """A state from which something was forgotten: a new master key, and every slot holds it."""
    name = "forgotten"
    secrets = [Passphrase("correct horse"), KeyFile(work / "key")]
    folder, vault = made(work, name, secrets, payloads=(b"one",))
    vault.write(b"less", bundle_id=BUNDLE, alone=True)
    case = good(name, "no earlier one is left", folder, [WORD, {"key_file": KEY_FILE.hex()}], ())
    newest = {"bundle_id": BUNDLE, "generation": 2, "payload": b"less".hex()}
    return {**case, "newest": newest}


def interrupted(work: Path) -> Case:
    """A rotation that was killed after one of two generations: that one does not count."""
    name = "rotation"
    folder, vault = made(work, name, [Passphrase("correct horse")])
    file, key, key_id = vault._file, b"n" * 32, "0123456789abcdef"
    file.save_next(KeySet(key_id, file.make_slots([Passphrase("new")], key_id, key)), key)
    header = Header(vault.vault_id, key_id, OTHER_BUNDLE, 3, bytes(32))
    (folder / "00000003.vault").write_bytes(seal(b"one", header, key))
    return good(name, "both secrets open, 3 is ignored", folder, [WORD, {"passphrase": "new"}])


def changed_keys(raw: bytes, change: Callable[[dict[str, Any]], object]) -> str:
    value = copy.deepcopy(json.loads(raw))
    change(value)
    return canonical.encode(value).decode()


def malformed_cases(work: Path) -> Case:
    file = put_key_file(work / "key2", KEY_FILE)
    folder, _ = made(work, "subject", [Passphrase("correct horse"), file])
    raw = (folder / "keys.json").read_bytes()
    cases: list[Case] = []

    def add(name: str, note: str, expect: str, secret=None, bundle_id=None, **put: str | None):
        files = {{"keys": "keys.json", "g1": G1, "g2": G2}[key]: text for key, text in put.items()}
        case = {"name": name, "note": note, "files": files, "secret": secret or WORD}
        cases.append({**case, "bundle_id": bundle_id, "expect": expect})

    def keys(name: str, note: str, change, expect: str = "VaultError", **more) -> None:
        add(f"keys-{name}", note, expect, keys=changed_keys(raw, change), **more)

    text = raw.decode()
    add("wrong-passphrase", "", "PassphraseError", {"passphrase": "wrong horse"})
    add("wrong-key-file", "", "PassphraseError", {"key_file": "00" * 32})
    add("short-key-file", "31 bytes", "PassphraseError", {"key_file": "00" * 31})
    add("no-such-slot", "opened by a kind it lacks", "VaultError", {"keyring": {}})
    add("keys-absent", "", "VaultError", keys=None)
    add("keys-empty", "", "VaultError", keys="")
    add("keys-line-end", "data after the value", "VaultError", keys=text + "\n")
    add("keys-space", "not canonical", "VaultError", keys=text.replace(":", ": ", 1))
    add("keys-cut", "", "VaultError", keys=text[:-1])
    add("keys-twice", "a field twice", "VaultError", keys=text.replace("{", '{"format":1,', 1))
    add("keys-mark", "byte order mark", "VaultError", keys="\ufeff" + text)
    fraction = text.replace('"format":1', '"format":1.0')
    add("keys-fraction", "", "VaultError", keys=fraction)
    for case in KEY_CHANGES:
        keys(*case)
    generation_cases(add, folder, raw)
    other, _ = made(work, "other", [Passphrase("correct horse")])
    add("foreign", "another vault's file", "VaultForeignError", g2=written(other)[G2], g1=None)
    add(
        "foreign-keys",
        "another vault's keys",
        "VaultForeignError",
        keys=written(other)["keys.json"],
    )
    add("bundle", "another bundle is expected", "VaultForeignError", bundle_id=OTHER_BUNDLE)
    return {"subject": written(folder), "cases": cases}


G1, G2 = "00000001.vault", "00000002.vault"


def slot(number: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda k: k["current"]["slots"][number].update(fields)


def kdf(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda k: k["current"]["slots"][0]["kdf"].update(fields)


WIDE = {"name": "argon2id", "memory_kib": 8, "iterations": 1, "lanes": 1}
KEY_CHANGES = [
    ("format", "a later format", lambda k: k.update(format=2)),
    ("format-true", "", lambda k: k.update(format=True)),
    ("extra", "an unknown field", lambda k: k.update(more=1)),
    ("missing", "a field is missing", lambda k: k.pop("next")),
    ("upper", "hex in upper case", lambda k: k.update(vault_id=k["vault_id"].upper())),
    ("vault", "vault id altered", lambda k: k.update(vault_id="0" * 32), "PassphraseError"),
    ("key-id", "", lambda k: k["current"].update(key_id="0" * 16), "PassphraseError"),
    ("mac", "", lambda k: k.update(mac="0" * 64)),
    ("slot-gone", "the MAC tells", lambda k: k["current"]["slots"].pop()),
    ("slot-order", "the MAC tells", lambda k: k["current"]["slots"].reverse()),
    ("slot-other", "the other slot, the MAC tells", slot(1, salt="0" * 64)),
    ("slot-id", "", slot(0, id="0" * 16), "PassphraseError"),
    ("slot-salt", "", slot(0, salt="0" * 64), "PassphraseError"),
    ("slot-wrapped", "", slot(0, wrapped="0" * 96), "PassphraseError"),
    ("slot-short", "", slot(0, salt="0" * 62)),
    ("slot-kind", "unknown", slot(0, kind="pin")),
    ("slot-moved", "key file as keyring", slot(1, kind="keyring")),
    ("slot-extra", "", slot(0, more=1)),
    ("slot-twice", "one id twice", lambda k: k["current"]["slots"].extend(k["current"]["slots"])),
    ("slot-turn", "", slot(0, turn="0" * 64), "PassphraseError"),
    ("slot-turn-gone", "kept without turn", lambda k: k["current"]["slots"][0].pop("turn")),
    ("slot-kept", "the MAC tells", slot(0, kept="0" * 96)),
    ("slot-kept-gone", "turn without kept", lambda k: k["current"]["slots"][0].pop("kept")),
    ("slot-kept-short", "", slot(0, kept="0" * 94)),
    ("slots-none", "", lambda k: k["current"].update(slots=[])),
    ("slots-nine", "", lambda k: k["current"].update(slots=k["current"]["slots"] * 5)),
    ("slots-object", "", lambda k: k["current"].update(slots={})),
    ("cost-lower", "Argon2id, other passes", kdf(iterations=2), "PassphraseError"),
    ("cost-scrypt", "", slot(0, kdf={"name": "scrypt", "log2_n": 1}), "PassphraseError"),
    ("memory-high", "1 GiB and 1 KiB", kdf(memory_kib=1048577)),
    ("memory-low", "below 8 KiB a lane", kdf(memory_kib=7)),
    ("iterations-high", "", kdf(iterations=11)),
    ("iterations-zero", "", kdf(iterations=0)),
    ("lanes-high", "", kdf(lanes=17, memory_kib=1024)),
    ("lanes-zero", "", kdf(lanes=0)),
    ("lanes-true", "", kdf(lanes=True)),
    ("scrypt-high", "2 GiB", slot(0, kdf={"name": "scrypt", "log2_n": 21})),
    ("scrypt-zero", "", slot(0, kdf={"name": "scrypt", "log2_n": 0})),
    ("kdf-unknown", "", slot(0, kdf={"name": "pbkdf2"})),
    ("kdf-hkdf", "a passphrase that is not stretched", slot(0, kdf={"name": "hkdf-sha256"})),
    ("kdf-key-file", "a key file that is stretched", slot(1, kdf=WIDE)),
    ("next-alone", "next without carried", lambda k: k.update(next=k["current"])),
    ("carried-alone", "", lambda k: k.update(carried={"salt": "0" * 64, "wrapped": "0" * 96})),
]


def generation_cases(add: Callable[..., None], folder: Path, raw: bytes) -> None:
    """Single generations (no previous one to fall back on) that are not what they should be."""
    data = (folder / G2).read_bytes()
    length = int.from_bytes(data[8:12], "big")
    head, body = data[12 : 12 + length], data[12 + length :]
    opened = unlock(raw, Passphrase("correct horse"))

    def one(name: str, note: str, content: bytes) -> None:
        add(f"file-{name}", note, "VaultError", g1=None, g2=content.hex())

    def header(name: str, note: str, change: Callable[[dict[str, Any]], object]) -> None:
        value = json.loads(head)
        change(value)
        changed = canonical.encode(value)
        one(name, note, data[:8] + len(changed).to_bytes(4, "big") + changed + body)

    one("empty", "", b"")
    one("magic", "a later format", b"PROPERV2" + data[8:])
    one("cut-magic", "", data[:11])
    one("cut-header", "", data[: 11 + length])
    one("cut-tag", "", data[: 12 + length + 15])
    one("cut-last", "", data[:-1])
    one("longer", "one byte after the tag", data + b"\0")
    one("length-huge", "", data[:8] + b"\xff" * 4 + data[12:])
    one("length-zero", "", data[:8] + bytes(4) + data[12:])
    one("tag", "", data[:-1] + bytes([data[-1] ^ 1]))
    one("text", "", data[:-17] + bytes([data[-17] ^ 1]) + data[-16:])
    spaced = head.replace(b":", b": ", 1)
    one("space", "not canonical", data[:8] + (length + 1).to_bytes(4, "big") + spaced + body)
    header("extra", "an unknown field", lambda h: h.update(more=1))
    header("format", "", lambda h: h.update(format=2))
    header("alg", "", lambda h: h.update(alg="none"))
    header("bundle", "bundle id altered", lambda h: h.update(bundle_id=OTHER_BUNDLE))
    header("generation", "", lambda h: h.update(generation=3))
    header("generation-zero", "", lambda h: h.update(generation=0))
    header("generation-text", "", lambda h: h.update(generation="2"))
    header("salt", "", lambda h: h.update(salt="0" * 64))
    header("vault", "vault id alone: damage", lambda h: h.update(vault_id="0" * 32))
    header("key", "key id alone: an older master key", lambda h: h.update(key_id="0" * 16))
    one("renamed", "generation 1 as 2", (folder / G1).read_bytes())
    resealed = Header(opened.keys.vault_id, "0" * 16, BUNDLE, 2, bytes(32))
    one("other-key", "sealed with a wrong key id", seal(b"two", resealed, opened.current_key))


def vectors() -> Case:
    """Both documents. The keyring in use is put back."""
    before = keyring.get_keyring()
    try:
        with tempfile.TemporaryDirectory() as work:
            return {
                "good.json": {"cases": good_cases(Path(work))},
                "malformed.json": malformed_cases(Path(work)),
            }
    finally:
        keyring.set_keyring(before)


def render(cases: Case) -> str:
    return json.dumps(cases, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "vault"
    target.mkdir(parents=True, exist_ok=True)
    for name, cases in vectors().items():
        (target / name).write_text(render(cases))
