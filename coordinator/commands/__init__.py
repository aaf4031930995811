"""Commands of `proper-coordinator`, one subject a file."""

__all__ = ["keys", "options", "release", "root"]
