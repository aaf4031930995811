"""Defaults of `proper`: what may be set, the file they stand in, and which value counts."""

__all__ = ["file", "names", "sources"]
