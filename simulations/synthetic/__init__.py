"""Populations whose truth is known, and a base small enough for a demo."""

__all__ = ["films", "people", "tiny_base"]
