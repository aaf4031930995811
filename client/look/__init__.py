"""The visual language of the local page and the HTML reports: one style sheet, nothing fetched."""

from client.look.styles import stylesheet

__all__ = ["stylesheet"]
