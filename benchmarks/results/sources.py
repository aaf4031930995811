"""Benchmark files of any kind that a table or a page can show, read by what they say they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.schema import BenchReport, read_as, unreadable
from benchmarks.schema_memory import MemoryReport
from proper_model.errors import ReportError

Report = BenchReport | MemoryReport
SCHEMAS: dict[str, type[BenchReport | MemoryReport]] = {
    "engine": BenchReport,
    "memory": MemoryReport,
}
SUPPORTED = "supported are: " + ", ".join(f"python -m benchmarks.{kind}" for kind in SCHEMAS)


@dataclass(frozen=True)
class Source:
    """One file and what is in it."""

    name: str
    report: Report


def read_sources(paths: Sequence[Path], say: Callable[[str], None]) -> list[Source]:
    """Read all files; a benchmark of another kind is named to `say` and left out.

    Raises ReportError for a file that is no benchmark at all, and if none is left.
    """
    found = []
    for path in paths:
        kind = kind_of(path)
        if kind in SCHEMAS:
            found.append(Source(path.name, read_as(SCHEMAS[kind], path, kind)))
        else:
            say(f"{path}: left out, a benchmark of kind '{kind}'; {SUPPORTED}")
    if not found:
        raise ReportError("none of the files is a benchmark that can be shown", hint=SUPPORTED)
    return found


def kind_of(path: Path) -> str:
    """What a benchmark's file says it is. Raises ReportError if it says nothing of the sort."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:  # the latter: nested without end
        raise ReportError(f"{path}: not JSON ({type(error).__name__})", hint=SUPPORTED) from error
    kind = document.get("benchmark") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise ReportError(f"{path}: not a benchmark: no text in 'benchmark'", hint=SUPPORTED)
    return kind
