"""Ways to spoil an input: bytes, JSON and TOML by their structure, tables, safetensors."""

from __future__ import annotations

import json
import re
import struct
from random import Random
from typing import Any

# Values that programs have stumbled over.
NUMBERS = (0, -1, 1, 2**31, 2**53, -(2**63), 2**64, 10**400, 1e308, 1e39, -0.0, 0.5, float("nan"))
TEXTS = (
    *("", " ", "\0", "\ufeff", "\ud800", "e\u0301"),
    *("../../etc/passwd", "/etc/passwd", "base/../../x"),
    *("x" * 5000, "{text}{0}{x.__class__}%s", "NaN", "\u202e\u0661\u0662"),
    *("\r\n;,\t\"'", "=cmd()"),
)
_NESTED = "nested "
BYTES = (
    *(b"\0", b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b'"', b"[" * 3000, b"{", b"}", b",", b"\\"),
)


def hostile(rng: Random) -> Any:
    """A value of any kind, as JSON may hold it."""
    return rng.choice(
        (
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice((None, True, False)),
            list,
            dict,
            lambda: [rng.choice(TEXTS)] * rng.choice((1, 3, 2000)),
            lambda: {rng.choice(TEXTS): rng.choice(NUMBERS)},
            lambda: nested(rng.choice((20, 90, 3000))),
        )
    )()


def nested(depth: int) -> Any:
    """Lists in lists; `dump` writes those that json itself does not."""
    if depth > 100:
        return f"{_NESTED}{depth}"
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def spoil_bytes(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    """One to three changes of any bytes; `other` is a file to take a piece from."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 1, 4, 16, 256)))
        before, inside, after = data[:at], data[at:to], data[to:]
        match rng.randrange(10):
            case 0:
                data = before + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1 | 2:
                flipped = bytes(byte ^ 1 << rng.randrange(8) for byte in inside[:1])
                data = before + flipped + data[at + 1 :]
            case 3:
                data = before
            case 4:
                data = data[at:]
            case 5:
                data = before + after
            case 6:
                data = before + inside + inside + after
            case 7:
                data = before + rng.choice(BYTES) + data[at:]
            case 8:
                data = before + other[: rng.randrange(len(other) + 1)] + after
            case _:
                data += rng.choice((b"\0", b"\n", data[-64:], bytes(4096)))
    return data


def spoil_value(value: Any, rng: Random) -> Any:
    """One place of a JSON value changed: another kind, a missing or extra key, an odd name."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice((*TEXTS[:9], "extra", key + " "))] = changed[key]
            case 2:
                changed[rng.choice(list(value))] = value[key]
            case _:
                changed[key] = spoil_value(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[: at + 1] * 2 + value[at + 1 :]
            case _:
                return [*value[:at], spoil_value(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(TEXTS) + value[at:]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 2**32))
    return hostile(rng)


def dump(value: Any, rng: Random) -> bytes:
    """JSON in one of its many spellings, lone surrogates and NaN included."""
    separators = rng.choice(((",", ":"), (", ", ": ")))
    text = json.dumps(value, separators=separators, ensure_ascii=rng.random() < 0.5)
    text = re.sub(f'"{_NESTED}([0-9]+)"', lambda m: "[" * int(m[1]) + "]" * int(m[1]), text)
    return text.encode("utf-8", "surrogatepass")


def spoil_json(data: bytes, rng: Random) -> bytes:
    """A JSON document changed by its structure; by its bytes if it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return spoil_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = spoil_value(value, rng)
    return dump(value, rng)


def toml_literal(rng: Random) -> str:
    """A value in TOML; not always a valid one."""
    numbers = ("0", "-1", "9" * 400, "1e400", "nan", "-inf", "0x7f", "true", "1979-05-27")
    number = rng.choice(numbers)
    text = json.dumps(rng.choice(TEXTS[:-1])).replace("\\ud800", "\\ufffd")
    shapes = ("[]", "{}", "[[1], [2]]", "[" * 500 + "]" * 500, "{a = {b = 1}}", '"""', "'")
    shape = rng.choice(shapes)
    return rng.choice((number, text, shape, f"[{text}, {text}]", f"[{number}]"))


def spoil_toml(data: bytes, rng: Random) -> bytes:
    """A TOML document changed by lines and values."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        match rng.randrange(7):
            case 0:
                del lines[at]
                lines = lines or [""]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                name = rng.choice(("x", "name", "a.b", '""'))
                lines.insert(at, f"{name} = {toml_literal(rng)}")
            case 3:
                lines.insert(at, rng.choice(("[x]", "[[history]]", "[" * 300, "[labels]", "]")))
            case _ if equals:
                lines[at] = f"{key}= {toml_literal(rng)}"
            case _:
                return spoil_bytes("\n".join(lines).encode(), rng)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "X", 7)


def spoil_tensors(data: bytes, rng: Random) -> bytes:
    """A safetensors file whose header or numbers lie."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = dict(header[name])
    match rng.randrange(10):
        case 0:
            entry["dtype"] = rng.choice(DTYPES)
            header[name] = entry
        case 1:
            entry["shape"] = rng.choice(([], [0], [-1], [1, *entry["shape"]], [2**62, 4], [2**40]))
            header[name] = entry
        case 2:
            entry["data_offsets"] = rng.choice(([0, 0], [8, 4], [0, 2**62], [-8, 8], [0], "x"))
            header[name] = entry
        case 3:
            del header[name]
        case 4:
            header[rng.choice(("x", "../x", "", "experts.x.A", *names))] = header.pop(name)
        case 5:
            header["__metadata__"] = rng.choice(({"a": 1}, {"a": "b" * 99_999}, [], "x"))
        case 6 | 7:
            pattern = rng.choice((b"\xff", b"\x7f", b"\0", b"\x80"))
            start, end = header[name]["data_offsets"]
            body[start:end] = pattern * (end - start)
        case 8:
            header = spoil_value(header, rng)
        case _:
            return spoil_bytes(data, rng)
    raw = dump(header, rng)
    stated = len(raw) + rng.choice((0,) * 9 + (1,))
    return struct.pack("<Q", stated) + raw + bytes(body)
