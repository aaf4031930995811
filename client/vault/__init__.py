"""One person's private state, encrypted on the disk."""

__all__ = ["backup", "damage", "generations", "opening", "passphrases", "secrets", "working_files"]
