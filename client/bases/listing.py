"""Which bases are known by name, which lie here, and what one is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.bases.known import KNOWN, PLACE
from proper_model.base.source import source_of

_SAID = ("license", "origin", "package", "gguf_file", "gguf_sha256")  # of source.json


@dataclass(frozen=True)
class BaseRow:
    """A base that is here or could be.

    Attributes:
        folder: where it lies; '' if it is not here.
        parameters, size_bytes: of the folder; of a base that is not here, 0 and what to download.
    """

    name: str
    folder: str
    license: str
    parameters: int
    size_bytes: int


def list_bases(place: Path = PLACE) -> list[BaseRow]:
    """Folders below `place` that `add_base` made, then known bases that are not among them."""
    rows, here = [], set()
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    for folder in folders:
        source = source_of(folder)
        if source is None:
            continue
        here.add(source.get("gguf_sha256"))
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        license_ = str(source.get("license", ""))
        parameters = source.get("parameters")
        count = parameters if isinstance(parameters, int) else 0
        rows.append(BaseRow(folder.name, str(folder), license_, count, size))
    rows += [
        BaseRow(base.name, "", base.license, 0, base.wheel_bytes)
        for base in KNOWN.values()
        if base.gguf_sha256 not in here
    ]
    return rows


def describe_base(name: str) -> dict[str, str | int | bool]:
    """What a base is, after the check that a run begins with.

    Raises BaseModelError if it cannot be used, as `proper_model.checks.check_base`.
    """
    from proper_model.base.folder import weight_files
    from proper_model.checks import check_base
    from proper_model.export import stored_dtype
    from proper_model.settings import StageSettings

    found = check_base(name, StageSettings(name="any"))
    facts: dict[str, str | int | bool] = {
        "base": name,
        "type": str(found.config.model_type),
        "parameters": found.shape.numbers,
        "layers": found.layers,
        "hidden_size": found.hidden,
        "intermediate_size": found.ffn,
        "context_tokens": int(getattr(found.config, "max_position_embeddings", 0)),
        "vocabulary": len(found.tokenizer),
        "chat_template": bool(getattr(found.tokenizer, "chat_template", None)),
        "embedded_in_releases": found.is_embedded,
    }
    if found.folder is not None:
        files = list(weight_files(name, found.folder))
        facts["stored_as"] = str(stored_dtype(files)).removeprefix("torch.")
        facts["weight_bytes"] = sum(path.stat().st_size for path in files)
        source = source_of(found.folder) or {}
        facts |= {key: str(source[key]) for key in _SAID if key in source}
    return facts
