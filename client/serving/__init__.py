"""`proper serve` below the command line: a completion endpoint and a page for this machine only."""

__all__ = ["person_session", "server", "tokens"]
