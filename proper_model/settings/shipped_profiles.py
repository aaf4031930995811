"""Profiles: hyperparameters of all stages as TOML files that a user can start from.

The shipped ones are in `profiles/` of a checkout and, as the same files, in `profile_files/` of
an installed package. A profile says how long and how fast to train; which equations are used is a
preset (`proper_model.settings.presets.PRESETS`). A profile that begins with `extends = "tiny"` is
that shipped one but for what it sets itself, its `name` at least. Source of the values: arXiv 2503.01303, section A.3,
and the comments in each file.
"""

from __future__ import annotations

from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.settings.profile import StageSettings
from proper_model.settings.settings_io import from_mapping
from proper_model.storage.documents import DocumentError, parse_toml

EXTENDS = "extends"
MAX_PROFILE_BYTES = 64 * 1024  # a profile is a page of text; anything larger is another file


def profile_folder() -> Path:
    """The folder of the shipped profiles; its `tasks/` holds the shipped example tasks.

    Raises ConfigError where an installation lost it.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "profile_files", package.parent / "profiles"):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"shipped profiles not found beside {package}",
        hint="install PROPER again, or give the path of a profile file",
    )


def profile_names() -> tuple[str, ...]:
    """Names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in profile_folder().glob("*.toml")))


def load_profile(name_or_path: str | Path) -> StageSettings:
    """Settings of a shipped profile (`tiny`) or of a TOML file (`./mine.toml`).

    A word without a folder or suffix is a shipped name, so that a file in the current folder never
    silently replaces one. Raises ConfigError for an unknown name, an unreadable or malformed file,
    and for any setting `StageSettings` refuses.
    """
    path = _path_of(name_or_path)
    values = _with_extended(path, ())
    try:
        return from_mapping(StageSettings, values, where=path.name)
    except ConfigError as error:
        if error.message.startswith(path.name):
            raise
        # A value that is out of range, or contradicts another: the settings do not know their file.
        raise ConfigError(f"{path.name}: {error.message}", hint=error.hint) from None


def _path_of(name_or_path: str | Path) -> Path:
    given = str(name_or_path)
    if not isinstance(name_or_path, str) or given.endswith(".toml") or "/" in given:
        return Path(given)
    if given not in profile_names():
        raise ConfigError(
            f"unknown profile '{given}'",
            hint="profiles are: " + ", ".join(profile_names()) + "; or give a path ending in .toml",
        )
    return profile_folder() / f"{given}.toml"


def _with_extended(path: Path, extending: tuple[str, ...]) -> dict[str, object]:
    """The file's settings over those of the shipped profile that it extends, table by table.

    `extending`: names on the way here, so that a circle of files ends.
    """
    own = _read(path)
    if EXTENDS not in own:
        return own
    name = own.pop(EXTENDS)
    if not isinstance(name, str) or name not in profile_names():
        raise ConfigError(
            f"profile {path}: extends must name a shipped profile, got {name!r}",
            hint="shipped profiles are: " + ", ".join(profile_names()),
        )
    if name in extending:
        raise ConfigError(f"profile {path}: extends itself by way of '{name}'")
    if own.get("name", name) == name:
        raise ConfigError(
            f"profile {path}: needs a name of its own, not that of the profile it extends",
            hint=f'add a line such as name = "{name}-mine"; results are told apart by it',
        )
    merged = _with_extended(profile_folder() / f"{name}.toml", (*extending, name))
    for key, value in own.items():
        under = merged.get(key)
        tables = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = under | value if tables else value  # type: ignore[operator]
    return merged


def _read(path: Path) -> dict[str, object]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read profile {path}: {error.strerror}",
            hint="check the path, or name a shipped profile such as tiny",
        ) from error
    if len(raw) > MAX_PROFILE_BYTES:
        raise ConfigError(
            f"profile {path} is {len(raw)} bytes, expected at most {MAX_PROFILE_BYTES}"
        )
    try:
        return parse_toml(raw)
    except DocumentError as error:
        raise ConfigError(f"profile {path}: {error}") from None
