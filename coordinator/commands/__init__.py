"""Commands of `proper-coordinator`, one subject a file."""

__all__ = ["consent", "document", "examples", "keys", "options", "release", "root"]
