"""Folders that a person takes away for other programs."""

__all__ = ["folder", "formats", "request"]
