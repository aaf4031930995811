"""Flower's simulation runtime in one process, with nodes as processes over pipes."""

__all__ = ["actors", "launch"]
