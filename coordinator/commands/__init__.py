"""Commands of `proper-coordinator`, one subject a file."""

__all__ = ["consent", "examples", "keys", "options", "release", "root"]
