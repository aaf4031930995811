"""How contenders and bases are measured, each in a process of its own."""

from benchmarks.measuring.processes import in_own_process

__all__ = ["in_own_process"]
