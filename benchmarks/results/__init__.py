"""What was measured: the schema of every file, and what is shown of them. Needs no torch."""

from benchmarks.results.schema import read_report, read_sources, write_report
from benchmarks.results.tables import machine_notes, shown

__all__ = ["machine_notes", "read_report", "read_sources", "shown", "write_report"]
