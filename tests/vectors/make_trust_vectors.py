"""Writes the vectors of `tests/vectors/trust`: roots, words on the newest release, and times.

Run it from the repository: `python tests/vectors/make_trust_vectors.py`. The same bytes each time.
Every case gives a device's root, what was accepted before, and one document; `expect` is `ok` or the
class of the refusal. Documents are text, because all of them are canonical JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent.parent, HERE.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from bundle_samples import CREATED, KEY, NOW  # noqa: E402

from proper_model.bundle.public_keys import key_id, public_bytes  # noqa: E402
from proper_model.bundle.signatures import (  # noqa: E402
    LATEST_DOMAIN,
    MANIFEST_DOMAIN,
    signature_fields,
)
from proper_model.bundle.signed_time import format_time  # noqa: E402
from proper_model.bundle.trusted_root import TrustedRoot  # noqa: E402
from proper_model.storage import canonical  # noqa: E402
from tests.publisher import (  # noqa: E402
    LATEST_KEY,
    NEW_RELEASE_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    THIEF,
    roles_root,
    signed_root,
    word,
)

FIRST = roles_root()
NEXT = roles_root(2, release=(NEW_RELEASE_KEY,))
SMALL_ORDER = {
    "identity": "01" + "00" * 31,
    "identity, other encoding": "ee" + "ff" * 30 + "7f",
    "order two": "ec" + "ff" * 30 + "7f",
    "order four": "00" * 32,
    "order eight": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
}


def rotation(
    name: str, root: TrustedRoot, keys: Any, expect: str, *, current: TrustedRoot = FIRST
) -> dict[str, Any]:
    """A device with the root `current` is shown this one."""
    data, signatures = signed_root(root, keys)
    return {
        "kind": "rotation",
        "name": name,
        "current": current.to_bytes().decode(),
        "root": data.decode(),
        "signatures": signatures.decode(),
        "expect": expect,
    }


def latest(name: str, data: bytes, expect: str) -> dict[str, Any]:
    return {
        "kind": "latest",
        "name": name,
        "current": FIRST.to_bytes().decode(),
        "latest": data.decode(),
        "now": format_time(NOW),
        "expect": expect,
    }


def with_key(public: str) -> bytes:
    """`FIRST` with this key as a root key, whatever it is."""
    value = json.loads(FIRST.to_bytes())
    old = key_id(public_bytes(ROOT_KEYS[0]))
    new = key_id(bytes.fromhex(public))
    del value["keys"][old]
    value["keys"][new] = public
    ids = value["roles"]["root"]["keys"]
    value["roles"]["root"]["keys"] = sorted(new if name == old else name for name in ids)
    return canonical.encode(value)


def rotations() -> list[dict[str, Any]]:
    two = ROOT_KEYS[:2]
    old = TrustedRoot.of([KEY])
    elsewhere = roles_root(2, root=(THIEF,), threshold=1)
    stolen = (RELEASE_KEY, LATEST_KEY, THIEF)
    back = TrustedRoot.of(ROOT_KEYS, threshold=2, version=2)
    return [
        rotation("two of three root keys", NEXT, two, "ok"),
        rotation("one of three", NEXT, two[:1], "BundleSignatureError"),
        rotation("the same key twice", NEXT, (two[0], two[0]), "BundleSignatureError"),
        rotation("stolen release and latest keys", elsewhere, stolen, "BundleSignatureError"),
        rotation("new keys alone", elsewhere, (THIEF,), "BundleSignatureError"),
        rotation("old keys alone", elsewhere, two, "BundleSignatureError"),
        rotation("old and new keys", elsewhere, (*two, THIEF), "ok"),
        rotation("a version is skipped", roles_root(3), two, "BundleFormatError"),
        rotation("the same version", roles_root(1), two, "BundleRollbackError"),
        rotation("another channel", roles_root(2, channel="films"), two, "BundleForeignError"),
        rotation("from one role to three", NEXT, (KEY, *two), "ok", current=old),
        rotation("from three roles to one", back, two, "BundleRollbackError"),
    ]


def roots() -> list[dict[str, Any]]:
    endless = json.loads(FIRST.to_bytes())
    endless["expires"] = "2031-01-06T00:00:00Z"  # five years of 366 days, and one day
    cases = [
        ("a root with roles", FIRST.to_bytes(), "ok"),
        ("a root with one role", TrustedRoot.of([KEY]).to_bytes(), "ok"),
        *((name, with_key(public), "BundleFormatError") for name, public in SMALL_ORDER.items()),
        ("valid for too long", canonical.encode(endless), "BundleTimeError"),
    ]
    return [
        {"kind": "root", "name": name, "root": root.decode(), "expect": expect}
        for name, root, expect in cases
    ]


def signed(told: dict[str, Any], domain: bytes) -> bytes:
    signatures = signature_fields(domain, canonical.encode(told), [LATEST_KEY])
    return canonical.encode({"signed": told, "signatures": signatures})


def words() -> list[dict[str, Any]]:
    files, hour = SimpleNamespace(bundle_id="ab" * 32), timedelta(hours=1)
    good = word(files, 3, 8)
    told = json.loads(good)["signed"]
    long_lived = {**told, "expires": format_time(CREATED + timedelta(days=101))}
    ahead = word(files, 3, 8, created=NOW + hour)
    unsigned = canonical.encode({"bundle_id": files.bundle_id, "version": 3})
    further = word(files, 3, 8, created=NOW + hour + timedelta(seconds=1))
    return [
        latest("signed by its role", good, "ok"),
        latest("by a release key", word(files, 3, 8, keys=(RELEASE_KEY,)), "BundleSignatureError"),
        latest("by root keys", word(files, 3, 8, keys=ROOT_KEYS), "BundleSignatureError"),
        latest("as a manifest", signed(told, MANIFEST_DOMAIN), "BundleSignatureError"),
        latest("unsigned", unsigned, "BundleSignatureError"),
        latest("another channel", word(files, 3, 8, channel="films"), "BundleForeignError"),
        latest("an hour ahead", ahead, "ok"),
        latest("more than an hour ahead", further, "BundleTimeError"),
        latest("valid for 101 days", signed(long_lived, LATEST_DOMAIN), "BundleTimeError"),
        latest("white space", good.replace(b":", b": ", 1), "BundleFormatError"),
    ]


def write_vectors(folder: Path) -> None:
    """Write all cases to `folder/index.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([*roots(), *rotations(), *words()], indent=1, ensure_ascii=False)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_vectors(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "trust")
