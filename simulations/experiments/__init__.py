"""Experiments: the paper's tables and figures, preference drift, several tasks of one person."""

__all__ = ["command"]
