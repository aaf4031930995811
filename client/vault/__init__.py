"""One person's private state, encrypted on the disk."""

__all__ = ["backup", "contents", "damage", "opening", "passphrases", "secrets", "working_files"]
