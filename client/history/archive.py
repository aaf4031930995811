"""What to take out of an archive that a site sends: the member that holds a person's items.

Nothing is unpacked; only the archive's list of names is read, and only names that exports are known
to have are told.
"""

from __future__ import annotations

import zipfile
from typing import IO

from client.history.layouts import LAYOUTS

MAX_ARCHIVE_ENTRIES = 1_000_000
PLAIN_HINT = "unpack it and give the file with your items, or export it as CSV"


def archive_hint(handle: IO[bytes]) -> str:
    """Which member of the zip archive at `handle` to unpack, as far as it is known."""
    try:
        if not handle.seekable():
            return PLAIN_HINT
        with zipfile.ZipFile(handle) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()[:MAX_ARCHIVE_ENTRIES]}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return PLAIN_HINT
    found = [
        f"{file} ({layout.name})"
        for layout in LAYOUTS
        for file in layout.files
        if file in names or ("…" in file and any(_is_like(file, name) for name in names))
    ]
    return f"unpack it and give {' or '.join(found)}" if found else PLAIN_HINT


def _is_like(file: str, name: str) -> bool:
    """Whether a name is one that `…` stands for a part of."""
    begin, _, end = file.partition("…")
    return name.startswith(begin) and name.endswith(end)
