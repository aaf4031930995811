"""Write tests/vectors/bundle: one good bundle, and malformed ones with the error each must raise.

    python tests/vectors/make_bundle_vectors.py [FOLDER]

Deterministic: keys are fixed and Ed25519 signatures are. `good/` is a whole bundle; a case takes
its files, removes some, and replaces those that lie in the case's own folder. `index.json` says
what to expect. Other implementations of docs/bundle-format.md can read them without this code.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from bundle_samples import (  # noqa: E402
    CREATED,
    KEY,
    LIFETIME,
    NOW,
    ROOT,
    SECOND_KEY,
    STRANGER,
    floats,
    format_bundle,
    int64s,
    raw_tensor_file,
    shared_tensors,
    tensor_file,
)

from proper_model.bundle.signatures import MANIFEST_DOMAIN, ROOT_DOMAIN, sign  # noqa: E402
from proper_model.bundle.signed_time import format_time  # noqa: E402
from proper_model.storage import canonical  # noqa: E402

MANIFEST, SIGNATURES, SHARED = "manifest.json", "signatures.json", "shared.safetensors"
BASE = "base/model.safetensors"
USER, ONE = "routers.tied.user", {"dtype": "F32", "shape": [1]}
GOOD = format_bundle().all_files()

Files = dict[str, bytes]


def signed(manifest: bytes, keys=(KEY,), domain: bytes = MANIFEST_DOMAIN, **files: bytes) -> Files:
    """The good files under another, signed manifest."""
    return {**GOOD, **files, MANIFEST: manifest, SIGNATURES: sign(domain, manifest, keys)}


def changed(change: Callable[[dict[str, Any]], object]) -> Files:
    """The good files, with the manifest changed before it was signed."""
    value = json.loads(GOOD[MANIFEST])
    change(value)
    return signed(canonical.encode(value))


def put(**fields: object) -> Files:
    return changed(lambda manifest: manifest.update(fields))


def listed(name: str, data: bytes = b"{}", table: Mapping[str, Any] | None = None) -> Files:
    """The good files and one more, correctly hashed and signed."""

    def add(manifest: dict[str, Any]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        entry = {"size": len(data), "sha256": digest, "tensors": table}
        manifest["files"][name] = entry

    files = changed(add)
    # Names that would leave the folder exist in the manifest only.
    return {**files, name: data} if name in GOOD else files


def shared(tensors: Mapping[str, Any]) -> Files:
    """The good files with other shared tensors, correctly described, hashed and signed."""
    table = {n: {"dtype": d, "shape": list(s)} for n, (d, s, _) in tensors.items()}
    return listed(SHARED, tensor_file(tensors), table)


def shared_raw(head: str, body: bytes, table: Mapping[str, Any]) -> Files:
    return listed(SHARED, raw_tensor_file(head.encode(), body), table)


def replaced(name: str, data: bytes) -> Files:
    return {**GOOD, name: data}


def without(*names: str) -> Files:
    return {name: data for name, data in GOOD.items() if name not in names}


def drop(manifest: dict[str, Any], *path: str) -> None:
    for part in path[:-1]:
        manifest = manifest[part]
    del manifest[path[-1]]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def reformatted(text: bytes, old: bytes, new: bytes) -> bytes:
    assert old in text
    return text.replace(old, new, 1)


def header(*tensors: tuple[str, int, int]) -> str:
    """A tensor header of (name, begin, end), written out so that names may repeat."""
    entry = '"{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}'
    return "{" + ",".join(entry.format(*tensor) for tensor in tensors) + "}"


def with_tensor(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Files:
    """The good files with one shared tensor more, or another of the name."""
    return shared({**shared_tensors(), name: (dtype, shape, data)})


def with_spans(data: bytes, *spans: tuple[int, int]) -> Files:
    """A file of shared tensors that says of every one that it is USER, at bytes of `data`."""
    return shared_raw(header(*((USER, *span) for span in spans)), data, {USER: ONE})


def hub(**fields: object) -> dict[str, Any]:
    digest = "0" * 64
    base = {"kind": "hub", "hub_id": "some/base", "revision": "abc", "files": {"a.json": digest}}
    return {**base, **fields}


def accepted() -> dict[str, tuple[str, Files]]:
    nobody = {
        "mean_embedding": ("F32", (1, 2), floats(0, 0)),
        "mean_embedding_count": ("I64", (1,), int64s(0)),
    }
    return {
        "good": ("a release as the publisher writes it", GOOD),
        "two-signatures": (
            "signed by the trusted and by an unknown key, as during a change of keys",
            signed(GOOD[MANIFEST], keys=(KEY, SECOND_KEY)),
        ),
        "nobody-averaged": ("a mean over no user is allowed when it is all zeros", shared(nobody)),
    }


def badly_signed() -> dict[str, tuple[str, Files]]:
    manifest, signatures = GOOD[MANIFEST], GOOD[SIGNATURES]
    signature = KEY.sign(MANIFEST_DOMAIN + manifest)
    return {
        "manifest-bit": ("one bit of the manifest", replaced(MANIFEST, flip(manifest, 40))),
        "manifest-empty": ("no manifest bytes", replaced(MANIFEST, b"")),
        "manifest-truncated": ("half a manifest", replaced(MANIFEST, manifest[:600])),
        "manifest-newline": ("a line end after it", replaced(MANIFEST, manifest + b"\n")),
        "signature-digit": (
            "one digit of the signature",
            replaced(SIGNATURES, signatures[:-10] + b"0123456" + signatures[-3:]),
        ),
        "stranger": ("signed by an unknown key only", signed(manifest, keys=(STRANGER,))),
        "no-signature": ("an empty list", replaced(SIGNATURES, b'{"signatures":{}}')),
        "no-domain": ("signed without the domain prefix", signed(manifest, domain=b"")),
        "root-domain": ("signed as a trusted root", signed(manifest, domain=ROOT_DOMAIN)),
        "unknown-key-id": (
            "the right signature under another key's id",
            replaced(SIGNATURES, canonical.encode({"signatures": {"0" * 64: signature.hex()}})),
        ),
    }


def malformed_documents() -> dict[str, tuple[str, Files]]:
    manifest, signatures = GOOD[MANIFEST], GOOD[SIGNATURES]
    twice = reformatted(manifest, b'"version":1}', b'"version":1,"version":1}')
    escaped = reformatted(manifest, b"default", b"\\u0064efault")
    fraction = reformatted(manifest, b'"version":1}', b'"version":1.0}')
    return {
        "signatures-space": ("not canonical", replaced(SIGNATURES, signatures + b" ")),
        "signatures-upper": (
            "hex in upper case",
            replaced(SIGNATURES, signatures[:-133] + signatures[-133:].upper()),
        ),
        "signatures-bytes": ("not UTF-8", replaced(SIGNATURES, b"\xff" + signatures)),
        "signatures-field": ("a second field", replaced(SIGNATURES, b'{"a":1,"signatures":{}}')),
        "spaced": ("white space", signed(reformatted(manifest, b":1,", b": 1,"))),
        "duplicate-key": ("version stands twice", signed(twice)),
        "trailing": ("data after the value", signed(manifest + b"{}")),
        "byte-order-mark": ("starts with U+FEFF", signed(b"\xef\xbb\xbf" + manifest)),
        "escaped": ("a letter as escape", signed(escaped)),
        "fraction": ("version 1.0", signed(fraction)),
        "deep": ("nested 5,000 times", signed(b"[" * 5000 + b"]" * 5000)),
        "long-number": ("4000 digits", signed(b'{"version":' + b"9" * 4000 + b"}")),
        "not-normal": ("a string not in NFC", signed(b'{"product":"e\xcc\x81"}')),
        "array": ("no object", signed(b"[]")),
        "unknown-field": ("a field of no format", put(comment="")),
        "missing-field": ("expires left out", changed(lambda m: drop(m, "expires"))),
        "boolean-version": ("version true", put(version=True)),
        "boolean-format": ("format true", put(format=True)),
        "version-zero": ("versions start at 1", put(version=0)),
        "time-form": ("a time with offset", put(created="2026-01-01T00:00:00+00:00")),
        "time-order": ("expires before created", put(expires="2025-01-01T00:00:00Z")),
        "no-files": ("an empty list", put(files={})),
        "hash-upper": (
            "a hash in upper case",
            changed(lambda m: m["files"]["task.toml"].update(sha256="A" * 64)),
        ),
    }


def malformed_names() -> dict[str, tuple[str, Files]]:
    names = {
        "name-parent": "../escape.json",
        "name-inner-parent": "base/../../escape.json",
        "name-absolute": "/etc/escape.json",
        "name-empty-segment": "base//a.json",
        "name-backslash": "base\\a.json",
        "name-hidden": ".hidden.json",
        "name-newline": "a\n.json",
        "name-unicode": "é.json",
        "name-device": "nul.json",
        "name-long": "a" * 101 + ".json",
        "name-nested": "a/b/c/d/e/f/g.json",
        "name-case": "Task.toml",
        "name-folder-case": "Base/other.json",
        "name-file-and-folder": "recipe.json/inner.json",
        "name-reserved": "Manifest.json",
        "name-pickle": "base/pytorch_model.bin",
        "name-code": "base/modeling.py",
    }
    return {case: (f"file name {name[:20]!r}", listed(name)) for case, name in names.items()}


def refused_content() -> dict[str, tuple[str, Files]]:
    good = shared_tensors()
    uncounted = {name: tensor for name, tensor in good.items() if name != "prototype_counts"}
    overlap = header((USER, 0, 4), ("routers.a.user", 0, 4))
    return {
        "file-missing": ("a listed file is not there", without("task.toml")),
        "file-extra": ("a file that is not listed", {**GOOD, "extra.json": b"{}"}),
        "text-bytes": ("recipe.json is not UTF-8", listed("recipe.json", b"\xff\xfe")),
        "table-missing": (
            "a tensor file without table",
            changed(lambda m: m["files"][SHARED].update(tensors=None)),
        ),
        "table-on-text": (
            "a text file with a table",
            changed(lambda m: m["files"]["task.toml"].update(tensors={})),
        ),
        "tensor-name": ("a path as tensor name", with_tensor("../../a", "F32", (1,), floats(1))),
        "tensor-unknown": ("not on the list", with_tensor("extra", "F32", (1,), floats(1))),
        "user-embeddings": (
            "a table of users",
            with_tensor("user_embeddings", "F32", (24, 1), floats(*range(24))),
        ),
        "user-embedding-in-base": (
            "a table of users beside the base's weights",
            changed(lambda m: m["files"][BASE]["tensors"].update(user_embedding=ONE)),
        ),
        "prototype-of-nine": ("nine members", shared(shared_tensors((12, 9)))),
        "prototype-of-none": ("no member, yet not zero", shared(shared_tensors((12, 0)))),
        "prototype-uncounted": ("counts left out", shared(uncounted)),
        "prototype-count-shape": (
            "one count for two prototypes",
            with_tensor("prototype_counts", "I64", (1,), int64s(20)),
        ),
        "mean-of-nine": (
            "the mean embedding averages nine users",
            with_tensor("mean_embedding_count", "I64", (), int64s(9)),
        ),
        "tensor-nan": ("a NaN", with_tensor(USER, "F32", (1,), b"\x00\x00\xc0\x7f")),
        "tensor-infinite": ("an infinity", with_tensor(USER, "BF16", (1,), b"\x80\x7f")),
        "tensor-twice": ("the same tensor name twice", with_spans(floats(1, 2), (0, 4), (4, 8))),
        "tensor-overlap": (
            "two tensors on the same bytes",
            shared_raw(overlap, floats(1), {USER: ONE, "routers.a.user": ONE}),
        ),
        "tensor-gap": ("hidden bytes before a tensor", with_spans(floats(1, 2), (4, 8))),
        "tensor-tail": ("hidden bytes after the tensors", with_spans(floats(1, 2), (0, 4))),
        "tensor-length": ("eight bytes for one number", with_spans(floats(1, 2), (0, 8))),
        "tensor-dtype": ("an unknown dtype", with_tensor(USER, "C64", (1,), floats(1, 2))),
        "tensor-header-past-end": (
            "the header runs past the end",
            listed(SHARED, struct.pack("<Q", 1000) + b"{}", {USER: ONE}),
        ),
        "tensor-no-header": ("three bytes", listed(SHARED, b"abc", {USER: ONE})),
        "base-missing": ("embedded, but not there", changed(lambda m: drop(m, "files", BASE))),
        "hub-with-base": ("hub base and embedded weights", put(base=hub())),
        "hub-without-population": (
            "hub base without population LoRA",
            changed(lambda m: (m.update(base=hub()), drop(m, "files", BASE))),
        ),
        "hub-pickle": ("a pickled base file", put(base=hub(files={"a.bin": "0" * 64}))),
        "hub-revision": ("a revision with path", put(base=hub(revision="../x"))),
    }


def altered_files() -> dict[str, tuple[str, Files]]:
    data = GOOD[SHARED]
    other = {USER: {"dtype": "F32", "shape": [2]}}
    return {
        "file-bit": ("one bit of a tensor", replaced(SHARED, flip(data, len(data) - 2))),
        "file-truncated": ("a byte less", replaced("task.toml", GOOD["task.toml"][:-1])),
        "file-extended": ("a byte more", replaced("task.toml", GOOD["task.toml"] + b"\n")),
        "file-empty": ("no bytes", replaced("recipe.json", b"")),
        "table-differs": (
            "signed table and file disagree",
            listed(SHARED, tensor_file({USER: ("F32", (1,), floats(1))}), other),
        ),
    }


def foreign() -> dict[str, tuple[str, Files]]:
    return {
        "other-product": ("another product", put(product="other")),
        "other-format": ("a format of the future", put(format=2, novelty={})),
        "other-channel": ("another population", put(channel="films")),
    }


def with_circumstances() -> dict[str, tuple[str, str, Files, dict[str, Any]]]:
    """name -> (error, note, files, what the device knows or limits)."""
    limits = {
        "limit-manifest": {"manifest_bytes": 100},
        "limit-signatures": {"signature_bytes": 100},
        "limit-files": {"files": 4},
        "limit-file": {"file_bytes": 100},
        "limit-total": {"total_bytes": 300},
        "limit-header": {"header_bytes": 16},
        "limit-tensors": {"tensors": 8},
        "limit-elements": {"elements": 20},
    }
    cases = {
        case: ("BundleLimitError", f"over {next(iter(limit))}", GOOD, {"limits": limit})
        for case, limit in limits.items()
    }
    huge = json.loads(listed("huge.json", b"{}")[MANIFEST])
    huge["files"]["huge.json"]["size"] = 2**50
    expires = format_time(CREATED + LIFETIME)
    early = format_time(CREATED - timedelta(hours=1, seconds=1))
    close = format_time(CREATED - timedelta(hours=1))
    long_lived = put(expires=format_time(CREATED + timedelta(days=401)))
    newer = format_bundle(3).all_files()
    other = {"highest_version": 1, "highest_id": "0" * 64}
    same = {"highest_version": 1, "highest_id": hashlib.sha256(GOOD[MANIFEST]).hexdigest()}
    ids = (hashlib.sha256(bytes([n])).hexdigest() for n in range(17))
    many = replaced(SIGNATURES, canonical.encode({"signatures": dict.fromkeys(ids, "0" * 128)}))
    return {
        **cases,
        "limit-declared": ("BundleLimitError", "2^50 bytes", signed(canonical.encode(huge)), {}),
        "limit-many-signatures": ("BundleLimitError", "17 signatures", many, {}),
        "expired": ("BundleExpiredError", "a year late", GOOD, {"now": "2028-01-01T00:00:00Z"}),
        "expired-now": ("BundleExpiredError", "at the second it expires", GOOD, {"now": expires}),
        "future": ("BundleTimeError", "an hour and more ahead", GOOD, {"now": early}),
        "future-clocks-differ": ("ok", "an hour ahead", GOOD, {"now": close}),
        "lifetime": ("BundleTimeError", "valid for 401 days", long_lived, {}),
        "older": ("BundleRollbackError", "version 2 is known", GOOD, {"highest_version": 2}),
        "same-version": ("BundleRollbackError", "another bundle has version 1", GOOD, other),
        "known": ("ok", "the same bundle again", GOOD, same),
        "newer": ("ok", "version 3 after 1", newer, other),
    }


def write_vectors(folder: Path) -> None:
    """Write all cases below `folder`, which should be new or hold only earlier vectors."""
    groups = {
        "ok": accepted(),
        "BundleSignatureError": badly_signed(),
        "BundleFormatError": malformed_documents() | malformed_names() | refused_content(),
        "BundleIntegrityError": altered_files(),
        "BundleForeignError": foreign(),
    }
    cases = {
        name: (error, note, files, {})
        for error, group in groups.items()
        for name, (note, files) in group.items()
    } | with_circumstances()
    index = []
    for name, (error, note, files, circumstances) in cases.items():
        own = {n: data for n, data in files.items() if name == "good" or GOOD.get(n) != data}
        for file, data in own.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        entry = {
            "name": name,
            "note": note,
            "expect": error,
            "replace": sorted(own) if name != "good" else [],
            "remove": sorted(set(GOOD) - set(files)),
            "now": format_time(NOW),
            "highest_version": 0,
            "highest_id": None,
            "limits": {},
            **circumstances,
        }
        index.append(entry)
    (folder / "root.json").write_bytes(ROOT.to_bytes())
    text = json.dumps({"good": "good", "cases": index}, indent=1, ensure_ascii=False)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_vectors(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "bundle")
