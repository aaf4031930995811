"""What a publisher sends: signatures and roots without a key, and any content with a valid one."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.home import Home
from client.person.workspace import Workspace
from client.releases.add import add_bundle
from client.releases.store import installed
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME, BaseReference
from proper_model.bundle.signatures import (
    LATEST_DOMAIN,
    MANIFEST_DOMAIN,
    ROOT_DOMAIN,
    sign,
    signature_fields,
)
from proper_model.bundle.signed_bundle import build_bundle, verify_manifest
from proper_model.bundle.trusted_root import TrustedRoot, rotate
from proper_model.checks.release import check_files
from proper_model.errors import BundleFormatError, ProperError
from proper_model.release.contents import release_to_files
from proper_model.storage import canonical
from proper_model.tasks.records import Query
from tests.bundle_samples import (
    KEY,
    LIFETIME,
    NOW,
    base_files,
    referring_files,
    sample_info,
    tree,
    write_files,
)
from tests.exports import noisy_release
from tests.fuzz.harness import Files, cause_of
from tests.fuzz.mutators import spoil_bytes, spoil_json, spoil_tensors, spoil_toml, spoil_value
from tests.publisher import (
    LATEST_KEY,
    NEW_RELEASE_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    THIEF,
    Publisher,
    bundle,
    roles_root,
    signed_root,
    word,
)

CREATED_NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


@functools.cache
def release_files() -> dict[str, bytes]:
    """A small release that can answer, its experts as small beside the base as trained ones are."""
    release = noisy_release()
    mean = release.shared["mean_embedding"]
    experts = {
        n: t / 8 for n, t in release.shared.items() if n.startswith("experts.") and n.endswith(".B")
    }
    release.shared = {
        **release.shared,
        **experts,
        "mean_embedding_count": torch.tensor(12),
        "prototypes": mean[None].clone(),
        "prototype_counts": torch.tensor([12]),
    }
    return release_to_files(release)


def signed(files: Files, base: BaseReference | None = None) -> dict[str, bytes]:
    info = sample_info(created=CREATED_NOW, expires=CREATED_NOW + LIFETIME, base=base)
    return build_bundle(files, info, [KEY]).all_files()


@functools.cache
def signed_files() -> dict[str, bytes]:
    return signed(release_files())


def publish_sample(folder: Path) -> Path:
    """The sample with its root beside it, as `proper bundle add` takes it."""
    return write_release(folder, signed_files())


@functools.cache
def referring_release() -> dict[str, bytes]:
    """A release that stands on `base_files`."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in base_files().items()}
    files = referring_files("some/base", "abc")
    return signed(files, BaseReference("some/base", "abc", hashes))


def write_release(folder: Path, files: Files) -> Path:
    write_afresh(folder / "bundle", files)
    (folder / "root.json").write_bytes(TrustedRoot.of([KEY]).to_bytes())
    return folder / "bundle"


def write_afresh(folder: Path, files: Files) -> None:
    """A folder with these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder, files)


class TrustTarget:
    """Roots with roles, rotations, manifests and words on the newest release, altered or signed by the
    keys of another role: nothing counts but what enough keys of its own role have signed.
    """

    name = "trust"
    # Document -> where its signatures stand, how they are made, and who may not make them.
    signed = MappingProxyType(
        {
            "manifest.json": ("signatures.json", MANIFEST_DOMAIN, (THIEF, LATEST_KEY, *ROOT_KEYS)),
            "2.root.json": ("2.signatures.json", ROOT_DOMAIN, (THIEF, RELEASE_KEY, ROOT_KEYS[0])),
        }
    )

    def __init__(self, folder: Path) -> None:
        del folder
        released = bundle(1)
        files = released.all_files()
        root, following = roles_root(), roles_root(2, release=(NEW_RELEASE_KEY,))
        new_root, new_signatures = signed_root(following)
        self.good = {
            "root.json": root.to_bytes(),
            "manifest.json": files[MANIFEST_NAME],
            "signatures.json": files[SIGNATURES_NAME],
            "latest.json": word(released, 1, 1),
            "2.root.json": new_root,
            "2.signatures.json": new_signatures,
        }

    def sound(self) -> Files:
        return self.good

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
            case _:  # signed, but by keys that may not
                name = rng.choice((*self.signed, "latest.json"))
                value = json.loads(files[name])
                if name == "latest.json":
                    keys = (THIEF, RELEASE_KEY, *ROOT_KEYS)
                    files[name] = word_by(rng.sample(keys, 2), value["signed"], rng)
                else:
                    beside, domain, keys = self.signed[name]
                    files[name] = canonical_or(spoil_value(value, rng), files[name])
                    by_keys = rng.sample(keys, rng.choice((1, 1, 2)))
                    files[beside] = sign(domain, files[name], by_keys)
        return files

    def judge(self, files: Files) -> str | None:
        root = TrustedRoot.from_bytes(files["root.json"])
        if root.to_bytes() != files["root.json"]:
            return "read a root in another form than its own"
        root.check_current(NOW)
        verify_manifest(files["manifest.json"], files["signatures.json"], root, now=NOW)
        if files["manifest.json"] != self.good["manifest.json"]:
            return "took a manifest that was not signed"
        latest, _ = parse_latest(files["latest.json"]).verify(root, NOW)
        if latest.to_bytes() != parse_latest(self.good["latest.json"]).signed:
            return "took a word on the newest release that was not signed"
        rotate(root, files["2.root.json"], files["2.signatures.json"])
        same = files["2.root.json"] == self.good["2.root.json"]
        return None if same else "took a root that was not signed"


def word_by(keys: Sequence[Ed25519PrivateKey], told: Any, rng: Random) -> bytes:
    """latest.json with another number or anything else changed, signed by these keys."""
    other = {**told, "number": told["number"] + 1}
    changed = canonical_or(rng.choice((other, spoil_value(told, rng))), canonical.encode(other))
    signatures = signature_fields(LATEST_DOMAIN, changed, keys)
    return canonical.encode({"signed": json.loads(changed), "signatures": signatures})


class PublisherTarget:
    """The folder of a publisher whose keys and release are new, altered on its way to a device.

    Taken or refused, the device has the old release or the new one, whole, and the old root or the
    new one; a root that was taken stays where the release after it is refused.
    """

    name = "publisher"

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.fresh = folder / "in", Home(folder / "home"), folder / "fresh"
        publisher = Publisher(folder / "out")
        publisher.publish()
        add_bundle(Home(self.fresh), str(publisher.folder), now=NOW)
        self.before = tree(publisher.folder)
        publisher.place_root(roles_root(2, release=(NEW_RELEASE_KEY,)))
        publisher.release = (NEW_RELEASE_KEY,)
        publisher.publish()
        self.good = tree(publisher.folder)
        roots = (roles_root(), roles_root(2, release=(NEW_RELEASE_KEY,)))
        self.roots = [root.to_bytes() for root in roots]
        versions = (self.good[f"v0000000{n}/{MANIFEST_NAME}"] for n in (1, 2))
        self.releases = [hashlib.sha256(manifest).hexdigest() for manifest in versions]

    def sound(self) -> Files:
        return self.good

    def case(self, rng: Random) -> Files:
        files = dict(self.good)
        for _ in range(rng.choice((1, 1, 2))):
            small = [name for name in files if "/" not in name or not name.startswith("v00000001")]
            name = rng.choice(small)
            match rng.randrange(8):
                case 0:
                    files.pop(name)
                case 1:
                    files[name] = self.before.get(name, b"")
                case 2:
                    files[name] = files[rng.choice(small)]
                case 3:
                    files[name.replace("00000002", "00000003")] = files[name]
                case 4 | 5 if name.endswith(".json"):
                    value = json.loads(self.good.get(name, b"{}"))
                    files[name] = canonical_or(spoil_value(value, rng), b"{}")
                case 6 | 7 if name == "latest.json":
                    told = json.loads(self.good[name])["signed"]
                    files[name] = word_by((THIEF, NEW_RELEASE_KEY), told, rng)
                case _:
                    files[name] = spoil_bytes(files[name], rng, self.before.get(name, b""))
        return files

    def judge(self, files: Files) -> str | None:
        shutil.rmtree(self.home.path, ignore_errors=True)
        shutil.copytree(self.fresh, self.home.path)
        write_afresh(self.folder, files)
        try:
            added = add_bundle(self.home, str(self.folder), now=NOW)
        except ProperError:
            if cause := self._wrong(self.releases):
                return f"refused, and {cause}"
            raise
        if cause := self._wrong([added.bundle.bundle_id]):
            return f"taken, and {cause}"
        words = [parse_latest(one["latest.json"]).signed for one in (self.before, self.good)]
        if parse_latest(files["latest.json"]).signed not in words:
            return "took a word on the newest release that was not signed"
        return None

    def _wrong(self, releases: list[str]) -> str | None:
        """What is not as it should be on the device, which should have one of these releases."""
        if self.home.root_file.read_bytes() not in self.roots:
            return "trusts a root that was not signed"
        found = installed(self.home.path, now=NOW)
        if found is None or found.bundle_id not in set(releases) & set(self.releases):
            return "has no release, or one that was not signed"
        for name in found.manifest.files:
            if (found.path / name).read_bytes() != self.good[f"v{found.version:08d}/{name}"]:
                return "has a release with an altered file"
        return None


def canonical_or(value: Any, otherwise: bytes) -> bytes:
    """Canonical bytes, so that the reader gets past the form; the old ones where there are none."""
    try:
        return canonical.encode(value)
    except (BundleFormatError, RecursionError, ValueError):
        return otherwise


class ReleaseTarget:
    """Any content, signed with the trusted key: what is installed must then answer.

    Of two releases, one with its base and one that refers to a base in a folder.
    """

    name = "release"
    extras = (
        *("base/x.py", "base/model.safetensors.index.json", "x", "base/x.bin"),
        *("base/adapter_config.json", "tokenizer/chat_template.jinja"),
        "adapters/population/adapter_config.json",
    )

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "published", Home(folder / "home")
        self.base = folder / "base"
        write_afresh(self.base, base_files())

    def sound(self) -> Files:
        return signed_files()

    def case(self, rng: Random) -> Files:
        whole = rng.choice((signed_files, signed_files, referring_release))()
        files = {n: d for n, d in whole.items() if n not in (MANIFEST_NAME, SIGNATURES_NAME)}
        manifest = json.loads(whole[MANIFEST_NAME])
        name = rng.choice(list(files))
        match rng.randrange(12):
            case 0:
                del files[name]
            case 1:
                extra = rng.choice(self.extras)
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
        raw = canonical_or(manifest, whole[MANIFEST_NAME])
        return {**files, MANIFEST_NAME: raw, SIGNATURES_NAME: sign(MANIFEST_DOMAIN, raw, [KEY])}

    def judge(self, files: Files) -> str | None:
        shutil.rmtree(self.home.path, ignore_errors=True)
        published = write_release(self.folder, files)
        refers = b'"hub_id"' in files[MANIFEST_NAME]
        add_bundle(self.home, str(published), base=str(self.base) if refers else None)
        try:
            workspace = Workspace(self.home)
            added = workspace.installed()
            release = workspace.load(added)
            content = {n: files[n] for n in added.manifest.files}
            config = base_files()["config.json"] if refers else None
            check_files(content, added.manifest.base_reference, config=config)
            release.model()
            example = release.task.query_example(Query("q", "review: w1 w2", "1"))
            tokens = release.encoder().encode(example).tokens
            logits = release.base(input_ids=torch.tensor([tokens])).logits
        except Exception as error:  # noqa: BLE001 - the finding is that it was installed
            return f"installed, then {cause_of(error)}"
        finite = bool(torch.isfinite(logits).all())
        return None if finite else "installed, and answers are not finite"


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
