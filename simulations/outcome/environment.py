"""Which machine and which code made a result."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from proper_model.errors import ReportError
from proper_model.federation.machine import HARDWARE_FILE, facts
from simulations.outcome.results import Hardware

SOURCE = Path(__file__).resolve().parents[2]


def hardware() -> Hardware:
    """Processor, memory, accelerator and versions of this machine."""
    return Hardware.model_validate(facts())


def trained_on(folders: Iterable[Path]) -> Hardware | None:
    """Where the runs in `folders` were trained, by their coordinators' notes; None without any.

    A run that went on elsewhere, or folds on several machines, name all of them. Raises
    ReportError if a note is damaged.
    """
    known: list[Hardware] = []
    for path in (folder / HARDWARE_FILE for folder in folders):
        if path.is_file():
            try:
                known += [Hardware.model_validate(entry) for entry in json.loads(path.read_text())]
            except (ValueError, TypeError):  # pydantic's error is a ValueError
                raise ReportError(f"{path}: expected a list of machines") from None
    if not known:
        return None
    merged: dict[str, object] = {}
    for name in Hardware.model_fields:
        values = dict.fromkeys(value for k in known if (value := getattr(k, name)) is not None)
        numbers = [value for value in values if isinstance(value, int)]
        merged[name] = max(numbers) if numbers else ", ".join(values) or None
    return Hardware.model_validate(merged)


def commit(source: Path = SOURCE) -> str:
    """`<hash>` or `<hash>-dirty` in a checkout, else `version <x>` of the installed package."""
    if (source / ".git").exists() and shutil.which("git"):
        head = _git(source, "rev-parse", "HEAD")
        if head:
            changed = _git(source, "status", "--porcelain", "--untracked-files=no")
            return head + ("-dirty" if changed else "")
    for owner in importlib.metadata.packages_distributions().get("simulations", []):
        return f"version {importlib.metadata.version(owner)}"
    return "unknown"


def _git(source: Path, *arguments: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(source), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
