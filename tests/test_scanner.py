"""The canary scanner: each form is found where it was put, within bounds, and nothing else is."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from simulations.privacy.egress import scanner as module
from simulations.privacy.egress.canaries import (
    NUMBERS,
    Canary,
    draw,
    draw_numbers,
    in_tensors,
    plant,
    word,
)
from simulations.privacy.egress.scanner import Bounds, Finding, Scanner
from tests.run_folders import make_user

RNG = np.random.default_rng(3)
TEXT = Canary("item text", "anna", text="zqkwodnfiepqmxbvtrla")
OTHER = Canary("user id", "boris", text="plmoknijbuhvygctfxrd")
NUMBER = draw_numbers("tensor", "anna", np.random.default_rng(5))
SCANNER = Scanner([TEXT, OTHER, NUMBER])


def seen(data: bytes, scanner: Scanner = SCANNER) -> list[tuple[str, str]]:
    return [(f.canary, f.form) for f in scanner.scan_bytes(data, "here").findings]


def held(dtype: torch.dtype) -> bytes:
    """By another way than the scanner's: each number packed alone."""
    if dtype is torch.bfloat16:
        wide = torch.tensor(NUMBER.numbers).to(dtype).float().numpy().astype(np.float32)
        return (wide.view(np.uint32) >> 16).astype("<u2").tobytes()
    names = {torch.float64: "<f8", torch.float32: "<f4", torch.float16: "<f2"}
    return np.array(NUMBER.numbers).astype(names[dtype]).tobytes()


RAW_TEXT = TEXT.text.encode()
PLANTED = {
    "utf-8": RAW_TEXT,
    "utf-16-le": TEXT.text.encode("utf-16-le"),
    "utf-16-be": TEXT.text.encode("utf-16-be"),
    "utf-8 hex": RAW_TEXT.hex().encode(),
    "utf-8 HEX": RAW_TEXT.hex().upper().encode(),
    "utf-16-le hex": TEXT.text.encode("utf-16-le").hex().encode(),
    "json-escaped": "".join(f"\\u{ord(c):04x}" for c in TEXT.text).encode(),
    "JSON-escaped": "".join(f"\\u{ord(c):04X}" for c in TEXT.text).encode(),
    "float64": held(torch.float64),
    "float32": held(torch.float32),
    "float16": held(torch.float16),
    "bfloat16": held(torch.bfloat16),
    "float32 hex": held(torch.float32).hex().encode(),
    "float32 decimal": json.dumps(
        torch.tensor(NUMBER.numbers, dtype=torch.float32).tolist()
    ).encode(),
    "float64 decimal": json.dumps(list(NUMBER.numbers)).encode(),
}


@pytest.mark.parametrize("form", PLANTED)
def test_each_form_is_found(form: str) -> None:
    name = NUMBER.name if form.startswith(("float", "bfloat")) else TEXT.name
    found = seen(b"before " + PLANTED[form] + b" behind")
    assert found == [(name, form)]


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("content", [RAW_TEXT, held(torch.float16), held(torch.float32)])
def test_base64_is_found_at_every_alignment(encode, content: bytes, shift: int) -> None:
    """Whatever stands around it within the same encoding."""
    for _ in range(4):
        before, after = RNG.bytes(30 + shift), RNG.bytes(int(RNG.integers(1, 9)))
        assert len(seen(encode(before + content + after))) == 1


def zipped(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a member", data)
    return target.getvalue()


def narrow(data: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=9)
    return packer.compress(data) + packer.flush()


STREAMS = {
    "zlib": zlib.compress,
    "a small window": narrow,
    "unpacked quickly": lambda data: zlib.compress(data, 1),
    "gzip": gzip.compress,
    "zip": zipped,
    "gzip in zlib": lambda data: zlib.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_streams_are_looked_into(kind: str) -> None:
    hidden = b"some words of no importance " * 9 + RAW_TEXT + PLANTED["float32"]
    packed = RNG.bytes(100) + STREAMS[kind](hidden) + RNG.bytes(100)
    assert RAW_TEXT not in packed
    assert {name for name, _ in seen(packed)} == {TEXT.name, NUMBER.name}
    (cut,) = {  # a stream without its end is looked into as far as it goes
        name for name, _ in seen(zlib.compress(RAW_TEXT + os.urandom(2000))[:500])
    }
    assert cut == TEXT.name


def test_a_canary_that_was_never_planted_is_not_found() -> None:
    everything = b" ".join([*PLANTED.values(), *(pack(RAW_TEXT) for pack in STREAMS.values())])
    stranger = Scanner([*draw("nobody", ["a", "b"]).values(), draw_numbers("n", "nobody", RNG)])
    assert seen(everything, stranger) == []
    assert seen(RNG.bytes(1 << 20)) == []
    assert seen(TEXT.text[::-1].encode() + held(torch.float32)[1:-1]) == []
    assert seen(b"") == seen(RAW_TEXT[:-1]) == Scanner([]).scan_bytes(RAW_TEXT, "x").findings == []


@pytest.mark.parametrize("at", [0, 1, 990, 1000, 1013, 1023, 1024, 2047, 5000])
def test_windows_of_a_large_file_miss_nothing_and_count_nothing_twice(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is the place where it was put; windows are a kilobyte here."""
    monkeypatch.setattr(module, "WINDOW_BYTES", 1024)
    data = b"." * at + RAW_TEXT + b"," * 3000 + zlib.compress(RAW_TEXT)
    scan = SCANNER.scan_bytes(data, "here")
    stream = at + len(RAW_TEXT) + 3000
    assert [(f.form, f.offset) for f in scan.findings] == [
        ("utf-8", at),
        (f"utf-8 in zlib at {stream}", 0),
    ]
    assert scan.bytes == len(data)
    at_the_edge = b"." * at + zlib.compress(RAW_TEXT)
    assert [f.form for f in SCANNER.scan_bytes(at_the_edge, "here").findings] == [
        f"utf-8 in zlib at {at}"
    ]


def test_a_stream_that_never_ends_is_left_and_told() -> None:
    bomb = zlib.compress(bytes(1 << 20), 9)
    bounded = Scanner([TEXT], Bounds(stream_bytes=1 << 16, file_bytes=1 << 17))
    scan = bounded.scan_bytes(bomb * 3 + RAW_TEXT, "bomb")
    assert [f.form for f in scan.findings] == ["utf-8"]
    assert scan.incomplete[0] == "bomb: zlib at 0 inflates too far"
    assert len(scan.incomplete) == 3
    within = zlib.compress(b"ab" * 2000 + zlib.compress(b"words " * 50 + RAW_TEXT))
    assert len(seen(within)) == 1
    assert seen(within, Scanner([TEXT], Bounds(depth=1))) == []


def test_a_folder_is_searched_with_names_and_links_and_nothing_is_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "f" / TEXT.text
    folder.mkdir(parents=True)
    (folder / "a.log").write_bytes(b"a private sentence " + RAW_TEXT + b" goes on")
    (folder / f"{OTHER.text}.txt").write_text("nothing")
    (folder / "link").symlink_to(f"/nowhere/{OTHER.text}")
    os.mkfifo(folder / "pipe")  # would wait for ever
    scan = SCANNER.scan_tree(tmp_path / "f")
    assert sorted(scan.findings) == [
        Finding("<item text>", "item text", "anna", "name utf-8", 0),
        Finding("<item text>/<user id>.txt", "user id", "boris", "name utf-8", 0),
        Finding("<item text>/a.log", "item text", "anna", "utf-8", 19),
        Finding("<item text>/link", "user id", "boris", "name utf-8", 9),
    ]
    assert (scan.files, scan.bytes, scan.incomplete) == (2, 54, [])
    told = repr(scan)
    assert not [t for t in (TEXT.text, OTHER.text, "private", "goes on") if t in told]


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / TEXT.text).write_text("x")

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(module, "open_regular", refuse)
    assert SCANNER.scan_tree(tmp_path).incomplete == ["<item text>: Permission denied"]


def test_canaries_are_drawn_anew_and_refused_where_chance_would_find_them() -> None:
    first = draw("anna", ["a", "b"], np.random.default_rng(1))
    assert first == draw("anna", ["a", "b"], np.random.default_rng(1))
    assert len({word() for _ in range(50)} | {c.text for c in first.values()}) == 52
    for wrong in ({"text": "short"}, {}, {"numbers": (0.5,) * NUMBERS}):
        with pytest.raises(ValueError, match="canary x"):
            Canary("x", "y", **wrong)


def test_trained_tensors_give_their_own_numbers() -> None:
    trained = RNG.standard_normal((5, 20)).astype(np.float32)
    half = np.concatenate([np.zeros(64, np.float32), trained.ravel()[:NUMBERS], np.zeros(NUMBERS)])
    tensors = {"A": trained, "zeros": np.zeros((9, 9)), "short": trained[0, :9], "half": half}
    found = in_tensors("anna", tensors)
    assert [c.name for c in found] == ["tensor A", "tensor half"]
    assert {c.owner for c in found} == {"anna"}
    scanner = Scanner(found)
    assert {name for name, _ in seen(trained.tobytes(), scanner)} == {"tensor A", "tensor half"}
    assert seen(np.zeros(1000, np.float32).tobytes(), scanner) == []
    many = {f"t{n}": RNG.standard_normal(NUMBERS) for n in range(100)}
    assert 16 <= len(in_tensors("anna", many, most=32)) <= 32


def test_canaries_are_planted_in_all_of_a_person() -> None:
    user = make_user("anna", ["comedy", "action"])
    own = draw("anna", ["user id", "item id", "item text", "question", "answer"])
    planted = plant(user, own, keep=["tag"])
    assert planted.user_id == own["user id"].text
    for before, item in zip(user.history, planted.history, strict=True):
        assert item.id == before.id + own["item id"].text
        assert item.fields["description"].endswith(" " + own["item text"].text)
        assert item.fields["tag"] == before.fields["tag"]
    for query in planted.queries:
        assert query.input.endswith(own["question"].text)
        assert query.gold.endswith(own["answer"].text)
    assert plant(user, {}) == user
