"""The committed bundles, roots and words: each is accepted, or refused with the error its index names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundle_samples import tree, write_files
from outcomes import verdict_on

from client.releases import install as updater
from client.releases.install import install
from proper_model import errors
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.limits import Limits
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME
from proper_model.bundle.signed_bundle import verify_bundle
from proper_model.bundle.signed_time import parse_time
from proper_model.bundle.trusted_root import TrustedRoot, rotate
from tests.vectors import make_bundle_vectors, make_trust_vectors

VECTORS = Path(__file__).parent / "vectors"
FOLDER = VECTORS / "bundle"
CASES = json.loads((FOLDER / "index.json").read_text("utf-8"))["cases"]
ROOT = TrustedRoot.from_bytes((FOLDER / "root.json").read_bytes())
TRUST = VECTORS / "trust" / "index.json"


def case_files(case: dict) -> dict[str, bytes]:
    files = tree(FOLDER / "good")
    files.update({name: (FOLDER / case["name"] / name).read_bytes() for name in case["replace"]})
    return {name: data for name, data in files.items() if name not in case["remove"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_bundle(case):
    files = case_files(case)
    manifest, signatures = files.pop(MANIFEST_NAME), files.pop(SIGNATURES_NAME)

    def verify():
        return verify_bundle(
            manifest,
            signatures,
            files,
            ROOT,
            now=parse_time(case["now"]),
            highest_version=case["highest_version"],
            highest_id=case["highest_id"],
            limits=Limits(**case["limits"]),
        )

    assert verdict_on(verify) == case["expect"], case["note"]


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c["highest_version"]], ids=lambda case: case["name"]
)
def test_a_bundle_as_a_folder(case, tmp_path, monkeypatch):
    # The vectors are about the format; what they hold no device could use.
    monkeypatch.setattr(
        updater, "_check_content", lambda *_: SimpleNamespace(recipe=None, task=None)
    )
    source = write_files(tmp_path / "source", case_files(case))

    def store():
        limits = Limits(**case["limits"])
        return install(tmp_path / "host", source, ROOT, now=parse_time(case["now"]), limits=limits)

    assert verdict_on(store) == case["expect"], case["note"]
    left = [path.name for path in (tmp_path / "host" / "bundles").iterdir() if path.is_dir()]
    assert len(left) == (case["expect"] == "ok")


def test_every_refusal_has_a_vector():
    found = {case["expect"] for case in CASES}
    children = {child.__name__ for child in errors.BundleError.__subclasses__()}
    assert found == children | {"ok"}


@pytest.mark.parametrize(
    "case", json.loads(TRUST.read_text("utf-8")), ids=lambda case: f"{case['kind']}: {case['name']}"
)
def test_a_root_or_a_word(case):
    def judge():
        if case["kind"] == "root":
            return TrustedRoot.from_bytes(case["root"].encode())
        current = TrustedRoot.from_bytes(case["current"].encode())
        if case["kind"] == "rotation":
            return rotate(current, case["root"].encode(), case["signatures"].encode())
        return parse_latest(case["latest"].encode()).verify(current, parse_time(case["now"]))

    assert verdict_on(judge) == case["expect"]


def test_generators_reproduce_the_committed_vectors(tmp_path):
    make_bundle_vectors.write_vectors(tmp_path / "bundle")
    assert tree(tmp_path / "bundle") == tree(FOLDER)
    make_trust_vectors.write_vectors(tmp_path / "trust")
    assert (tmp_path / "trust" / "index.json").read_bytes() == TRUST.read_bytes()
