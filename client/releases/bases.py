"""Where bases that releases refer to lie on this machine: HOME/bases.json, `ID@REVISION` -> folder.

A folder is remembered only after all its files had the hashes that a signed manifest names, and is
checked again whenever it is loaded: a tampered base can store what it is fine-tuned on
(docs/security.md 1, "privacy backdoors"). Source: docs/bundle-format.md 6.3.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from proper_model.base.outside_config import MAX_CONFIG_BYTES
from proper_model.bundle.file_names import CONFIG, may_be_read
from proper_model.bundle.manifest import BaseReference
from proper_model.errors import (
    BaseModelError,
    BundleForeignError,
    BundleFormatError,
    ConfigError,
    StateError,
)
from proper_model.storage import canonical
from proper_model.storage.files import (
    open_regular,
    read_followed,
    read_regular,
    storage_errors,
    write_atomic,
)

if TYPE_CHECKING:
    from client.home import Home

_MAX_BYTES = 1 << 20


def base_of(home: Home, reference: BaseReference) -> str:
    """The folder to load this base from; its content is not looked at.

    Raises BaseModelError if the base is not on this machine, StateError if bases.json is damaged.
    """
    known = _read(home).get(base_name(reference))
    if known is not None and Path(known).is_dir():
        return known
    return str(_cached(reference, reference.hub_id))


def settle_base(home: Home, reference: BaseReference, named: str | None) -> Path:
    """Find the base, check every file of it, and remember its folder.

    `named` is a folder or hub id that a person gave; without one the place known before counts, or
    the hub's local cache.

    Raises as `check_base_files`; StorageError if bases.json cannot be written.
    """
    folder = check_base_files(home, reference, named)
    remember_base(home, reference, folder)
    return folder


def remember_base(home: Home, reference: BaseReference, folder: Path) -> None:
    """Write down where a base lies whose files are known to have the hashes of `reference`.

    Raises ConfigError for a folder whose name cannot be written, StateError if bases.json is damaged,
    StorageError if it cannot be written.
    """
    known, name = _read(home), base_name(reference)
    if known.get(name) != str(folder):
        try:
            data = canonical.encode({**known, name: str(folder)})
        except BundleFormatError:
            raise ConfigError(
                "base: the name of its folder cannot be written down (not Unicode in form C)",
                hint="give the folder another name, or a link to it with another name",
            ) from None
        with storage_errors(home.bases_file):
            write_atomic(home.bases_file, data)


def check_base_files(home: Home, reference: BaseReference, named: str | None = None) -> Path:
    """The folder of the base, every file of which has the hash that the release names.

    Raises BaseModelError if it is not on this machine, saying how to get it, BundleForeignError if
    a file is missing, different or too many, StateError if bases.json is damaged.
    """
    folder = _cached(reference, named) if named is not None else Path(base_of(home, reference))
    verify_base_files(reference, folder)
    return folder.absolute()


def _cached(reference: BaseReference, name: str) -> Path:
    from proper_model.base.folder import base_folder

    try:
        return base_folder(name, reference.revision)
    except BaseModelError:
        raise BaseModelError(
            f"base {reference.hub_id} at revision {reference.revision} is not on this machine",
            hint=f"hf download {reference.hub_id} --revision {reference.revision} --local-dir "
            "FOLDER, or get the folder from the publisher if it is on no hub; then "
            "`proper bundle add` again with --base FOLDER. Where the release is your own: proper start "
            "again, with the folder's new place",
        ) from None


def _read(home: Home) -> dict[str, str]:
    try:
        data = read_regular(home.bases_file, limit_bytes=_MAX_BYTES)
        value = canonical.decode(data, where=home.bases_file.name)
    except FileNotFoundError:
        return {}
    except (OSError, BundleFormatError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise StateError(
            f"{home.bases_file.name}: damaged, expected what `proper bundle add` wrote",
            hint="remove it, then repeat `proper bundle add` with --base FOLDER",
        )
    return value


def base_name(reference: BaseReference | None) -> str:
    """`ID@REVISION`, or `embedded` for a base that the release brings."""
    return "embedded" if reference is None else f"{reference.hub_id}@{reference.revision}"


def verify_base_files(reference: BaseReference, folder: Path) -> None:
    """Hash every file the release names; links are followed, because hub caches consist of them.

    Raises BundleForeignError for a file that is missing or different, or that a model loader would
    read but the release does not name.
    """
    for name, expected in sorted(reference.files.items()):
        try:
            with open_regular(folder / name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(reference, name, error) from None
        if found != expected:
            raise other_file(reference, name)
    check_listing(reference, folder)


def check_listing(reference: BaseReference, folder: Path) -> None:
    """Raise BundleForeignError unless the folder holds the files named and no other model file."""
    for name in sorted(reference.files):
        try:
            open_regular(folder / name).close()
        except OSError as error:
            raise _unreadable(reference, name, error) from None
    extra = sum(
        may_be_read(path.name) and path.name not in reference.files
        for path in folder.iterdir()
        if path.is_file()
    )
    if extra:
        raise BundleForeignError(
            f"base {reference.hub_id}: {extra} more model files than the release names",
            hint=_hint(reference),
        )


def read_config(reference: BaseReference, folder: Path) -> bytes:
    """config.json of the base; what is returned has the signed hash. Raises BundleForeignError."""
    try:
        data = read_followed(folder / CONFIG, limit_bytes=MAX_CONFIG_BYTES)
    except OSError as error:
        raise _unreadable(reference, CONFIG, error) from None
    if hashlib.sha256(data).hexdigest() != reference.files.get(CONFIG):
        raise other_file(reference, CONFIG)
    return data


def other_file(reference: BaseReference, name: str) -> BundleForeignError:
    """The error for a file of another content."""
    return BundleForeignError(
        f"base {reference.hub_id}: {name} is not the file this release was made for",
        hint=_hint(reference),
    )


def _unreadable(reference: BaseReference, name: str, error: OSError) -> BundleForeignError:
    reason = os.strerror(error.errno) if error.errno else "cannot be read"
    return BundleForeignError(f"base {reference.hub_id}: {name}: {reason}", hint=_hint(reference))


def _hint(reference: BaseReference) -> str:
    return f"get {reference.hub_id} at revision {reference.revision} again, into an empty folder"
