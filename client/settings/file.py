"""The file of settings: one TOML, read as a whole or refused, written as a whole or not at all.

It lies in the platform's folder for a program's settings, or where `--config` or PROPER_CONFIG says.
Nobody else may write it, because it names the folder and the key that a command uses. Values are not
repeated in errors: whoever wrote a passphrase there finds it in no log.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_config_path

from client.settings.names import CONFIG_VARIABLE, PATHS, SECRETS, SETTINGS
from proper_model.errors import ConfigError
from proper_model.storage.documents import DocumentError, parse_toml
from proper_model.storage.files import (
    expanded,
    make_private_folder,
    read_followed,
    save_private,
    storage_errors,
)

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from client.settings.model import Settings

FILE_NAME = "config.toml"
MAX_BYTES = 64 << 10
_FILES = ("passphrase_file", "key_file")
_OTHERS_WRITE = 0o022


def settings_file(option: Path | None = None) -> tuple[Path, bool]:
    """Where the file is, and whether somebody named it: by option or variable, or else the platform.

    Raises ConfigError for a name that begins with ~ and leads to no home folder.
    """
    named = option or os.environ.get(CONFIG_VARIABLE)
    if named:
        return expanded(named).absolute(), True
    return user_config_path("proper", appauthor=False) / FILE_NAME, False


def read_settings(path: Path, *, named: bool = False) -> dict[str, Any]:
    """Name to value of what the file says; nothing where there is no file, unless it was `named`.

    Raises ConfigError, StorageError.
    """
    if not is_there(path):
        if not named:
            return {}
        raise ConfigError(
            f"{path}: there is no such file of settings",
            hint="--config and PROPER_CONFIG name one that is there; proper config set makes it",
        )
    return checked(_table(_bytes(path), path), path).said()


def is_there(path: Path) -> bool:
    """Whether there is a file of settings. Raises StorageError where nobody can tell."""
    with storage_errors(path):
        return path.exists()


def typed(name: str, text: str, where: str, mend: str) -> Any:
    """One setting's value as somebody typed it: a switch or number in words, a path from this folder on.

    Raises ConfigError that names `where`, and `mend` as what to do.
    """
    if name in PATHS and text:
        with suppress(RuntimeError):  # ~ of somebody unknown: no whole path, and refused as that
            text = str(Path(text).expanduser().absolute())
    return getattr(checked({name: text}, where, strict=False, mend=mend), name)


def checked(
    table: Mapping[str, Any], where: Path | str, *, strict: bool = True, mend: str = ""
) -> Settings:
    """The table as settings. Raises ConfigError that names place, setting and what was expected.

    Args:
        strict: no text is taken for a number or a switch.
        mend: what to do about a wrong value; else how the file is mended.
    """
    from pydantic import ValidationError

    from client.settings.model import Settings

    for name in table:
        _refuse_secret(name, where)
    try:
        return Settings.model_validate(dict(table), strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if not name:  # the model's own validator: two settings that exclude each other
        pair = str(first["ctx"]["error"])
        raise ConfigError(
            f"{where}: {pair}: both are set, expected one of them",
            hint=f"proper config unset {pair.rpartition(' ')[2]}, or the other one",
        ) from None
    if name not in SETTINGS:
        raise unknown(name, where)
    raise ConfigError(
        f"{where}: {name}: expected {SETTINGS[name].expected}",
        hint=mend or f"mend it with: proper config set {name} VALUE; or proper config unset {name}",
    ) from None


def unknown(name: str, where: Path | str) -> ConfigError:
    """That there is no such setting; says which is meant."""
    near = difflib.get_close_matches(_plain(name).lower(), SETTINGS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    shown = name if name.isidentifier() and len(name) <= 40 else "a name"
    return ConfigError(
        f"{where}: {shown}: no such setting; expected one of {', '.join(SETTINGS)}",
        hint=f"{meant}proper config lists all; proper config unset NAME takes a line out",
    )


def set_value(path: Path, name: str, text: str) -> tuple[str, Any]:
    """Write one setting; what stands beside it, remarks included, stays. Returns its name and value.

    Raises ConfigError, StorageError; the file is then as before.
    """
    name = _known(name, path)
    mend = "nothing was changed; proper config shows what is set"
    value = typed(name, text, "proper config set", mend)
    if name in _FILES and not value.is_file():
        # Not what was typed: it may be the passphrase itself.
        raise ConfigError(
            f"{name}: there is no such file; expected one that holds the secret",
            hint="name the file, not the passphrase; the latter stands in your shell's history otherwise",
        )
    if any("\ud800" <= sign <= "\udfff" for sign in text):  # bytes that are no text
        raise ConfigError(f"{name}: not UTF-8 text; TOML holds nothing else", hint=mend)
    document = _document(path)
    document[name] = str(value) if isinstance(value, Path) else value
    checked(document.unwrap(), path)
    _write(path, document)
    return name, value


def unset(path: Path, name: str) -> bool:
    """Take one line out, also one that no setting has. Returns whether it was there."""
    document = _document(path)
    line = name if name in document else _known(name, path)
    if line not in document:
        return False
    del document[line]
    _write(path, document)
    return True


def _known(name: str, where: Path) -> str:
    """The setting's name, also written as the option is. Raises ConfigError."""
    _refuse_secret(name, where)
    plain = _plain(name)
    if plain not in SETTINGS:
        raise unknown(name, where)
    return plain


def _plain(name: str) -> str:
    """An option's name as the setting's."""
    return name.removeprefix("--").replace("-", "_")


def _refuse_secret(name: str, where: Path | str) -> None:
    if _plain(name).lower() in SECRETS:
        raise ConfigError(
            f"{where}: {name}: a secret is never kept among the settings",
            hint="put it into a file that only you may read and name that: proper config set "
            "passphrase_file FILE; remove it here, and from your shell's history if it was typed",
        )


def _bytes(path: Path) -> bytes:
    with storage_errors(path):
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise ConfigError(
                f"{path}: a folder, expected a file of settings",
                hint=f"name the file itself, for example {path / FILE_NAME}",
            )
        data = read_followed(path, limit_bytes=MAX_BYTES)
    if found.st_mode & _OTHERS_WRITE or found.st_uid not in (0, os.getuid()):
        raise ConfigError(
            f"{path}: other users may write this file, and it names your folder and key",
            hint=f"make it yours alone: chmod 600 {path}",
        )
    return data


def _table(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(data)
    except DocumentError as error:
        raise ConfigError(
            f"{path}: {error}; expected lines such as max_memory = 4",
            hint="mend the file, or move it away and begin anew with proper config set",
        ) from None


def _document(path: Path) -> TOMLDocument:
    """The file as it is written, or an empty one."""
    import tomlkit

    if not is_there(path):
        return tomlkit.document()
    data = _bytes(path)
    _table(data, path)
    return tomlkit.parse(data)


def _write(path: Path, document: TOMLDocument) -> None:
    """0600, whole; a link to the file stays one."""
    target = Path(os.path.realpath(path))  # also of a link that leads to itself
    with storage_errors(target):
        make_private_folder(target.parent)
    save_private(target, document.as_string().encode())
