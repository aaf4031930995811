"""Finds canaries in bytes and files, in every form in which a program is likely to have left them.

A text is looked for in UTF-8, UTF-16 of both byte orders and with every character JSON-escaped; each of
these as it is, in hex (both cases) and in base64 (both alphabets, at all three alignments). Numbers are
looked for as float64, float32, float16 and bfloat16, as they are, in hex and in base64, and the first
one in decimals. Streams of zlib, gzip and zip inside a file are inflated and looked into too, within
bounds.

All forms of all canaries are found in one pass: tables of byte pairs leave the few places where any form
could begin, whatever their number, and there eight bytes, then the whole, are compared. A finding says
where, which canary and which form, and quotes nothing. Source: docs/security.md 2.

Not found: what is encrypted, split between writes, or changed (lower precision than bfloat16, other
words); forms inside two encodings but for those above.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import stat
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from proper_model.storage.files import open_regular
from simulations.privacy.egress.canaries import Canary

KEY = 8  # bytes of a form's beginning that are compared at once
PAIRS = range(0, KEY, 2)
WINDOW_BYTES = 4 << 20
FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
FEWEST_DIGITS = 10  # of a number in decimals, or it would be found by chance

Source = FileIO | BytesIO

# RFC 1950: method 8, any window, no dictionary, check bits right.
_ZLIB = [
    bytes([cmf, flg])
    for cmf in range(0x08, 0x80, 0x10)
    for flg in range(256)
    if (cmf * 256 + flg) % 31 == 0 and not flg & 0x20
]
_GZIP, _ZIP = b"\x1f\x8b\x08", b"PK\x03\x04"
_STREAM = re.compile(b"|".join(re.escape(start) for start in (_GZIP, _ZIP, *_ZLIB)), re.DOTALL)
_ZIP_HEADER = 30  # bytes of a member's header before its name
_BITS = {"zlib": 15, "gzip": 31, "zip": -15}  # zlib's wbits
FIRST_FEED_BYTES, FEED_BYTES = 512, 1 << 16  # most starts are false, and end within the first


@dataclass(frozen=True)
class Bounds:
    """How far streams are inflated, in bytes: one stream, all of a file; and streams in streams."""

    stream_bytes: int = 32 << 20
    file_bytes: int = 256 << 20
    depth: int = 3


@dataclass(frozen=True, order=True)
class Finding:
    """A canary that was found. `place` names a file or record, canaries in it made unreadable.

    `offset` counts bytes from the beginning, in the innermost of the streams that `form` names.
    """

    place: str
    canary: str
    owner: str
    form: str
    offset: int


@dataclass
class Scan:
    """What was found, how much was looked at, and what was not looked at to its end, and why."""

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    incomplete: list[str] = field(default_factory=list)

    def add(self, other: Scan) -> None:
        self.findings += other.findings
        self.incomplete += other.incomplete
        self.files += other.files
        self.bytes += other.bytes


def text_forms(text: str) -> dict[str, bytes]:
    """Every form of a text, by name."""
    escaped = "".join(
        f"\\u{unit:04x}" for unit in np.frombuffer(text.encode("utf-16-le"), "<u2").tolist()
    )
    raw = {
        "utf-8": text.encode(),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "json": json.dumps(text)[1:-1].encode(),
        "json-escaped": escaped.encode(),
        "JSON-escaped": re.sub("[a-f]", lambda m: m[0].upper(), escaped).encode(),
    }
    return _wrapped(raw)


def number_forms(numbers: Sequence[float]) -> dict[str, bytes]:
    """Every form of a run of numbers, by name; those that a format cannot hold are left out."""
    given = torch.tensor(numbers, dtype=torch.float64)
    raw = {}
    for name, dtype in FLOATS.items():
        held = given.to(dtype)
        # Where a format rounds most numbers to the same, others would be taken for these.
        if bool(torch.isfinite(held).all()) and held.unique().numel() >= len(numbers) // 2:
            raw[name] = held.view(torch.uint8).numpy().tobytes()
    forms = _wrapped(raw)
    for name in ("float64", "float32"):
        if name in raw:
            decimal = repr(given[:1].to(FLOATS[name]).double().item())
            if sum(map(str.isdigit, decimal)) >= FEWEST_DIGITS:
                forms[f"{name} decimal"] = decimal.encode()
    return forms


def _wrapped(raw: dict[str, bytes]) -> dict[str, bytes]:
    """Each of the byte strings as it is, in hex and in base64."""
    forms = dict(raw)
    for name, data in raw.items():
        forms[f"{name} hex"] = data.hex().encode()
        forms[f"{name} HEX"] = data.hex().upper().encode()
        for shift in range(3):
            for kind, encode in (
                ("base64", base64.b64encode),
                ("base64url", base64.urlsafe_b64encode),
            ):
                # Characters that share bits with what stands before or behind are unknown.
                first, last = math.ceil(8 * shift / 6), 8 * (shift + len(data)) // 6
                forms[f"{name} {kind}+{shift}"] = encode(bytes(shift) + data)[first:last]
    return forms


class Scanner:
    """Looks for all forms of some canaries. Making one takes milliseconds a canary."""

    def __init__(self, canaries: Iterable[Canary], bounds: Bounds | None = None) -> None:
        self.canaries = tuple(canaries)
        self.bounds = bounds or Bounds()
        whole: dict[bytes, tuple[Canary, str]] = {}
        for canary in self.canaries:
            forms = text_forms(canary.text) if canary.text else number_forms(canary.numbers)
            for form, data in forms.items():
                whole.setdefault(data, (canary, form))
        self.longest = max(map(len, whole), default=KEY)
        self._by_key: dict[int, list[tuple[bytes, Canary, str]]] = defaultdict(list)
        self._pairs = [np.zeros(1 << 16, np.bool_) for _ in PAIRS]
        for data, (canary, form) in whole.items():
            assert len(data) >= KEY
            self._by_key[int.from_bytes(data[:KEY], "little")].append((data, canary, form))
            for table, start in zip(self._pairs, PAIRS, strict=True):
                table[int.from_bytes(data[start : start + 2], "little")] = True
        self._keys = np.array(sorted(self._by_key), np.uint64)

    def scan_bytes(self, data: bytes, place: str) -> Scan:
        """Look through one piece of data, which `place` names in findings."""
        return self.scan_stream(BytesIO(data), place)

    def scan_stream(self, source: Source, place: str) -> Scan:
        """Look through a file that can be read at any place, in bounded memory."""
        one = _OneSource(self, source, self.hidden(place))
        one.look()
        return one.scan

    def scan_tree(self, folder: Path) -> Scan:
        """Look through all files below a folder (or one file), their names, and where links point.

        Links are not followed; pipes and sockets are not opened. What cannot be read, or is gone
        meanwhile, is told as incomplete.
        """
        scan = Scan()
        for path in _below(folder, scan.incomplete):
            place = str(path.relative_to(folder)) if path != folder else path.name
            scan.add(self._named(os.fsencode(path.name), place))
            try:
                kind = path.lstat().st_mode
                if stat.S_ISLNK(kind):
                    scan.add(self._named(os.fsencode(path.readlink()), place))
                elif stat.S_ISREG(kind):
                    with open_regular(path) as file:
                        scan.add(self.scan_stream(file, place))
                    scan.files += 1
            except OSError as error:
                scan.incomplete.append(f"{place}: {os.strerror(error.errno or 0)}")
        scan.incomplete = [self.hidden(told) for told in scan.incomplete]
        return scan

    def hidden(self, place: str) -> str:
        """A name in which every canary is replaced by what it is called."""
        data = os.fsencode(place)
        for start, size, canary, _ in sorted(self.hits(data), key=lambda h: (-h[0], -h[1])):
            data = data[:start] + f"<{canary.name}>".encode() + data[start + size :]
        return os.fsdecode(data)

    def _named(self, name: bytes, place: str) -> Scan:
        hits = self.hits(name)
        hidden = self.hidden(place)
        return Scan([Finding(hidden, c.name, c.owner, f"name {f}", s) for s, _, c, f in hits])

    def hits(self, data: bytes) -> list[tuple[int, int, Canary, str]]:
        """(start, length, canary, form) of every form in `data`."""
        if len(data) < KEY or not self.canaries:
            return []
        found = []
        octets = np.frombuffer(data, np.uint8).astype(np.uint16)
        pairs = (octets[:-1] | octets[1:] << 8).astype(np.uint16, copy=False)
        places = self._candidates(pairs)
        for start in places.tolist():
            for whole, canary, form in self._by_key[
                int.from_bytes(data[start : start + KEY], "little")
            ]:
                if data.startswith(whole, start):
                    found.append((start, len(whole), canary, form))
        return found

    def _candidates(self, pairs: NDArray[np.uint16]) -> NDArray[np.intp]:
        """Where eight bytes begin with which a form begins; `pairs[i]` are bytes i and i + 1."""
        length = len(pairs) - KEY + 2
        places = np.flatnonzero(self._pairs[0][pairs[:length]])
        for table, start in zip(self._pairs[1:], PAIRS[1:], strict=True):
            places = places[table[pairs[places + start]]]
        keys = np.zeros(len(places), np.uint64)
        for start in PAIRS:
            keys |= pairs[places + start].astype(np.uint64) << np.uint64(8 * start)
        return places[np.isin(keys, self._keys)]


def _below(folder: Path, faults: list[str]) -> Iterator[Path]:
    """Everything below a folder in the order of names, links not followed; of a file, itself."""
    if folder.is_symlink() or not folder.is_dir():
        yield folder
        return

    def note(error: OSError) -> None:
        faults.append(f"{error.filename}: {os.strerror(error.errno or 0)}")

    for root, folders, names in os.walk(folder, onerror=note):
        folders.sort()
        yield from (Path(root) / name for name in sorted([*folders, *names]))


class _OneSource:
    """One file being looked through: windows that overlap, then the streams that begin in it."""

    def __init__(self, scanner: Scanner, source: Source, place: str) -> None:
        self.scanner, self.source, self.place = scanner, source, place
        self.scan = Scan()
        self.left = scanner.bounds.file_bytes  # that may still be inflated

    def look(self) -> None:
        starts: dict[int, bytes] = {}
        for offset, window, fresh in self._windows():
            self._note(window, offset, fresh, "")
            first = max(0, fresh - len(_ZIP))  # one that was cut by the end of the window before
            starts |= {offset + m.start(): m[0] for m in _STREAM.finditer(window, first)}
        for offset, start in starts.items():
            self._inflate_at(offset, start)

    def _windows(self) -> Iterator[tuple[int, bytes, int]]:
        """(offset, bytes, how many of them the window before had)."""
        tail, offset = b"", 0
        overlap = self.scanner.longest - 1
        while data := self.source.read(WINDOW_BYTES):
            self.scan.bytes += len(data)
            yield offset, tail + data, len(tail)
            whole = tail + data
            tail = whole[-overlap:]
            offset += len(whole) - len(tail)

    def _note(self, data: bytes, offset: int, fresh: int, streams: str) -> None:
        """Findings in `data`, but for those that end within its first `fresh` bytes."""
        for start, size, canary, form in self.scanner.hits(data):
            if start + size > fresh:
                said = f"{form} in {streams}" if streams else form
                self.scan.findings.append(
                    Finding(self.place, canary.name, canary.owner, said, offset + start)
                )

    def _inflate_at(self, offset: int, start: bytes) -> None:
        if start == _ZIP:
            self.source.seek(offset)
            header = self.source.read(_ZIP_HEADER)
            if len(header) < _ZIP_HEADER or header[8:10] != b"\x08\x00":  # stored: seen already
                return
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(
                header[28:30], "little"
            )
            self._inflate(self.source, offset + _ZIP_HEADER + names, "zip", ())
        else:
            self._inflate(self.source, offset, _kind(start), ())

    def _inflate(self, source: Source, offset: int, kind: str, within: tuple[str, ...]) -> None:
        """Look into the stream that may begin at `offset`; most do not, and end at once."""
        streams = (f"{kind} at {offset}", *within)
        most = min(self.scanner.bounds.stream_bytes, self.left)
        data, whole = _inflated(source, offset, _BITS[kind], most)
        self.left -= len(data)
        if len(data) > most:
            self.scan.incomplete.append(f"{self.place}: {' in '.join(streams)} inflates too far")
        self._note(data, 0, 0, " in ".join(streams))
        if not whole:  # the remains of a false start hold no stream
            return
        inner = [m for m in _STREAM.finditer(data) if m[0] != _ZIP]
        if len(streams) < self.scanner.bounds.depth:
            for match in inner:
                self._inflate(BytesIO(data), match.start(), _kind(match[0]), streams)


def _kind(start: bytes) -> str:
    return "gzip" if start == _GZIP else "zlib"


def _inflated(source: Source, offset: int, bits: int, most: int) -> tuple[bytes, bool]:
    """At most one byte more than `most` of what a stream inflates to, and whether it was whole."""
    inflater = zlib.decompressobj(bits)
    source.seek(offset)
    kept, size = bytearray(), FIRST_FEED_BYTES
    try:
        while not inflater.eof and len(kept) <= most:
            feed = inflater.unconsumed_tail or source.read(size)
            if not feed:
                break
            kept += inflater.decompress(feed, most + 1 - len(kept))
            size = FEED_BYTES
    except zlib.error:
        pass  # what came before is looked at all the same
    return bytes(kept), inflater.eof
