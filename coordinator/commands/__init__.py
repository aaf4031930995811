"""Commands of `proper-coordinator`, one subject a file."""

__all__ = ["consent", "keys", "options", "release", "root"]
