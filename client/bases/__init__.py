"""Bases on this machine: out of a package of the package index, or out of a GGUF file."""

__all__ = ["adding", "finding", "known", "listing"]
