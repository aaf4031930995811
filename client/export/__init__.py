"""Folders that a person takes away for other programs."""
