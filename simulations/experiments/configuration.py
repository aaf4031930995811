"""What a benchmark was asked to do, fixed and hashed before any test query is opened for scoring.

`configuration.json` in OUT holds structures, settings, options and a fingerprint of the data, and the
sha256 of all that. The result quotes the hash. A benchmark that goes on in OUT must have the same:
a configuration that was changed after answers were seen would be one that was chosen by them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proper_model.errors import ConfigError
from proper_model.settings import to_mapping
from proper_model.storage.documents import DocumentError, parse_object
from proper_model.storage.files import make_private_folder, read_regular, write_atomic
from proper_model.tasks import users_to_json
from simulations.experiments.benchmark_plan import Plan, Variant
from simulations.setup.sources import Source

FILE = "configuration.json"
MAX_BYTES = 16 << 20
# Where things lie and how fast they go decides nothing; contents are hashed instead of names.
_FREE_OPTIONS = frozenset(
    {
        *("out", "cache", "resume", "threads", "memory_budget", "actors", "users_per_node"),
        *("seed", "arms", "data", "base", "preset", "profile", "task", "template"),
    }
)


def configuration(plan: Plan, sources: Mapping[str, Source]) -> dict[str, Any]:
    """JSON-ready: all that the numbers follow from, but code and machine.

    `sources` are the data by variant and fold.
    """
    return {
        "experiment": plan.experiment,
        "seeds": list(plan.seeds),
        "lengths": list(plan.lengths),
        "pairs": [list(pair) for pair in plan.pairs],
        "variants": {variant.name: _variant(variant) for variant in plan.variants},
        "data": {name: data_fingerprint(source) for name, source in sources.items()},
        "tasks": sorted({source.task.toml_text for source in sources.values()}),
        "templates": sorted({source.task.template for source in sources.values()}),
        "bases": sorted({base_fingerprint(source.base) for source in sources.values()}),
    }


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of a configuration, hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fix(out: Path, content: Mapping[str, Any]) -> str:
    """Write the configuration into OUT, or compare it with the one there; returns the hash.

    Raises ConfigError if OUT holds another configuration, or something else than a benchmark.
    """
    path, sha256 = out / FILE, digest(content)
    if path.is_file():
        try:
            stored = parse_object(read_regular(path, limit_bytes=MAX_BYTES))
        except (DocumentError, OSError):
            raise ConfigError(
                f"{path}: cannot be read; expected what a benchmark was asked to do",
                hint="give a new --out",
            ) from None
        before = stored.get("configuration", {})
        if stored.get("sha256") != sha256 or digest(before) != sha256:
            raise ConfigError(
                f"{out} holds a benchmark of another configuration; it differs in: "
                + ", ".join(_differing(before, content)),
                hint="repeat the options of that one, or give a new --out",
            )
        return sha256
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no benchmark", hint="give a new --out")
    make_private_folder(out)
    text = json.dumps({"sha256": sha256, "configuration": content}, indent=1, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())
    return sha256


def data_fingerprint(source: Source) -> str:
    """sha256 of who takes part with which items and queries, hex."""
    content = hashlib.sha256()
    for users in (source.population.pooled, source.population.test):
        rows = json.dumps(users_to_json(users), sort_keys=True, ensure_ascii=False)
        content.update(rows.encode("utf-8", "surrogatepass") + b"\n")
    return content.hexdigest()


def base_fingerprint(base: str) -> str:
    """sha256 of a base folder's files; a hub id is its own."""
    folder = Path(base)
    if not folder.is_dir():
        return base
    content = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    return content.hexdigest()


def _variant(variant: Variant) -> dict[str, Any]:
    options = {
        field.name: getattr(variant.options, field.name)
        for field in dataclasses.fields(variant.options)
        if field.name not in _FREE_OPTIONS
    }
    return {
        "structure": to_mapping(variant.structure),
        "settings": to_mapping(variant.settings),
        "options": options,
        "arms": list(variant.arms),
        "rivals": list(variant.rivals),
    }


def _differing(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Which parts of two configurations differ; none of one that is damaged."""
    if not isinstance(before, dict):
        return ["everything"]
    found = [name for name in now if json.dumps(before.get(name)) != json.dumps(now[name])]
    return found or ["its hash"]
