"""The engine against a strong rival on a GPU: `python -m benchmarks.gpu`.

It needs torch, transformers, typer and rich, and none of the other things that PROPER installs, so
that a bare machine with a GPU can run it. No file of the room imports torch for its name alone.
"""

__all__ = ["document", "race", "variants"]
