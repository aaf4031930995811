"""What a command line shows, and how it starts and ends."""

__all__ = [
    "command_line", "console", "document", "examples", "session", "tables", "terminal_text",
    "time_left",
]
