"""What a command line shows, and how it starts and ends."""

__all__ = ["command_line", "console", "tables", "terminal_text"]
