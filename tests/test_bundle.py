"""The I/O-free core of bundles: what was built is accepted, everything else is refused."""

from __future__ import annotations

import dataclasses
import json
import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from bundle_samples import (
    CREATED,
    KEY,
    LIFETIME,
    NOW,
    ROOT,
    flips,
    floats,
    format_bundle,
    format_files,
    raw_tensor_file,
    sample_info,
    shared_tensors,
    tensor_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import outcome
from safetensors.numpy import save

from proper_model.bundle.content_policy import check_file
from proper_model.bundle.limits import Limits
from proper_model.bundle.manifest import BaseReference, check_file_names, content_id
from proper_model.bundle.safe_tensors import check_finite, read_int64, read_table
from proper_model.bundle.signatures import MANIFEST_DOMAIN, sign
from proper_model.bundle.signed_bundle import build_bundle, verify_bundle
from proper_model.bundle.signed_time import format_time, parse_time
from proper_model.errors import (
    BundleError,
    BundleExpiredError,
    BundleFormatError,
    BundleIntegrityError,
    BundleLimitError,
    BundleSignatureError,
    ConfigError,
)
from proper_model.storage import canonical

BUNDLE = format_bundle()


def verify(bundle=BUNDLE, *, root=ROOT, now=NOW, **changes):
    """A bundle verified, with some of its bytes replaced."""
    given = dataclasses.replace(bundle, **changes)
    return verify_bundle(given.manifest_bytes, given.signature_bytes, given.files, root, now=now)


def test_round_trip():
    bundle = verify()
    assert dict(bundle.files) == format_files()
    assert (bundle.version, bundle.bundle_id) == (1, BUNDLE.bundle_id)
    assert bundle.bundle_id == content_id(BUNDLE.manifest_bytes)
    assert bundle.manifest.created_at == CREATED
    assert bundle.manifest.base_reference is None


def test_building_is_deterministic_whatever_the_order():
    backwards = dict(reversed(format_files().items()))
    assert format_bundle(files=backwards).all_files() == BUNDLE.all_files()


def test_manifest_is_canonical_and_holds_the_tensor_table():
    value = canonical.decode(BUNDLE.manifest_bytes, where="x")
    entry = value["files"]["shared.safetensors"]["tensors"]["prototypes"]
    assert entry == {"dtype": "F32", "shape": [2, 1, 2]}
    assert value["files"]["task.toml"]["tensors"] is None


def test_a_reader_is_asked_for_each_file_once_with_its_size():
    asked = []

    def reader(name, size):
        asked.append((name, size))
        return BUNDLE.files[name]

    verify(files=reader)
    assert asked == [(name, len(data)) for name, data in sorted(BUNDLE.files.items())]


def test_nothing_is_read_of_a_bundle_that_is_refused_by_its_manifest():
    def reader(name, size):
        raise AssertionError("a file was read")

    with pytest.raises(BundleExpiredError):
        verify(files=reader, now=CREATED + LIFETIME)


def test_hub_reference_comes_back():
    base = BaseReference("some/base", "0123abcd", {"model.safetensors": "0" * 64})
    files = {n: d for n, d in format_files().items() if not n.startswith("base/")}
    name = "base_model.model.layers.0.q_proj.lora_A.weight"
    files["adapters/population/adapter_model.safetensors"] = tensor_file(
        {name: ("F32", (1,), floats(1))}
    )
    assert verify(format_bundle(files=files, base=base)).manifest.base_reference == base


# --- every altered byte ----------------------------------------------------------------------


def altered(data: bytes):
    """Every bit flipped, every cut, and some growth: more than nine changes a byte."""
    yield from flips(data)
    yield from (data[:length] for length in range(len(data)))
    yield from (data + byte for byte in (b"\0", b"\n", b" ", b"}", data))
    yield b"\x00" + data


@pytest.mark.parametrize(
    ("part", "errors"),
    [
        ("manifest_bytes", BundleSignatureError),
        ("signature_bytes", (BundleSignatureError, BundleFormatError)),
    ],
)
def test_every_change_of_manifest_and_signatures_is_refused(part, errors):
    for changed in altered(getattr(BUNDLE, part)):
        with pytest.raises(errors):
            verify(**{part: changed})


def test_every_change_of_a_file_is_refused():
    manifest = verify().manifest
    for name, data in BUNDLE.files.items():
        check_file(manifest, name, data)
        for changed in altered(data):
            with pytest.raises(BundleIntegrityError):
                check_file(manifest, name, changed)


@given(st.data())
@settings(max_examples=100)
def test_any_change_of_a_signed_manifest_is_accepted_whole_or_refused(data):
    """Whatever a trusted key signs, verification ends in a bundle or a BundleError."""
    value = json.loads(BUNDLE.manifest_bytes)
    junk = st.none() | st.booleans() | st.integers(-5, 2**53 - 1) | st.text("a/.", max_size=3)
    junk = junk | st.lists(junk, max_size=2) | st.dictionaries(st.text("ab", max_size=2), junk)
    target = value
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        if isinstance(target[key], dict) and target[key] and data.draw(st.booleans()):
            target = target[key]
            continue
        target[key] = data.draw(junk)
        break
    manifest = canonical.encode(value)
    try:
        signatures = sign(MANIFEST_DOMAIN, manifest, [KEY])
        bundle = verify(manifest_bytes=manifest, signature_bytes=signatures)
    except BundleError:
        return
    assert bundle.manifest.to_bytes() == manifest


# --- limits, times, names --------------------------------------------------------------------


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Limits)])
def test_each_limit_is_inclusive_and_enforced_when_building_and_verifying(field):
    tensors = [t for n, d in BUNDLE.files.items() if n.endswith("rs") for t in table_of(d).values()]
    sizes = [len(data) for data in BUNDLE.files.values()]
    headers = [int.from_bytes(d[:8], "little") for n, d in BUNDLE.files.items() if n.endswith("rs")]
    exact = {
        "manifest_bytes": len(BUNDLE.manifest_bytes),
        "signature_bytes": len(BUNDLE.signature_bytes),
        "files": len(sizes),
        "file_bytes": max(sizes),
        "total_bytes": sum(sizes),
        "header_bytes": max(headers),
        "tensors": len(tensors),
        "elements": sum(t.elements for t in tensors),
    }[field]

    signed = (BUNDLE.manifest_bytes, BUNDLE.signature_bytes, BUNDLE.files, ROOT)
    content = (format_files(), sample_info(), [KEY])
    enough, less = (Limits(**{field: value}) for value in (exact, exact - 1))
    verify_bundle(*signed, now=NOW, limits=enough)
    build_bundle(*content, limits=enough)
    with pytest.raises(BundleLimitError):
        verify_bundle(*signed, now=NOW, limits=less)
    with pytest.raises(BundleLimitError):
        build_bundle(*content, limits=less)


def test_times_have_one_form():
    moment = datetime(2026, 3, 1, 23, 30, 1, 999, tzinfo=UTC)
    assert format_time(moment) == "2026-03-01T23:30:01Z"
    assert parse_time("2026-03-01T23:30:01Z") == moment.replace(microsecond=0)
    for text in ("2026-3-1T23:30:01Z", "2026-03-01T23:30:01+00:00", "2026-03-01", "canary"):
        with pytest.raises(ValueError, match="YYYY") as caught:
            parse_time(text)
        assert text not in str(caught.value)
    with pytest.raises(ConfigError):
        format_time(datetime(2026, 1, 1))  # noqa: DTZ001


def test_file_names_of_real_releases_are_accepted():
    check_file_names(
        [
            "base/model-00001-of-00003.safetensors",
            "base/model.safetensors.index.json",
            "tokenizer/tokenizer.model",
            "tokenizer/chat_template.jinja",
            "tokenizer/merges.txt",
            "task.toml",
        ]
    )


def test_messages_never_repeat_a_foreign_name():
    canary = "canary\x1b[31m"
    files = {**format_files(), f"{canary}.json": b"{}"}
    for action in (lambda: format_bundle(files=files), lambda: verify(files=files)):
        with pytest.raises(BundleFormatError) as caught:
            action()
        assert "canary" not in caught.value.message


def test_the_publisher_cannot_sign_what_a_device_refuses():
    for members in ((12, 9), (0, 10)):
        with pytest.raises(BundleFormatError, match="averages"):
            format_bundle(files=format_files(members))
    with pytest.raises(BundleFormatError, match="expires"):
        format_bundle(expires=CREATED)
    with pytest.raises(BundleSignatureError):
        format_bundle(keys=())


def test_no_prototype_at_all_is_fine():
    empty = shared_tensors(())
    assert empty["prototypes"][1] == (0, 1, 2)
    files = {**format_files(), "shared.safetensors": tensor_file(empty)}
    assert verify(format_bundle(files=files)).version == 1


# --- tensor files ----------------------------------------------------------------------------


def table_of(data: bytes, **limits: int):
    return read_table(data, Limits(**limits), where="x")


def test_table_agrees_with_the_safetensors_library():
    arrays = {
        "a.b": np.arange(6, dtype="<f4").reshape(2, 3),
        "c": np.array([7, 8], dtype="<i8"),
        "d": np.zeros((0, 4), dtype="<f2"),
        "e": np.array(True),
    }
    data = save(arrays, metadata={"format": "pt"})
    table = table_of(data)
    assert {name: spec.shape for name, spec in table.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, spec in table.items():
        assert data[spec.begin : spec.end] == arrays[name].tobytes()
    assert read_int64(data, table["c"]) == [7, 8]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_finite_check_agrees_with_numpy(dtype):
    """Edge values of each format; bfloat16 is the upper half of a float32."""
    values = np.array([0.0, -0.0, 1.0, 6e4, -6e4, 1e-7, np.nan, np.inf, -np.inf])
    numpy_dtype = {"F16": "<f2", "BF16": "<f4", "F32": "<f4", "F64": "<f8"}[dtype]
    for value in values:
        raw = np.array([1.0, value], dtype=numpy_dtype).tobytes()
        if dtype == "BF16":
            raw = raw[2:4] + raw[6:8]
        data = tensor_file({"t": (dtype, (2,), raw)})
        error = None if np.isfinite(value) else BundleFormatError
        with outcome(error, match="tensor t"):
            check_finite(data, table_of(data), where="x")


def test_finite_check_reaches_the_last_chunk(monkeypatch):
    monkeypatch.setattr("proper_model.bundle.safe_tensors._CHUNK_BYTES", 8)
    data = tensor_file({"t": ("F32", (5,), floats(1, 1, 1, 1, float("inf")))})
    with pytest.raises(BundleFormatError):
        check_finite(data, table_of(data), where="x")


def header(name: str = "t", **fields: object) -> str:
    """Of a file with one tensor, some of its fields replaced."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **fields}
    return json.dumps({name: entry}, separators=(",", ":"))


ONE = header()


def test_the_header_that_is_spoilt_is_good():
    assert table_of(raw_tensor_file(ONE.encode(), floats(1)))["t"].shape == (1,)


@pytest.mark.parametrize(
    "header",
    [
        *("[]", " {}", "{}x", "{}", '{"t":1}', '{"t":{"dtype":"F32","shape":[1]}}'),
        *(header(dtype=dtype) for dtype in ("f32", ["F32"])),
        *(header(shape=shape) for shape in ([-1], [1.0], [True], 1, [1] * 9, [1 << 32] * 2)),
        *(header(data_offsets=offsets) for offsets in ([4, 0], [0, 4, 4])),
        *(header(name) for name in ("../t", "", "a" * 300)),
        header(x=1),
        ONE[:-1] + "," + ONE[1:],
        '{"__metadata__":{"a":1},' + ONE[1:],
        '{"__metadata__":[],' + ONE[1:],
    ],
)
def test_malformed_headers(header):
    with pytest.raises(BundleFormatError):
        table_of(raw_tensor_file(header.encode(), floats(1)))


def test_header_length_is_checked_before_it_is_parsed():
    data = struct.pack("<Q", 2**63) + b"{}"
    with pytest.raises(BundleLimitError):
        table_of(data)
    with pytest.raises(BundleLimitError):
        table_of(raw_tensor_file(b"{" * 100, b""), header_bytes=99)


@given(st.binary(max_size=120))
@settings(max_examples=200)
def test_any_bytes_as_tensor_file_give_a_table_or_an_error(body):
    for data in (body, struct.pack("<Q", len(body)) + body, raw_tensor_file(b"{}", body)):
        try:
            table = table_of(data)
        except BundleError:
            continue
        assert sum(spec.end - spec.begin for spec in table.values()) <= len(data)
