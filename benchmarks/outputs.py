"""Where results go is made sure of before anything is measured, not hours later."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from proper_model.storage.files import storage_errors


def ready_file(path: Path) -> None:
    """Make the folder of a file to come and write there once. Raises StorageError."""
    with storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        _try_folder(path.parent)


def ready_folder(path: Path) -> None:
    """Make a folder and write there once. Raises StorageError."""
    with storage_errors(path):
        _try_folder(path)


def _try_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Permissions alone would not tell of a disk that is full or mounted to be read.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".proper-"):
            pass
    except OSError as error:
        error.filename = str(folder)  # else the name of a file that nobody asked for
        raise
