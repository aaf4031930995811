"""The settings as a type: what a file, or the environment, may say together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _whole_path(value: object) -> Path:
    """A path that names the same wherever a command is run."""
    if not isinstance(value, str | Path):
        raise ValueError("no text")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("no home folder is known of that user") from None
    if not path.is_absolute() or "\0" in str(value):
        raise ValueError("not a whole path")
    return path


Place = Annotated[Path, BeforeValidator(_whole_path)]


class Settings(BaseModel):
    """What is set; None: nothing is said. Names are those of `client.settings.names`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Place | None = None
    passphrase_file: Place | None = None
    key_file: Place | None = None
    unlock: Literal["auto", "keyring", "ask"] | None = None
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    base_weights: Literal["full", "8bit", "4bit"] | None = None
    recompute: bool | None = None
    max_items: Annotated[int, Field(ge=1)] | None = None
    lenient: bool | None = None
    date_order: Literal["dmy", "mdy"] | None = None

    @model_validator(mode="after")
    def _one_way_to_open(self) -> Self:
        files = [
            name for name in ("passphrase_file", "key_file") if getattr(self, name) is not None
        ]
        if len(files) > 1:
            raise ValueError("passphrase_file and key_file")
        if files and self.unlock in ("keyring", "ask"):
            raise ValueError(f"{files[0]} and unlock")
        return self

    def said(self) -> dict[str, object]:
        """Name to value of what is set."""
        return {name: value for name, value in self if value is not None}
