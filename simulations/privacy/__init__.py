"""What leaks: canaries in everything that a client sends or writes."""

__all__ = ["canaries", "commands", "scanner"]
