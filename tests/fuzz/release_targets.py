"""What a publisher sends: signatures and roots without a key, and any content with a valid one."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import torch

from client.bundles import add_bundle, load_release
from client.home import Home
from client.loading import LOADED
from proper_model import canonical
from proper_model.artifact import release_to_files
from proper_model.bundle import MANIFEST_NAME, SIGNATURES_NAME, build_bundle, verify_manifest
from proper_model.errors import BundleFormatError
from proper_model.records import Query
from proper_model.trust import MANIFEST_DOMAIN, ROOT_DOMAIN, TrustedRoot, rotate, sign
from tests.bundle_samples import KEY, NOW, SECOND_KEY, STRANGER, sample_bundle, sample_info
from tests.exports import noisy_release
from tests.fuzz.harness import Files, cause_of
from tests.fuzz.mutators import spoil_bytes, spoil_json, spoil_tensors, spoil_toml, spoil_value


@functools.cache
def release_files() -> dict[str, bytes]:
    """A small release that can answer."""
    release = noisy_release()
    mean = release.shared["mean_embedding"]
    shared = {
        **release.shared,
        "mean_embedding_count": torch.tensor(12),
        "prototypes": mean[None].repeat(1, 1, 1).contiguous(),
        "prototype_counts": torch.tensor([12]),
    }
    release.shared = shared
    return release_to_files(release)


@functools.cache
def signed_files() -> dict[str, bytes]:
    now = datetime.now(UTC).replace(microsecond=0)
    info = sample_info(created=now - timedelta(days=1), expires=now + timedelta(days=300))
    return dict(build_bundle(release_files(), info, [KEY]).all_files())


def publish_sample(folder: Path) -> Path:
    """The sample with its root beside it, as `proper bundle add` takes it."""
    return write_release(folder, signed_files())


def write_release(folder: Path, files: Files) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    bundle = folder / "bundle"
    for name, data in files.items():
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "root.json").write_bytes(TrustedRoot.of([KEY]).to_bytes())
    return bundle


class TrustTarget:
    """Roots, rotations, manifests and signature files that no key of the root has signed."""

    name = "trust"

    def __init__(self, folder: Path) -> None:
        del folder
        bundle = sample_bundle(1).all_files()
        root, following = TrustedRoot.of([KEY]), TrustedRoot.of([SECOND_KEY], version=2)
        self.good = {
            "root.json": root.to_bytes(),
            "manifest.json": bundle[MANIFEST_NAME],
            "signatures.json": bundle[SIGNATURES_NAME],
            "2.root.json": following.to_bytes(),
            "2.signatures.json": sign(ROOT_DOMAIN, following.to_bytes(), [KEY, SECOND_KEY]),
        }

    def case(self, rng: Random) -> Files:
        files = dict(self.good)
        name = rng.choice(list(files))
        match rng.randrange(4):
            case 0:
                files[name] = spoil_bytes(files[name], rng, files[rng.choice(list(files))])
            case 1:
                files[name] = canonical_or(spoil_value(json.loads(files[name]), rng), files[name])
            case 2:
                files[name] = spoil_json(files[name], rng)
            case _:  # signed, but by a stranger
                signed, domain = rng.choice(
                    (("manifest.json", MANIFEST_DOMAIN), ("2.root.json", ROOT_DOMAIN))
                )
                files[signed] = canonical_or(
                    spoil_value(json.loads(files[signed]), rng), files[signed]
                )
                beside = "signatures.json" if signed == "manifest.json" else "2.signatures.json"
                files[beside] = sign(domain, files[signed], [STRANGER])
        return files

    def judge(self, files: Files) -> str | None:
        root = TrustedRoot.from_bytes(files["root.json"])
        if root.to_bytes() != files["root.json"]:
            return "read a root in another form than its own"
        taken = verify_manifest(files["manifest.json"], files["signatures.json"], root, now=NOW)
        del taken
        if files["manifest.json"] != self.good["manifest.json"]:
            return "took a manifest that was not signed"
        rotate(root, files["2.root.json"], files["2.signatures.json"])
        same = files["2.root.json"] == self.good["2.root.json"]
        return None if same else "took a root that was not signed"


def canonical_or(value: Any, otherwise: bytes) -> bytes:
    """Canonical bytes, so that the reader gets past the form; the old ones where there are none."""
    try:
        return canonical.encode(value)
    except (BundleFormatError, RecursionError, ValueError):
        return otherwise


class ReleaseTarget:
    """Any content, signed with the trusted key: what is installed must then answer."""

    name = "release"

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "published", Home(folder / "home")

    def case(self, rng: Random) -> Files:
        files = {
            n: d for n, d in signed_files().items() if n not in (MANIFEST_NAME, SIGNATURES_NAME)
        }
        manifest = json.loads(signed_files()[MANIFEST_NAME])
        name = rng.choice(list(files))
        match rng.randrange(12):
            case 0:
                del files[name]
            case 1:
                extra = rng.choice(
                    ("base/x.py", "base/model.safetensors.index.json", "x", "base/x.bin")
                )
                files[extra] = rng.choice((b"{}", b"", files[name]))
            case 2:
                files[name] = rng.choice((b"", b"[" * 100_000, b"{}", b"null"))
            case _ if name.endswith(".safetensors"):
                files[name] = spoil_tensors(files[name], rng)
            case _ if name.endswith(".json"):
                files[name] = spoil_json(files[name], rng)
            case _ if name.endswith(".toml"):
                files[name] = spoil_toml(files[name], rng)
            case _:
                files[name] = spoil_bytes(files[name], rng)
        manifest["files"] = describe(files, manifest["files"])
        if rng.random() < 0.1:
            manifest = spoil_value(manifest, rng)
        raw = canonical_or(manifest, signed_files()[MANIFEST_NAME])
        return {**files, MANIFEST_NAME: raw, SIGNATURES_NAME: sign(MANIFEST_DOMAIN, raw, [KEY])}

    def judge(self, files: Files) -> str | None:
        shutil.rmtree(self.home.path, ignore_errors=True)
        LOADED.clear()
        bundle = write_release(self.folder, files)
        add_bundle(self.home, str(bundle))
        try:
            release, _ = load_release(self.home, threads=1)
            release.model()
            example = release.task.query_example(Query("q", "review: w1 w2", "1"))
            encoder = release.encoder()
            tokens = encoder.encode(example).tokens
            logits = release.base(input_ids=torch.tensor([tokens])).logits
        except Exception as error:  # noqa: BLE001 - the finding is that it was installed
            return f"installed, then {cause_of(error)}"
        return (
            None if bool(torch.isfinite(logits).all()) else "installed, and answers are not finite"
        )


def describe(files: Files, before: Any) -> Any:
    """The manifest's list of these files: size, hash and table of tensors, as far as there is one."""
    listed = {}
    for name, data in sorted(files.items()):
        entry = dict(before.get(name, {"tensors": None}))
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if name.endswith(".safetensors"):
            entry["tensors"] = tensor_table(data, entry.get("tensors", {}))
        listed[name] = entry
    return listed


def tensor_table(data: bytes, otherwise: Any) -> Any:
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        return {
            name: {"dtype": entry["dtype"], "shape": entry["shape"]}
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError):
        return otherwise
