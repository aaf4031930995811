"""Where a base's folder comes from, in its `source.json`.

    format          "proper-base/1"
    name            of the folder when it was made
    gguf_file, gguf_sha256, packed_as, parameters, chat
    base, license, origin, package, package_sha256, where they are known

No loader of models reads a file of this name, and a release does not carry it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.files import read_followed

SOURCE = "source.json"
FORMAT = "proper-base/1"
_MAX_BYTES = 1 << 16
Facts = Mapping[str, Any]


def source_of(folder: Path) -> Facts | None:
    """What a folder's `source.json` says; None where there is none or it is no such file."""
    try:
        data = read_followed(folder / SOURCE, limit_bytes=_MAX_BYTES)
        found: Facts = parse_object(data)
    except (OSError, DocumentError):
        return None
    return found if found.get("format") == FORMAT else None


def is_made_from(folder: Path, sha256: str, *, chat: bool = True) -> bool:
    """Whether a folder was made from the GGUF of this hash, with its chat template or without."""
    source = source_of(folder) or {}
    return (source.get("gguf_sha256"), source.get("chat")) == (sha256, chat)
