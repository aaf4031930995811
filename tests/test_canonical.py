"""Canonical JSON: one byte form, and nothing else is read."""

from __future__ import annotations

import contextlib
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proper_model.errors import BundleFormatError
from proper_model.storage.canonical import MAX_DEPTH, MAX_INTEGER, decode, encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_known_form():
    value = {"b": [1, -2, None, True], "a": {"é": '\n\x01"/', "Z": ""}, "": {}}
    expected = '{"":{},"a":{"Z":"","é":"\\n\\u0001\\"/"},"b":[1,-2,null,true]}'
    assert encode(value) == expected.encode()


@given(VALUES)
@settings(max_examples=150)
def test_round_trip_and_agreement_with_the_standard_reader(value):
    data = encode(value)
    assert decode(data, where="x") == value
    assert json.loads(data) == value


@given(VALUES, st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=200)
def test_a_changed_byte_is_refused_or_another_value(value, position, bit):
    data = bytearray(encode(value))
    data[position % len(data)] ^= 1 << bit
    try:
        other = decode(bytes(data), where="x")
    except BundleFormatError:
        return
    assert encode(other) == bytes(data)
    assert (other, type(other)) != (value, type(value))


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_give_a_value_or_a_format_error(data):
    with contextlib.suppress(BundleFormatError):
        assert encode(decode(data, where="x")) == data


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" 1", b"1 ", b"1\n", b"1\x00", b"[1,]", b"'a'", b'{"a": 1}'),
        *(b"01", b"-0", b"1.0", b"1e2", b"NaN", b"-Infinity", b"9007199254740992", b"9" * 5000),
        *(b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}'),
        *(b'"\\u0061"', b'"\\/"', b'"\\u001F"', b'"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"'),
        *(b'"e\xcc\x81"', b'\xef\xbb\xbf"a"'),
        *(b"[" * 50_000, b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_other_forms_are_refused(data):
    with pytest.raises(BundleFormatError):
        decode(data, where="x")


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), {1: 2}, {"a": {2}}, MAX_INTEGER + 1, "\ud800", "e\u0301", b"a"]
)
def test_values_without_a_form_are_refused(value):
    with pytest.raises(BundleFormatError):
        encode(value)


def test_deepest_allowed_nesting():
    value: list = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert decode(encode(value), where="x") == value
    with pytest.raises(BundleFormatError, match="nested"):
        encode([value])


def test_messages_do_not_repeat_the_document():
    for data in (b'{"canary": tru}', b'{"canary":1,"canary":2}', b'"canary e\xcc\x81"'):
        with pytest.raises(BundleFormatError) as caught:
            decode(data, where="file.json")
        assert "canary" not in caught.value.message
        assert caught.value.message.startswith("file.json: ")
