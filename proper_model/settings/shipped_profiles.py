"""Profiles: hyperparameters of all stages as TOML files that a user can start from.

The shipped ones are in `profiles/` of a checkout and, as the same files, in `profile_files/` of
an installed package. A profile says how long and how fast to train; which equations are used is a
preset (`proper_model.settings.presets.PRESETS`). Source of the values: arXiv 2503.01303, section
A.3, and the comments in each file.
"""

from __future__ import annotations

from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.settings.profile import StageSettings
from proper_model.settings.settings_io import from_mapping
from proper_model.storage.documents import DocumentError, parse_toml

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
    given = str(name_or_path)
    is_name = isinstance(name_or_path, str) and not given.endswith(".toml") and "/" not in given
    path = profile_folder() / f"{given}.toml" if is_name else Path(given)
    if is_name and given not in profile_names():
        raise ConfigError(
            f"unknown profile '{given}'",
            hint="profiles are: " + ", ".join(profile_names()) + "; or give a path ending in .toml",
        )
    return from_mapping(StageSettings, _read(path), where=path.name)


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
