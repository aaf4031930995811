"""Where the base lies that a person names: a folder, or one that is made from a file or fetched by name."""

from __future__ import annotations

import os
from pathlib import Path

from client.bases.adding import add_base, is_wheel
from client.bases.known import KNOWN, is_known
from proper_model.base.folder import base_folder
from proper_model.checks import is_gguf
from proper_model.errors import BaseModelError
from proper_model.progress import Progress, silent
from proper_model.storage.files import expanded


def folder_of(what: str, progress: Progress = silent) -> Path:
    """The folder of a base: as it is, made as `add_base` makes it, or of the hub's local cache.

    Args:
        what: a folder, FILE.gguf, a known base's name or wheel, or a hub id that was downloaded before.

    Raises BaseModelError where there is no such base, else as `add_base`. Nothing is asked of a hub.
    """
    try:
        path = expanded(what)
        is_there, is_folder = path.exists(), path.is_dir()
    except OSError:  # a folder nobody may enter, too long a name
        raise _unreadable(what) from None
    if what.strip() and is_folder:
        if not os.access(path, os.R_OK | os.X_OK):
            raise _unreadable(what)
        return path
    if is_known(what) or is_gguf(what) or is_wheel(what):
        return add_base(what, progress=progress).folder
    expected = "expected a folder with config.json, *.safetensors and a tokenizer, or FILE.gguf"
    if what.strip() and is_there:
        raise BaseModelError(
            f"base '{what}': a file of another kind, {expected}",
            hint="convert it to one of these; what a folder is, says docs/bases.md",
        )
    try:
        return base_folder(what)
    except BaseModelError:
        raise BaseModelError(
            f"base '{what}': nothing there, {expected}",
            hint=f"check the path; by name there is {', '.join(KNOWN)}; a model of the hub is downloaded "
            "first: hf download ORG/MODEL",
        ) from None


def _unreadable(what: str) -> BaseModelError:
    return BaseModelError(
        f"base '{what}': cannot be looked at, expected a folder or file that you may read",
        hint="check the path and its permissions",
    )
