"""The committed roots and words: each is accepted, or refused with exactly the error it names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from proper_model import errors
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.signed_time import parse_time
from proper_model.bundle.trusted_root import TrustedRoot, rotate

VECTORS = Path(__file__).parent / "vectors"
INDEX = VECTORS / "trust" / "index.json"
CASES = json.loads(INDEX.read_text("utf-8"))


def judge(case: dict) -> None:
    if case["kind"] == "root":
        TrustedRoot.from_bytes(case["root"].encode())
        return
    current = TrustedRoot.from_bytes(case["current"].encode())
    if case["kind"] == "rotation":
        rotate(current, case["root"].encode(), case["signatures"].encode())
    else:
        parse_latest(case["latest"].encode()).verify(current, parse_time(case["now"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['name']}")
def test_vector(case):
    found = "ok"
    try:
        judge(case)
    except errors.BundleError as error:
        found = type(error).__name__
    assert found == case["expect"]


def test_generator_reproduces_the_committed_vectors(tmp_path):
    path = VECTORS / "make_trust_vectors.py"
    spec = importlib.util.spec_from_file_location("make_trust_vectors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_vectors(tmp_path)
    assert (tmp_path / "index.json").read_bytes() == INDEX.read_bytes()
