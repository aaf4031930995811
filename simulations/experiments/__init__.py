"""Experiments about one person's device: preference drift, and several tasks of one person."""

__all__ = ["command"]
